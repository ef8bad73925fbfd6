"""The API where telemetry is on.

Counts are memory writes (``counting``, ``memory``); everything else changes the account and is told to the daemon at
once, if that can be done at once. Threads share one lock, which no count of one takes. A signal handler may come in on
the thread that holds it: it then only changes the account, and the interrupted call tells. After a fork the child is a
producer of its own, with memory and a connection of its own from its first call on.
"""

from __future__ import annotations

import atexit
import os
import sys
from time import monotonic

from ..core import counter_layout
from ..core.limits import BUCKET_EDGES_MS, NS_PER_MS, bucket_of
from ..core.wire import MAX_LINE, PROTOCOL, encode
from ..host import paths
from ..host.debug import debug
from . import counter_file, registry, validation
from .channel import Channel
from .counting import HAS_GIL, CellCounter
from .telemetry import Counter, Telemetry
from .unsent_state import UnsentState

try:
    from _thread import RLock  # what threading has
except ImportError:  # another implementation
    from threading import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .joining import Place

DAEMON_STARTS_S = 0.25  # what a start takes, about
START_AGAIN_S = 5.0  # a daemon that dies each time is not started each second
POLL_S = 1.0  # how often calls that are not hot see after the daemon: an application without one never notices
MAX_HASHES = 4096  # marks remembered with their hash
FIRST_EDGE_MS = BUCKET_EDGES_MS[0]
COUNTER_FILE_TAKEN = (
    b'{"counter_file":'  # the daemon's answer to a hello with memory: from then on nobody need be told of counts
)


