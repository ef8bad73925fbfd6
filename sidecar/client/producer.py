"""The API where telemetry is on. Each call changes the account and tells what is new, if that can be done at once.

Threads share one lock, held for a few microseconds. A signal handler may come in on the thread that holds it: it then
only changes the account, and the interrupted call tells. After a fork the child is a producer of its own.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

from sidecar.client.account import Account
from sidecar.client.channel import Channel
from sidecar.client.telemetry import Counter, Telemetry
from sidecar.core.domains import admit_duration, admit_increment
from sidecar.core.wire import PROTOCOL, encode
from sidecar.host.debug import debug

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sidecar.client.joining import Place

RECONNECT_S = 1.0  # at most once a second, so that an application without a daemon never notices
MAX_HASHES = 4096  # routes remembered with their hash
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_TEXT = 64  # no word of any vocabulary is as long

_producers: weakref.WeakSet[Producer] = weakref.WeakSet()


class Producer(Telemetry):
    def __init__(self, place: Place, sdk: str) -> None:
        self._place = place
        self._sdk = sdk
        self._hashes: dict[str, str] = {}
        self._closed = False
        self._begin()
        _producers.add(self)
        with self._lock:
            self._tell()

    def _begin(self) -> None:
        """As a new producer: at first, and in a child after a fork (a lock held by another thread stays behind)."""
        self._id = self._place.new_producer_id()
        self._lock = threading.RLock()
        self._account = Account()
        self._channel = Channel()
        self._next_attempt = 0.0
        self._telling = False
        self._handing_over: dict[str, Any] | None = None
        if self._sdk == "python":
            self._account.set("python_version", ".".join(map(str, sys.version_info[:3])))

    # --- the API -------------------------------------------------------------------------------------------------

    def counter(self, field: str) -> Counter:
        return _Counting(self, field)

    def incr(self, field: str, n: int = 1) -> None:
        self._do(self._incr, field, n)

    def request(self, route: str, duration_ms: float | None = None) -> None:
        self._do(self._request, route, duration_ms)

    def set(self, **fields: Any) -> None:
        for field, value in fields.items():
            self._do(self._set, field, value)

    def add(self, field: str, *words: str) -> None:
        for word in words:
            self._do(self._add, field, word)

    def mark(self, field: str, *texts: str) -> None:
        for text in texts:
            self._do(self._mark, field, text)

    def event(self, name: str, **fields: Any) -> None:
        self._do(self._event, name, fields)

    def close(self, exit_reason: str = "clean") -> None:
        self._do(self._part, exit_reason)
        with self._lock:
            self._closed = True
            self._channel.close()

    def part(self, exit_reason: str) -> None:
        """Says goodbye, and goes on: handlers that run later at the interpreter's exit may still count."""
        if self._account.end is None:
            self._do(self._part, exit_reason)

    @property
    def is_connected(self) -> bool:
        return self._channel.is_open

    # --- what each call changes: it raises _Mistake before it changes anything for the worse ---------------------

    def _incr(self, field: object, n: object) -> None:
        self._account.incr(_name(field, "incr"), _increment(n, field))

    def _request(self, route: object, duration_ms: object) -> None:
        self._account.incr("request_count", 1)
        if duration_ms is not None:
            self._account.observe(self._opaque(route, {"observe": {"?": []}}), _duration(duration_ms))

    def _set(self, field: object, value: object) -> None:
        name = _name(field, "set")
        self._account.set(name, _scalar(value, {"set": {name: None}}))

    def _add(self, field: object, word: object) -> None:
        name = _name(field, "add")
        self._account.add(name, _word(word, {"add": {name: [None]}}))

    def _mark(self, field: object, text: object) -> None:
        name = _name(field, "mark")
        self._account.mark(name, self._opaque(text, {"mark": {name: [None]}}))

    def _event(self, name: object, fields: dict[str, Any]) -> None:
        self._account.event(_name(name, "event"), {field: _event_value(value) for field, value in fields.items()})

    def _part(self, exit_reason: object) -> None:
        self._account.part(_word(exit_reason, {"end": {"exit_reason": None}}))

    # --- telling ---------------------------------------------------------------------------------------------------

    def _do(self, change: Callable[..., None], *said: Any) -> None:
        if self._closed:
            return
        try:
            with self._lock:
                try:
                    change(*said)
                except _Mistake as mistake:
                    debug(f"not counted: {mistake}")
                    self._account.mistake(mistake.frame)
                self._tell()
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("a call failed", error)

    def _tell(self) -> None:
        """Says what is unsaid, as far as the daemon takes it now. Under the lock."""
        if self._telling:  # a signal handler came in here: its change is in the account, and we say it
            return
        self._telling = True
        try:
            if not self._channel.is_open and not self._connect():
                return
            while self._channel.is_ready():
                self._handing_over = None
                frame = self._account.unsaid()
                if frame is None:
                    return
                self._handing_over = frame
                self._channel.send(encode(frame))
        finally:
            self._telling = False

    def _connect(self) -> bool:
        now = time.monotonic()
        if now < self._next_attempt:
            return False
        self._next_attempt = now + RECONNECT_S
        lost, self._handing_over = self._handing_over, None
        if lost is not None and "event" in lost:
            self._account.unsay_event(lost)
        self._account.say_again()
        if not self._channel.open(self._place.socket_path):
            return False
        hello = {"protocol": PROTOCOL, **self._place.membership, "producer": self._id, "sdk": self._sdk}
        self._channel.send(encode({"hello": hello}))
        return True

    def _opaque(self, text: object, refusable: dict[str, Any]) -> str:
        """The text's hash, with the session as key: the same text in two sessions is two ids."""
        if not isinstance(text, str):
            raise _Mistake("a route or mark is a text", refusable)
        known = self._hashes.get(text)
        if known is None:
            known = self._place.opaque(text)
            if len(self._hashes) < MAX_HASHES:
                self._hashes[text] = known
        return known


