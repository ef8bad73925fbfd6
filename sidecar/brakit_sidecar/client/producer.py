"""The API where telemetry is on.

A count is a memory write (see ``counting``). Every other call changes the unsent state, and then sends it if the socket
takes it at once (see ``link``). Threads share one lock, which ``inc()`` without an argument does not take. A signal
handler may run on the thread that holds the lock: then the handler's call only changes the unsent state, and the
interrupted call sends it. After a fork the child's first call gives it a counter file, a producer id and a connection
of its own.
"""

from __future__ import annotations

import atexit
import os
import sys
from threading import RLock
from time import monotonic

from ..core import counter_layout
from ..core.limits import BUCKET_EDGES_MS, NS_PER_MS
from ..host.debug import debug
from . import counter_file, registry, validation
from .counting import CellCounter, Counts
from .link import DaemonStarter, Link
from .telemetry import Counter, Telemetry
from .unsent_state import UnsentState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .place import Place

FIRST_EDGE_MS = BUCKET_EDGES_MS[0]


class Producer(Telemetry):
    """This process as a producer of a session."""

    def __init__(self, place: Place, sdk: str, start_daemon: Callable[[], None] | None = None) -> None:
        """Connect if a daemon listens. ``start_daemon`` starts one if none does; it may raise OSError."""
        self._place = place
        self._sdk = validation.word_or_null(sdk)  # the daemon refuses a null, and accepts the rest of the hello
        self._starter = None if start_daemon is None else DaemonStarter(start_daemon)
        self._closed = False
        self._link: Link | None = None  # None before the first call, after a fork and at the end
        self._counts = Counts(self._incr_slowly)
        self._counters, self._rows = self._counts.counters, self._counts.rows  # here they are one step nearer
        self.reset()
        with self._lock:
            self._flush(self._begin())
        registry.add(self)

    def reset(self) -> None:
        """Return to the state before the first call, at the end and in a child process after a fork.

        In a child, the connection and the counter file are the parent's. A lock that another thread of the parent held
        would stay locked, so the child gets a new one.
        """
        self._lock = RLock()
        if self._link is not None:
            self._link.close()
        self._link = None
        self._look_at = 0.0  # the link's; before that time the fast path need not check for the daemon
        self._cells: Any = ()
        self._counts.unbind()

    def _begin(self) -> Link:
        """Make this process' counter file, producer id and link. Needs the lock."""
        place = self._place
        found = counter_file.shared(os.path.dirname(place.socket_path)) or counter_file.private()
        found.sign(os.getpid(), place)
        unsent = UnsentState(found)
        if self._sdk == "python":
            unsent.set("python_version", ".".join(map(str, sys.version_info[:3])))
        self._link = link = Link(place, self._sdk, unsent, self._starter)
        self._counts.bind(found)
        if self._counts.cells:
            self._count_request = self._counts.counter("request_count").inc
            self._cells = self._counts.cells
        return link

    # --- the API -------------------------------------------------------------------------------------------------

    def counter(self, field: str) -> Counter:
        try:
            with self._lock:
                if field in counter_layout.COUNTER_CELLS:
                    return self._counts.counter(field)
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("a call failed", error)
        return CellCounter(lambda n: self._incr_slowly(field, n))  # an unknown field: each of its counts is a mistake

    def incr(self, field: str, n: int = 1) -> None:
        try:
            if type(n) is int and n == 1 and monotonic() < self._look_at:
                self._counters[field].inc()
                return
        except Exception:  # noqa: BLE001, S110 (the field was not counted before, or is unknown, or is of any type)
            pass
        self._incr_slowly(field, n)

    def request(self, route: str, duration_ms: float | None = None) -> None:
        try:
            row, cells = self._rows[route], self._cells
            kind = type(duration_ms)
            # Most requests are in the first bucket. The others take so long that the slow path costs them nothing.
            if (
                (kind is float or kind is int)
                and 0 <= duration_ms < FIRST_EDGE_MS  # type: ignore[operator] # a number
                and monotonic() < self._look_at
            ):
                took_ns = round(duration_ms * NS_PER_MS)  # type: ignore[operator] # a number
                # Race: another thread can run only at a call (see counting), and there is none in these two lines.
                cells[row + 1] += took_ns
                cells[row + 2] += 1
                self._count_request()  # last, because the slow path counts the request if a cell is full
                return
        except Exception:  # noqa: BLE001, S110 (a new route, a full cell, or a route of any type)
            pass
        self._do(_request, self._counts, self._place, route, duration_ms)

    def set(self, /, **fields: Any) -> None:
        for field, value in fields.items():
            self._do(_set, field, value)

    def add(self, field: str, *words: str) -> None:
        for word in words:
            self._do(_add, field, word)

    def mark(self, field: str, *texts: str) -> None:
        for text in texts:
            self._do(_mark, self._place, field, text)

    def event(self, name: str, /, **fields: Any) -> None:
        self._do(_event, name, fields)

    def close(self, exit_reason: str = "clean") -> None:
        with self._lock:
            if self._link is not None:
                self._link.look_at = 0.0  # check for the daemon now, because this is the last call
        self._do(_end, exit_reason)
        with self._lock:
            self._closed = True
            self.reset()

    def finish(self) -> None:
        """Report the exit reason when the interpreter exits. Handlers that run later may still count.

        The counter file has a cell for the exit reason, and the daemon reads it after the process has exited, even if
        the socket is full. If the daemon has everything else, that cell is enough: a line would make the daemon work
        on the same processors on which the interpreter still tears itself down.
        """
        link = self._link
        if link is None or link.unsent.end is not None:
            return
        exit_reason = _exit_reason()
        try:
            with self._lock:
                link.unsent.counter_file.cells[counter_layout.END] = counter_layout.ENDS.index(exit_reason)
                if link.needs_no_goodbye():
                    return
                link.look_at = 0.0  # check for the daemon now, because this may be the last call
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("cannot report the exit reason by the counter file", error)
        self._do(_end, exit_reason)
        with self._lock:
            link.disconnect_if_sent()

    @property
    def is_connected(self) -> bool:
        """Return whether there is a connection to a daemon."""
        return self._link is not None and self._link.is_connected

    # --- the slow path -------------------------------------------------------------------------------------------

    def _incr_slowly(self, field: object, n: object) -> None:
        self._do(_incr, self._counts, field, n)

    def _do(self, change: Callable[..., None], *arguments: Any) -> None:
        """Apply one change to the unsent state and flush it. A mistake of the caller is counted. Never raises."""
        if self._closed:
            return
        try:
            with self._lock:
                if self._closed:  # Race: another thread closed the producer while this one waited for the lock
                    return
                link = self._link or self._begin()
                try:
                    change(link.unsent, *arguments)
                except validation.Mistake as mistake:
                    debug(f"not counted: {mistake}")
                    link.unsent.mistake(mistake.frame)
                self._flush(link)
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("a call failed", error)

    def _flush(self, link: Link) -> None:
        """Send what is unsent. Needs the lock."""
        self._look_at = link.flush()
        if link.is_over:
            self._closed = True
            self.reset()


