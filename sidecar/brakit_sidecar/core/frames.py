"""A frame is a parsed line whose parts were checked against the schema.

A producer's text reaches the daemon's state only through this file. ``parse`` never raises. It turns the good parts of
a line into values of the schema. For a wrong part, it keeps only the reason of the refusal.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import orjson

from . import domains, limits, rules
from .counter_layout import NOT_BELIEVED
from .destination import NOWHERE
from .refusal import Refusal
from .schema import JOURNEY, SESSION_FIELDS, EventSpec, Field, said_in_event
from .wire import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
UNKNOWN_DESTINATION = "unknown"  # not a digest, so it differs from every destination
_OPAQUE_ID = re.compile(r"[0-9a-f]{16}")


class Hello(NamedTuple):
    """The first line of a connection. It names the producer, and the session that the producer joins."""

    session: str | None
    group: str | None
    producer: str | None
    sdk: str
    is_owner: bool
    counter_file: int | None = None  # the layout version of the file in which the producer counts
    destination: str | None = None  # the digest of the destination in the producer's environment; None if not named
    stamp: int | None = None  # of the config as the producer read it


class Occurred(NamedTuple):
    """A journey event and the fields that were reported with it."""

    event: EventSpec
    fields: dict[str, Any]


class Frame:
    """The good parts of one line, in the order in which they apply, and the reasons why its wrong parts are refused."""

    __slots__ = (
        "ask", "durations", "end", "events", "hello", "increments", "marks", "members", "refused", "rows", "scalars",
        "totals",
    )  # fmt: skip

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.increments: list[tuple[str, int]] = []
        self.totals: list[tuple[str, int]] = []
        self.scalars: list[tuple[str, Any]] = []
        self.members: list[tuple[str, str]] = []
        self.marks: list[tuple[str, str]] = []
        self.durations: list[tuple[str, float]] = []
        self.rows: list[tuple[str, rules.Row]] = []
        self.events: list[Occurred] = []
        self.end: str | None = None
        self.ask: Any = None
        self.refused: list[Refusal] = []

    @property
    def only_increments(self) -> bool:
        """Return True if the line has increments, no other part, and no refusal."""
        other = self.totals or self.scalars or self.members or self.marks or self.durations or self.rows or self.events
        more = self.hello is not None or self.end is not None or self.ask is not None
        return bool(self.increments) and not (other or more or self.refused)

    @property
    def needs_a_session(self) -> bool:
        """Return True if the line has a part that applies only to a session."""
        return bool(
            self.increments or self.totals or self.scalars or self.members or self.marks or self.durations or self.rows
        ) or (self.end is not None)


def parse(line: bytes) -> Frame:
    """Parse one line, without its newline. Never raises: a line that is not JSON becomes a frame with a refusal."""
    frame = Frame()
    try:
        parts = orjson.loads(line)
    except orjson.JSONDecodeError:
        frame.refused.append(Refusal.BAD_JSON)
        return frame
    if type(parts) is not dict:
        frame.refused.append(Refusal.NOT_AN_OBJECT)
        return frame
    for key, value in parts.items():
        part = PARTS.get(key)
        if part is None:
            frame.refused.append(Refusal.UNKNOWN_KEY)
        else:
            part(frame, value)
    return frame


# --- one function for each key of the wire -----------------------------------------------------------------


def _hello(frame: Frame, value: object) -> None:
    """Parse a hello.

    A mistake in a part that identifies the producer (protocol or ids) refuses the whole hello. A mistake in a part that
    describes the producer (sdk or role) refuses only that part.
    """
    bad = Refusal.BAD_HELLO
    if type(value) is not dict or type(value.get("protocol")) is not int or value["protocol"] != PROTOCOL:
        frame.refused.append(bad)
        return
    ids = {name: value.get(name) for name in ("session", "group", "producer")}
    named = {name: _uuid(raw) for name, raw in ids.items() if raw is not None}
    if None in named.values() or (named.keys() & {"session", "group"} and "producer" not in named):
        frame.refused.append(bad)
        return
    sdk = SESSION_FIELDS["sdk"].domain.admit(value.get("sdk", "unknown"))
    role = value.get("role", "worker")
    counter_file = value.get("counter_file")
    destination, config = value.get("destination"), value.get("config")
    if sdk is None or role not in ("worker", "owner"):
        frame.refused.append(Refusal.BAD_VALUE)
    if not (config is None or _is_opaque_id(config)) or not (destination is None or is_destination(destination)):
        frame.refused.append(Refusal.BAD_VALUE)
    frame.hello = Hello(
        session=named.get("session"),
        group=named.get("group"),
        producer=named.get("producer"),
        sdk=sdk or "unknown",
        is_owner=role == "owner",
        counter_file=counter_file if type(counter_file) is int else None,
        # A destination that is refused is not the daemon's, so nothing is sent there.
        destination=destination if destination is None or is_destination(destination) else UNKNOWN_DESTINATION,
        # A stamp that is refused is none of the config, so nothing is sent.
        stamp=None if config is None else int(config, 16) if _is_opaque_id(config) else NOT_BELIEVED,
    )


def is_destination(raw: object) -> bool:
    """Return True if ``raw`` is the digest of a destination."""
    return raw == NOWHERE or _is_opaque_id(raw)


def _uuid(raw: object) -> str | None:
    return raw.lower() if isinstance(raw, str) and UUID.fullmatch(raw.lower()) else None


def _incr(frame: Frame, value: object) -> None:
    _counts(frame, "incr", value, frame.increments)


def _total(frame: Frame, value: object) -> None:
    _counts(frame, "total", value, frame.totals)


def _counts(frame: Frame, key: str, value: object, into: list[tuple[str, int]]) -> None:
    for field, raw in _fields(frame, key, value):
        _keep(frame, into, field.name, limits.admit_increment(raw))


def _set(frame: Frame, value: object) -> None:
    for field, raw in _fields(frame, "set", value):
        _keep(frame, frame.scalars, field.name, field.domain.admit(raw))


def _add(frame: Frame, value: object) -> None:
    for field, raw in _fields(frame, "add", value):
        assert isinstance(field.domain, domains.Words)  # every union field's domain is a set of words
        for word in _sequence(frame, raw):
            _keep(frame, frame.members, field.name, field.domain.member.admit(word))


def _mark(frame: Frame, value: object) -> None:
    for field, raw in _fields(frame, "mark", value):
        for mark in _sequence(frame, raw):
            _keep(frame, frame.marks, field.name, mark if _is_opaque_id(mark) else None, Refusal.BAD_ID)


def _observe(frame: Frame, value: object) -> None:
    for route, raw in _routes(frame, value):
        for raw_duration in _sequence(frame, raw):
            _keep(frame, frame.durations, route, limits.admit_duration(raw_duration))


def _histogram(frame: Frame, value: object) -> None:
    """Parse running rows. A route's row holds the sum of its durations in ns, then the counts of its six buckets.

    The cells of a row are running totals, so repeating a row changes nothing.
    """
    for route, raw in _routes(frame, value, also=limits.OVERFLOW_ROUTE):
        cells = raw if type(raw) is list and len(raw) == len(rules.EMPTY_ROW) else ()
        if cells and all(type(cell) is int and 0 <= cell <= limits.NS_MAX for cell in cells):
            frame.rows.append((route, tuple(cells)))
        else:
            frame.refused.append(Refusal.BAD_VALUE)


def _event(frame: Frame, value: object) -> None:
    if type(value) is not dict:
        frame.refused.append(Refusal.BAD_VALUE)
        return
    name = value.get("name")
    event = JOURNEY.get(name) if isinstance(name, str) else None
    if event is None:
        frame.refused.append(Refusal.UNKNOWN_EVENT)
        return
    fields, refused = admit_event_fields(event, {key: raw for key, raw in value.items() if key != "name"})
    frame.refused += refused.values()
    frame.events.append(Occurred(event, fields))


def _end(frame: Frame, value: object) -> None:
    if type(value) is not dict:
        frame.refused.append(Refusal.BAD_VALUE)
        return
    frame.refused += [Refusal.UNKNOWN_FIELD for key in value if key != "exit_reason"]
    reason = SESSION_FIELDS["exit_reason"].domain.admit(value.get("exit_reason", "unknown"))
    if reason is None:
        frame.refused.append(Refusal.BAD_VALUE)
    frame.end = reason or "unknown"


def _ask(frame: Frame, value: object) -> None:
    frame.ask = {} if value is None else value  # null asks the same question as an empty object


PARTS: dict[str, Callable[[Frame, Any], None]] = {
    "hello": _hello,
    "incr": _incr,
    "total": _total,
    "set": _set,
    "add": _add,
    "mark": _mark,
    "observe": _observe,
    "histogram": _histogram,
    "event": _event,
    "end": _end,
    "ask": _ask,
}


# --- helpers of several keys ---------------------------------------------------------------------------------


def admit_event_fields(event: EventSpec, reported: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Refusal]]:
    """Return the admitted values of the fields that were reported with ``event``, and the other fields' refusals."""
    admitted: dict[str, Any] = {}
    refused: dict[str, Refusal] = {}
    for name, raw in reported.items():
        field = event.fields.get(name)
        if field is None:
            refused[name] = Refusal.UNKNOWN_FIELD
        elif not said_in_event(field):
            refused[name] = Refusal.WRONG_KEY
        elif (value := field.domain.admit(raw)) is not None:
            admitted[name] = value
        elif raw is not None or field.domain.default is not None:  # a nullable field's null is treated as not reported
            refused[name] = Refusal.BAD_VALUE
    return admitted, refused