class _Counting(Counter):
    __slots__ = ("_field", "_producer")

    def __init__(self, producer: Producer, field: str) -> None:
        self._producer = producer
        self._field = field

    def inc(self, n: int = 1) -> None:
        self._producer.incr(self._field, n)


# --- what a caller may have got wrong ----------------------------------------------------------------------------


class _Mistake(Exception):
    """A call that says nothing countable. ``frame`` has none of its text, and the daemon refuses it for its reason:
    that is how the mistake is counted where ``status`` shows it.
    """

    def __init__(self, what: str, frame: dict[str, Any]) -> None:
        super().__init__(what)
        self.frame = frame


def _name(name: object, key: str) -> str:
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise _Mistake("no such field or event", {key: {"name": "?"} if key == "event" else {"?": None}})


def _increment(n: object, field: object) -> int:
    count = admit_increment(n)
    if count is not None:
        return count
    raise _Mistake("counts are whole numbers, 1 to 2^53-1", {"incr": {field: None}})


def _duration(duration_ms: object) -> float:
    admitted = admit_duration(duration_ms)
    if admitted is not None:
        return admitted
    raise _Mistake("a duration is a number of ms, 0 to a day", {"observe": {"0" * 16: [None]}})


def _scalar(value: object, refusable: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise _Mistake("a field is a text, a number or a truth value", refusable)


def _word(word: object, refusable: dict[str, Any]) -> str:
    if isinstance(word, str):
        return word[:_MAX_TEXT]
    raise _Mistake("a word is a text", refusable)


def _event_value(value: object) -> Any:
    """A list of words, or a scalar; anything else becomes what the daemon refuses."""
    if isinstance(value, (list, tuple)):
        return [word[:_MAX_TEXT] if isinstance(word, str) else None for word in value]
    try:
        return _scalar(value, {})
    except _Mistake:
        return [None]


# --- the process around us ------------------------------------------------------------------------------------------


def _after_fork_in_child() -> None:
    for producer in list(_producers):
        inherited = producer._channel  # noqa: SLF001 (this module's own class)
        producer._begin()  # noqa: SLF001
        inherited.close()  # the parent's connection is the parent's: closed here, not shut down


def _say_goodbye() -> None:
    """At the interpreter's own exit, which SIGKILL, os._exit and exec do not have: those are ends without a word."""
    crashed = hasattr(sys, "last_exc") or hasattr(sys, "last_type")
    for producer in list(_producers):
        producer.part("crash" if crashed else "clean")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_say_goodbye)
