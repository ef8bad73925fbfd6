"""The totals of producers, and the values of a session that are computed from the totals.

A producer's totals are its own running state. A session merges the totals of its producers, so neither the order nor
the repetition of reports matters. This file knows no phases, no connections and no clock.
"""

from __future__ import annotations

from collections import defaultdict
from functools import reduce
from typing import TYPE_CHECKING, Any

from .. import limits, rules
from ..frames import Occurred
from ..refusal import Refusal
from ..schema import SESSION_FIELDS, EventSpec, Field

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..counter_snapshot import CounterSnapshot
    from ..frames import Frame

# The most routes of one producer, which take some 1 MiB. No application has so many, because a route is a pattern.
# Further routes share the overflow row.
MAX_ROUTES = 4096
MAX_MARKS = 16_384  # per producer and field, some 2 MiB: far more insights than a developer could read
COMPACTED = "compacted"  # the name of all compacted workers' totals; it is not a UUID, so no producer has it


class Changes:
    """The keys of a producer's totals that changed since the totals were last journaled."""

    __slots__ = ("counts", "marks", "routes", "values")

    def __init__(self) -> None:
        self.counts: set[str] = set()
        self.marks: list[tuple[str, str]] = []
        self.routes: set[str] = set()
        self.values: set[str] = set()


class ProducerTotals:
    """One producer's running totals in one session."""

    __slots__ = ("changes", "counts", "marks", "producer", "routes", "values")

    def __init__(self, producer: str) -> None:
        self.producer = producer
        self.counts: dict[str, int] = defaultdict(int)
        self.marks: dict[str, set[str]] = defaultdict(set)
        self.routes: dict[str, rules.Row] = {}
        self.values: dict[str, Any] = {}  # each field's account, as its rule defines it
        self.changes = Changes()

    def apply(self, frame: Frame, when: int) -> list[Refusal]:
        """Merge all of a frame except its events. Returns the refusals.

        ``when`` orders the reports of this producer. It is different at each call.
        """
        refused: list[Refusal] = []
        for name, count in frame.increments:
            self.incr(name, count)
        for name, total in frame.totals:
            self._raise_to(name, total)
        for name, value in (*frame.scalars, *frame.members):
            self.set(SESSION_FIELDS[name], value, when)
        for name, mark in frame.marks:
            if mark in self.marks[name]:
                continue
            if len(self.marks[name]) < MAX_MARKS:
                self.marks[name].add(mark)
                self.changes.marks.append((name, mark))
            else:
                refused.append(Refusal.TOO_MANY)
        for route, duration_ms in frame.durations:
            key = self._route(route)
            self.routes[key] = rules.observed(self.routes.get(key, rules.EMPTY_ROW), duration_ms)
            self.changes.routes.add(key)
        for route, row in frame.rows:
            self._merge_row(route, row)
        return refused

    def incr(self, name: str, count: int) -> None:
        """Add ``count`` to the total of a count field."""
        self.counts[name] = rules.saturating_add(self.counts[name], count)
        self.changes.counts.add(name)

    def merge_snapshot(self, snapshot: CounterSnapshot) -> None:
        """Merge what the producer's counter file holds: running totals and rows."""
        for name, total in snapshot.counts.items():
            self._raise_to(name, total)
        for route, row in snapshot.rows.items():
            self._merge_row(route, row)

    def aggregate(self, other: ProducerTotals) -> None:
        """Add the totals of another producer that will report nothing more.

        The sum needs no more memory than both totals.
        """
        for name, count in other.counts.items():
            self.counts[name] = rules.saturating_add(self.counts[name], count)
        for name, marks in other.marks.items():
            self.marks[name] |= marks
        for route, row in other.routes.items():
            self.routes[route] = rules.added_cells(self.routes.get(route, rules.EMPTY_ROW), row)
        for name, account in other.values.items():
            rule = SESSION_FIELDS[name].rule
            self.values[name] = rule.aggregate(self.values.get(name, rule.identity()), account)

    def set(self, field: Field, value: Any, when: int) -> None:
        """Merge one value of a scalar, or one member of a set.

        Does nothing if the field's rule is "first" and ``value`` is the field's default.
        """
        if isinstance(field.rule, rules.First) and value == field.domain.default:
            return
        before = self.values.get(field.name, field.rule.identity())
        after = field.rule.merge(before, field.rule.account(value, when, self.producer))
        if after != before or field.name not in self.values:
            self.values[field.name] = after
            self.changes.values.add(field.name)

    def account(self, field: Field) -> Any:
        """Return this producer's account of one field, in the form that the field's rule defines."""
        if isinstance(field.rule, rules.RouteView):
            return self.routes
        if field.rule is rules.SUM:
            return self.counts.get(field.name, 0)
        if field.rule is rules.DISTINCT:
            return frozenset(self.marks.get(field.name, ())), self.counts.get(field.name, 0)
        return self.values.get(field.name, field.rule.identity())

    def _raise_to(self, name: str, total: int) -> None:
        if total > self.counts[name]:
            self.counts[name] = total
            self.changes.counts.add(name)

    def _merge_row(self, route: str, row: rules.Row) -> None:
        key = self._route(route)
        before = self.routes.get(key)
        if row == before:  # most rows have not changed since the counter file was last read
            return
        after = tuple(map(max, before or rules.EMPTY_ROW, row))
        if after != before:
            self.routes[key] = after
            self.changes.routes.add(key)

    def _route(self, route: str) -> str:
        known = route in self.routes or len(self.routes) < MAX_ROUTES
        return route if known else limits.OVERFLOW_ROUTE