def _keep(
    frame: Frame, into: list[tuple[str, Any]], name: str, admitted: Any, refusal: Refusal = Refusal.BAD_VALUE
) -> None:
    """Append ``name`` and the admitted value to a part of the frame. If the value is None, add ``refusal`` instead."""
    if admitted is None:
        frame.refused.append(refusal)
    else:
        into.append((name, admitted))


def _fields(frame: Frame, key: str, value: object) -> list[tuple[Field, Any]]:
    """Return the session fields in ``value`` that ``key`` may report, with their raw values. Refuse the others."""
    if type(value) is not dict:
        frame.refused.append(Refusal.BAD_VALUE)
        return []
    good = []
    for name, raw in value.items():
        field = SESSION_FIELDS.get(name)
        if field is None:
            frame.refused.append(Refusal.UNKNOWN_FIELD)
        elif key not in field.rule.said_by:
            frame.refused.append(Refusal.WRONG_KEY)
        else:
            good.append((field, raw))
    return good


def _routes(frame: Frame, value: object, also: str | None = None) -> list[tuple[str, Any]]:
    """Return the routes in ``value`` that are opaque ids or ``also``, with their raw values. Refuse the others."""
    if type(value) is not dict:
        frame.refused.append(Refusal.BAD_VALUE)
        return []
    good = [(route, raw) for route, raw in value.items() if _is_opaque_id(route) or route == also]
    frame.refused += [Refusal.BAD_ID] * (len(value) - len(good))
    return good


def _sequence(frame: Frame, raw: object) -> list[Any]:
    """Return ``raw`` if it is a list. Otherwise refuse it and return an empty list."""
    if type(raw) is list:
        return raw
    frame.refused.append(Refusal.BAD_VALUE)
    return []


def _is_opaque_id(raw: object) -> TypeGuard[str]:
    return isinstance(raw, str) and _OPAQUE_ID.fullmatch(raw) is not None


# To add a key of the wire: add a function, list it in PARTS, and apply the new part in session.totals.ProducerTotals.