class Producer(Telemetry):
    def __init__(self, place: Place, sdk: str, start_daemon: Callable[[], None] | None = None) -> None:
        """``start_daemon`` starts one where none runs, and again where it dies; it may raise OSError."""
        self._place = place
        self._sdk = validation.word_or_null(sdk)  # the daemon refuses a null, and the hello stands
        self._start_daemon = start_daemon
        self._may_start_at = 0.0
        self._hashes: dict[str, str] = {}
        self._counters: dict[str, CellCounter] = {}
        self._closed = False
        self._channel = Channel()
        self._account: UnsentState | None = None
        self.forget()
        with self._lock:
            self._tell(self._begin())
        registry.add(self)

    def forget(self) -> None:
        """As one that never counted: at the end, and in a child after a fork, where connection and memory are the
        parent's, and a lock that another thread held stays locked. A child's next call begins.
        """
        self._lock = RLock()
        self._channel.close()  # closed here, not shut down for the parent
        if self._account is not None:
            self._account.memory.close()
        self._account = None
        self._cells: Any = ()  # the shared memory's, for the fast path of requests
        self._rows: dict[str, int] = {}  # by the route's text, its row's first cell
        self._look_at = self._connected_at = 0.0
        self._counter_file_taken = False
        self._telling = False
        self._handing_over: dict[str, Any] | None = None
        for counter in self._counters.values():
            counter.bind((), 0)

    def _begin(self) -> UnsentState:
        """A producer's first call, under the lock: its id, its memory."""
        self._id = self._place.new_producer_id()
        found = counter_file.shared(os.path.dirname(self._place.socket_path)) or counter_file.private()
        found.sign(os.getpid(), self._place.kind, self._place.key, self._place.whose)
        self._account = account = UnsentState(found)
        if self._sdk == "python":
            account.set("python_version", ".".join(map(str, sys.version_info[:3])))
        if found.fd is not None and HAS_GIL:
            self._cells = found.cells
            for field, counter in self._counters.items():
                counter.bind(found.cells, counter_layout.COUNTER_CELLS[field])
            self._count_request = self._counter("request_count").inc
        return account

    # --- the API -------------------------------------------------------------------------------------------------

    def counter(self, field: str) -> Counter:
        try:
            with self._lock:
                if field in counter_layout.COUNTER_CELLS:
                    return self._counter(field)
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("a call failed", error)
        return CellCounter(lambda n: self._do(self._incr, field, n))  # each count of which is a mistake

    def _counter(self, field: str) -> CellCounter:
        """The one counter of a count field: it knows the count."""
        counter = self._counters.get(field)
        if counter is None:
            counter = self._counters[field] = CellCounter(lambda n: self._do(self._incr, field, n))
            if self._cells:
                counter.bind(self._cells, counter_layout.COUNTER_CELLS[field])
        return counter

    def incr(self, field: str, n: int = 1) -> None:
        try:
            if type(n) is int and n == 1 and monotonic() < self._look_at:
                self._counters[field].inc()
                return
        except Exception:  # noqa: BLE001, S110 (not counted before, or no field: whatever that raises)
            pass
        self._do(self._incr, field, n)

    def request(self, route: str, duration_ms: float | None = None) -> None:
        try:
            row, cells = self._rows[route], self._cells
            kind = type(duration_ms)
            # A request of the first bucket, as most are. The others take so long that the slow path is nothing to them.
            if (
                (kind is float or kind is int)
                and 0 <= duration_ms < FIRST_EDGE_MS  # type: ignore[operator] # a number
                and monotonic() < self._look_at
            ):
                took_ns = round(duration_ms * NS_PER_MS)  # type: ignore[operator] # as above
                cells[row + 1] += took_ns  # no call in these two: another thread could come in (see counting)
                cells[row + 2] += 1
                self._count_request()  # last: where a cell is full, the slow path counts the request
                return
        except Exception:  # noqa: BLE001, S110 (a route not seen before, a full cell, or no route: whatever that raises)
            pass
        self._do(self._request, route, duration_ms)

    def set(self, /, **fields: Any) -> None:
        for field, value in fields.items():
            self._do(self._set, field, value)

    def add(self, field: str, *words: str) -> None:
        for word in words:
            self._do(self._add, field, word)

    def mark(self, field: str, *texts: str) -> None:
        for text in texts:
            self._do(self._mark, field, text)

    def event(self, name: str, /, **fields: Any) -> None:
        self._do(self._event, name, fields)

    def close(self, exit_reason: str = "clean") -> None:
        self._look_at = 0.0  # now or never
        self._do(self._part, exit_reason)
        with self._lock:
            self._closed = True
            self.forget()

    def part(self) -> None:
        """The interpreter exits: says goodbye and goes on, as handlers that run after this one may still count."""
        if self._account is not None and self._account.end is None:
            if self._leaves_with_memory(_exit_reason()):
                return
            self._look_at = 0.0  # now or never
            self._do(self._part, _exit_reason())
            with self._lock:
                if self._channel.is_ready():
                    self._channel.close()  # all is said, and what is counted after this is in the memory

    def _leaves_with_memory(self, exit_reason: str) -> bool:
        """The last word is a cell that the daemon reads when the process is gone, also where the socket is full. Where
        all else is said that is enough: a line would wake the daemon to work beside the interpreter, which is still
        taking itself apart.
        """
        try:
            with self._lock:
                account = self._account
                if account is None:
                    return False
                account.memory.cells[counter_layout.END] = counter_layout.ENDS.index(exit_reason)
                if not account.has_said_all or not self._channel.is_ready():
                    return False
                if self._counter_file_taken:
                    self._channel.look()
                else:
                    self._counter_file_taken = COUNTER_FILE_TAKEN in self._channel.receive()
                return self._counter_file_taken and self._channel.is_open
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("no goodbye by memory", error)
            return False

    @property
    def is_connected(self) -> bool:
        return self._channel.is_open

    # --- what each call changes; it raises Mistake before it changes anything for the worse -------------------------

    def _incr(self, account: UnsentState, field: object, n: object) -> None:
        name = validation.name_of(field, "incr")
        self._count(account, name, validation.increment(n, name))

    def _count(self, account: UnsentState, field: str, n: int) -> None:
        cell = counter_layout.COUNTER_CELLS.get(field)
        if cell is None:
            raise validation.Mistake("no such count", {"incr": {field: 1}})
        if self._cells:
            self._counter(field).add(n)
        else:
            account.memory.cells[cell] += n
        if account.memory.fd is None:
            account.owe("total", field)

    def _request(self, account: UnsentState, route: object, duration_ms: object) -> None:
        self._count(account, "request_count", 1)
        if duration_ms is None:
            return
        opaque = self._opaque(validation.text_of(route, {"observe": {"?": []}}))
        took_ms = validation.duration_of(duration_ms)
        cells, row = account.memory.cells, account.memory.row(opaque)
        took_ns, bucket = round(took_ms * NS_PER_MS), row + 2 + bucket_of(took_ms)
        cells[row + 1] += took_ns  # no call in these two, as in request
        cells[bucket] += 1
        if account.memory.fd is None:
            account.owe("histogram", account.memory.route_of(opaque))
        elif self._cells and len(self._rows) < MAX_HASHES:
            self._rows[route] = row  # type: ignore[index] # a text, as it was hashed

    def _set(self, account: UnsentState, field: object, value: object) -> None:
        name = validation.name_of(field, "set")
        account.set(name, validation.scalar(value, {"set": {name: None}}))

    def _add(self, account: UnsentState, field: object, word: object) -> None:
        name = validation.name_of(field, "add")
        account.add(name, validation.word_of(word, {"add": {name: [None]}}))

    def _mark(self, account: UnsentState, field: object, text: object) -> None:
        name = validation.name_of(field, "mark")
        account.mark(name, self._opaque(validation.text_of(text, {"mark": {name: [None]}})))

    def _event(self, account: UnsentState, name: object, fields: dict[str, Any]) -> None:
        said = {field: validation.event_value(value) for field, value in fields.items()}
        account.event(validation.name_of(name, "event"), said)

    def _part(self, account: UnsentState, exit_reason: object) -> None:
        account.part(validation.word_of(exit_reason, {"end": {"exit_reason": None}}))

    def _opaque(self, text: str) -> str:
        """The text's hash, with the session as key: the same text in two sessions is two ids."""
        known = self._hashes.get(text)
        if known is None:
            known = self._place.opaque(text)
            if len(self._hashes) < MAX_HASHES:
                self._hashes[text] = known
        return known

    # --- telling ---------------------------------------------------------------------------------------------------

    def _do(self, change: Callable[..., None], *said: Any) -> None:
        if self._closed:
            return
        try:
            with self._lock:
                if self._closed:  # while we waited for the lock
                    return
                account = self._account or self._begin()
                try:
                    change(account, *said)
                except validation.Mistake as mistake:
                    debug(f"not counted: {mistake}")
                    account.mistake(mistake.frame)
                self._tell(account)
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("a call failed", error)

    def _tell(self, account: UnsentState) -> None:
        """Says what is unsaid, as far as the daemon takes it now. Under the lock."""
        if self._telling:  # a signal handler came in here: its change is in the account, and we say it
            return
        self._telling = True
        try:
            now = monotonic()
            if now >= self._look_at:
                self._look_at = now + POLL_S
                self._look_after_daemon(account)
            may_reconnect = now >= self._connected_at + POLL_S  # else it refuses us, and would each time
            while self._channel.is_ready():
                self._handing_over = None
                frame = account.next_frame()
                if frame is None:
                    return
                self._handing_over = frame
                line = encode(frame)
                if len(line) <= MAX_LINE:  # a longer one would cost the connection, and with it the rest
                    self._channel.send(line)
                if may_reconnect and not self._channel.is_open:  # it died since we looked; this may be our last word
                    may_reconnect = False
                    self._connect(account)
        finally:
            self._telling = False

    def _look_after_daemon(self, account: UnsentState) -> None:
        """Reconnects where the daemon is gone; and tells the counts to one that did not take our memory."""
        if self._counter_file_taken:
            self._channel.look()
        elif self._channel.is_open:
            self._counter_file_taken = COUNTER_FILE_TAKEN in self._channel.receive()
            if not self._counter_file_taken:
                account.owe_counts()
        if not self._channel.is_open:
            self._connect(account)

    def _connect(self, account: UnsentState) -> None:
        # Consent is asked here, as a daemon that is there asks itself.
        is_welcome = False if account.memory.is_retired else self._place.is_welcome()
        if is_welcome is None:  # asked again at the next look
            return
        if not is_welcome:
            debug("the session was reported, or telemetry switched off: this process counts for nothing from here on")
            account.memory.retire()
            self._closed = True
            self.forget()
            return
        lost, self._handing_over = self._handing_over, None
        if lost is not None and "event" in lost:
            account.owe_event(lost)
        account.owe_everything()
        self._counter_file_taken = False
        self._connected_at = monotonic()
        account.memory.look()
        if not self._channel.open(self._place.socket_path) and not self._waits_for_daemon(account):
            return
        account.memory.keep_as(self._memory_path)  # before the daemon can know of it, as it may die before it does
        hello: dict[str, Any] = {"protocol": PROTOCOL, **self._place.membership, "producer": self._id, "sdk": self._sdk}
        if account.memory.fd is None or account.end is not None:  # at the end no answer is waited for
            account.owe_counts()
        if account.memory.fd is None:
            self._channel.send(encode({"hello": hello}))
        else:
            self._channel.send_with_descriptor(
                encode({"hello": {**hello, "counter_file": counter_layout.VERSION}}), account.memory.fd
            )

    @property
    def _memory_path(self) -> str:
        return paths.counter_file_path(self._place.socket_path, self._id)

    def _waits_for_daemon(self, account: UnsentState) -> bool:
        """None listens. One that was killed left its socket, as one that ended in order did not; the next one finds our
        memory by its name, whatever becomes of us meanwhile. Whether it is there by now.
        """
        from ..host import secure_files  # noqa: PLC0415 (where a daemon listens nobody needs it)

        path = self._place.socket_path
        has_died = secure_files.is_own_socket(path)
        if not (has_died or self._start_daemon):
            return False  # nobody says that there will be one, and what we leave behind would stay
        account.memory.keep_as(self._memory_path)
        if self._start_daemon and (has_died or not self._may_start_at):
            now = monotonic()
            if now >= self._may_start_at:
                self._may_start_at = now + START_AGAIN_S
                self._look_at = now + DAEMON_STARTS_S
                try:
                    self._start_daemon()
                except OSError as error:  # out of processes, or of memory: one may come all the same
                    debug("no daemon could be started", error)
        return has_died and self._channel.open(path)


# --- the interpreter's end ------------------------------------------------------------------------------------------


def _exit_reason() -> str:
    """By the exception that the interpreter is leaving for, if it printed one."""
    uncaught = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if uncaught is None:
        return "clean"
    return "sigint" if isinstance(uncaught, KeyboardInterrupt) else "crash"


def _say_goodbye() -> None:
    """At the interpreter's own exit, which SIGKILL, os._exit and exec do not have: those are ends without a word."""
    for producer in registry.alive():
        producer.part()


atexit.register(_say_goodbye)