class SessionTotals:
    """The totals of a session's producers, and which of its once-only events have occurred."""

    __slots__ = ("_last_when", "occurred", "producers")

    def __init__(self) -> None:
        self.producers: dict[str, ProducerTotals] = {}
        self.occurred: set[str] = set()
        self._last_when = 0

    def producer(self, producer: str) -> ProducerTotals:
        """Return the producer's totals. A producer that reconnects gets the totals that it had."""
        if producer not in self.producers:
            self.producers[producer] = ProducerTotals(producer)
        return self.producers[producer]

    def compact(self, producers: Iterable[str]) -> None:
        """Aggregate the totals of these producers into one, because they will report nothing more.

        Together they then need the memory of one producer.
        """
        compacted = self.producer(COMPACTED)
        for producer in producers:
            if (totals := self.producers.pop(producer, None)) is not None:
                compacted.aggregate(totals)

    def greet(self, producer: str, sdk: str, when_ns: int) -> None:
        """Merge what a worker's hello reports."""
        self.producer(producer).set(SESSION_FIELDS["sdk"], sdk, self._tick(when_ns))

    def apply(self, producer: str, frame: Frame, when_ns: int, elapsed_ms: int) -> tuple[list[Occurred], list[Refusal]]:
        """Merge a frame. Returns the events to send now, with their known fields, and the refusals.

        ``when_ns`` is a monotonic time in nanoseconds; ``elapsed_ms`` is the session's age in milliseconds.
        """
        totals = self.producer(producer)
        when = self._tick(when_ns)
        refused = totals.apply(frame, when)
        to_send = []
        for occurred in frame.events:
            fields = self._filled(occurred, elapsed_ms)
            self._merge_event(totals, occurred.event, fields, when)
            if not (occurred.event.once and occurred.event.name in self.occurred):
                to_send.append(Occurred(occurred.event, fields))
            if occurred.event.once:
                self.occurred.add(occurred.event.name)
        return to_send, refused

    def replay(self, producer: str, frame: Frame, when: int, sdk: str | None = None) -> None:
        """Merge a journaled frame of the producer with its original time, and the journaled ``sdk`` of its hello."""
        self._last_when = max(self._last_when, when)
        totals = self.producer(producer)
        if sdk is not None:
            totals.set(SESSION_FIELDS["sdk"], SESSION_FIELDS["sdk"].domain.admit(sdk), when)
        totals.apply(frame, when)

    def report(self, event: EventSpec, fields: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for every field of the event.

        A value comes from the event's ``fields``, else from ``own`` (values that the daemon knows), else from the
        session.
        """
        routes = None
        values: dict[str, Any] = {}
        for name, field in event.fields.items():
            if name in fields:
                value = fields[name]
            elif name in own:
                value = own[name]
            elif isinstance(field.rule, rules.RouteView):
                routes = self._aggregated(field) if routes is None else routes  # three fields read the same account
                value = field.rule.value(routes)
            elif SESSION_FIELDS.get(name) is field:
                value = field.rule.value(self._aggregated(field))
            else:
                value = None
            values[name] = field.domain.default if value is None else value
        return values

    def total(self, name: str) -> Any:
        """Return the current value of one session field. Returns None if no producer reported the field."""
        field = SESSION_FIELDS[name]
        return field.rule.value(self._aggregated(field))

    def _tick(self, when_ns: int) -> int:
        """Return the time of one frame.

        It is later than the times of all earlier frames, even if the clock is coarse.
        """
        self._last_when = max(when_ns, self._last_when + 1)
        return self._last_when

    def _aggregated(self, field: Field) -> Any:
        return aggregated(field, self.producers.values())

    def _filled(self, occurred: Occurred, elapsed_ms: int) -> dict[str, Any]:
        event, fields = occurred.event, dict(occurred.fields)
        if event.elapsed_in and event.elapsed_in not in fields:
            known = self.total(event.elapsed_in)  # a daemon that died before it sent the event may have journaled it
            fields[event.elapsed_in] = min(elapsed_ms, limits.MAX_DURATION_MS) if known is None else known
        if event.requests_in:
            fields[event.requests_in] = max(fields.get(event.requests_in, 0), self.total("request_count"))
        return fields

    def _merge_event(self, totals: ProducerTotals, event: EventSpec, fields: Mapping[str, Any], when: int) -> None:
        """Merge the event's fields that are also fields of the session."""
        for name, value in (*fields.items(), *event.implies.items()):
            field = SESSION_FIELDS.get(name)
            if field is None:  # a field of the event alone
                continue
            if "set" in field.rule.said_by:
                totals.set(field, value, when)
            elif "add" in field.rule.said_by:
                for word in value:
                    totals.set(field, word, when)


def aggregated(field: Field, producers: Iterable[ProducerTotals]) -> Any:
    """Return one field's account over all producers."""
    return reduce(field.rule.aggregate, (totals.account(field) for totals in producers), field.rule.identity())