# --- what each call changes; a function raises Mistake before it changes anything for the worse ---------------------


def _incr(unsent: UnsentState, counts: Counts, field: object, n: object) -> None:
    name = validation.name_of(field, "incr")
    count = validation.increment(n, name)
    if name not in counter_layout.COUNTER_CELLS:
        raise validation.Mistake("no such count", {"incr": {name: 1}})
    counts.add(unsent, name, count)


def _request(unsent: UnsentState, counts: Counts, place: Place, route: object, duration_ms: object) -> None:
    counts.add(unsent, "request_count", 1)
    if duration_ms is None:
        return
    text = validation.text_of(route, {"observe": {"?": []}})
    opaque_id = place.opaque(text)
    counts.observe(unsent, text, opaque_id, validation.duration_of(duration_ms))


def _set(unsent: UnsentState, field: object, value: object) -> None:
    name = validation.name_of(field, "set")
    unsent.set(name, validation.scalar(value, {"set": {name: None}}))


def _add(unsent: UnsentState, field: object, word: object) -> None:
    name = validation.name_of(field, "add")
    unsent.add(name, validation.word_of(word, {"add": {name: [None]}}))


def _mark(unsent: UnsentState, place: Place, field: object, text: object) -> None:
    name = validation.name_of(field, "mark")
    unsent.mark(name, place.opaque(validation.text_of(text, {"mark": {name: [None]}})))


def _event(unsent: UnsentState, name: object, fields: dict[str, Any]) -> None:
    values = {field: validation.event_value(value) for field, value in fields.items()}
    unsent.event(validation.name_of(name, "event"), values)


def _end(unsent: UnsentState, exit_reason: object) -> None:
    unsent.finish(validation.word_of(exit_reason, {"end": {"exit_reason": None}}))


# --- the interpreter's exit -----------------------------------------------------------------------------------------


def _exit_reason() -> str:
    """Return the exit reason, judged by the uncaught exception that the interpreter printed."""
    uncaught = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if uncaught is None:
        return "clean"
    return "sigint" if isinstance(uncaught, KeyboardInterrupt) else "crash"


def _say_goodbye() -> None:
    """Report the exit. Does not run at SIGKILL, os._exit or exec, so those count as a crash."""
    for producer in registry.alive():
        producer.finish()


atexit.register(_say_goodbye)
