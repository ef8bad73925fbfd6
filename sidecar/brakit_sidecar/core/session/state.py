"""What producers said, and what a session makes of it.

A producer's state is its own running account; a session is the join of its producers' accounts, so neither the order
nor the repetition of what they say matters. This file knows no sockets and no clock: time comes in as a number.
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

MAX_ROUTES = 4096  # per producer, some 1 MiB; a route is a pattern, and no application has so many. The rest overflows
DEPARTED = "departed"  # the account of producers that are gone for good; no producer's, as it is no UUID
MAX_MARKS = 16_384  # per producer and field, some 2 MiB: far more insights than a developer could read


class News:
    """What changed in an account since somebody last took note of it, by what is to be looked up there."""

    __slots__ = ("counts", "marks", "routes", "said")

    def __init__(self) -> None:
        self.counts: set[str] = set()
        self.marks: list[tuple[str, str]] = []
        self.routes: set[str] = set()
        self.said: set[str] = set()


class ProducerState:
    """One producer's running account of a session."""

    __slots__ = ("counts", "marks", "news", "producer", "routes", "said")

    def __init__(self, producer: str) -> None:
        self.producer = producer
        self.counts: dict[str, int] = defaultdict(int)
        self.marks: dict[str, set[str]] = defaultdict(set)
        self.routes: dict[str, rules.Row] = {}
        self.said: dict[str, Any] = {}  # by field, the rule's account
        self.news = News()

    def apply(self, frame: Frame, when: int) -> list[Refusal]:
        """Takes in all of a frame but its events. ``when`` orders what this producer says; it never repeats."""
        refused: list[Refusal] = []
        for name, count in frame.increments:
            self.incr(name, count)
        for name, total in frame.totals:
            self._reach(name, total)
        for name, word in (*frame.scalars, *frame.members):
            self.say(SESSION_FIELDS[name], word, when)
        for name, mark in frame.marks:
            if mark in self.marks[name]:
                continue
            if len(self.marks[name]) < MAX_MARKS:
                self.marks[name].add(mark)
                self.news.marks.append((name, mark))
            else:
                refused.append(Refusal.TOO_MANY)
        for route, duration_ms in frame.durations:
            key = self._route(route)
            self.routes[key] = rules.observed(self.routes.get(key, rules.EMPTY_ROW), duration_ms)
            self.news.routes.add(key)
        for route, row in frame.rows:
            self._join_row(route, row)
        return refused

    def incr(self, name: str, count: int) -> None:
        self.counts[name] = rules.saturating_add(self.counts[name], count)
        self.news.counts.add(name)

    def take_in(self, contents: CounterSnapshot) -> None:
        """What the producer's memory says: running totals and rows, as if it had just said them."""
        for name, total in contents.counts.items():
            self._reach(name, total)
        for route, row in contents.rows.items():
            self._join_row(route, row)

    def absorb(self, other: ProducerState) -> None:
        """Takes in the account of another producer, which says nothing more. Never larger than the two were."""
        for name, count in other.counts.items():
            self.counts[name] = rules.saturating_add(self.counts[name], count)
        for name, marks in other.marks.items():
            self.marks[name] |= marks
        for route, row in other.routes.items():
            self.routes[route] = rules.added_cells(self.routes.get(route, rules.EMPTY_ROW), row)
        for name, account in other.said.items():
            rule = SESSION_FIELDS[name].rule
            self.said[name] = rule.aggregate(self.said.get(name, rule.identity()), account)

    def say(self, field: Field, word: Any, when: int) -> None:
        """One word for a scalar, or one member of a set. For a field whose first word wins, neutral is no word."""
        if isinstance(field.rule, rules.First) and word == field.domain.default:
            return
        before = self.said.get(field.name, field.rule.identity())
        after = field.rule.merge(before, field.rule.account(word, when, self.producer))
        if after != before or field.name not in self.said:
            self.said[field.name] = after
            self.news.said.add(field.name)

    def account(self, field: Field) -> Any:
        """This producer's account of one field, as the field's rule understands it."""
        if isinstance(field.rule, rules.RouteView):
            return self.routes
        if field.rule is rules.SUM:
            return self.counts.get(field.name, 0)
        if field.rule is rules.DISTINCT:
            return frozenset(self.marks.get(field.name, ())), self.counts.get(field.name, 0)
        return self.said.get(field.name, field.rule.identity())

    def _reach(self, name: str, total: int) -> None:
        if total > self.counts[name]:
            self.counts[name] = total
            self.news.counts.add(name)

    def _join_row(self, route: str, row: rules.Row) -> None:
        key = self._route(route)
        before = self.routes.get(key)
        if row == before:  # most are, each time a memory is read
            return
        after = tuple(map(max, before or rules.EMPTY_ROW, row))
        if after != before:
            self.routes[key] = after
            self.news.routes.add(key)

    def _route(self, route: str) -> str:
        known = route in self.routes or len(self.routes) < MAX_ROUTES
        return route if known else limits.OVERFLOW_ROUTE


class SessionState:
    """The producers of one session, and which of its once-only events have occurred."""

    __slots__ = ("_last_when", "occurred", "producers")

    def __init__(self) -> None:
        self.producers: dict[str, ProducerState] = {}
        self.occurred: set[str] = set()
        self._last_when = 0

    def producer(self, producer: str) -> ProducerState:
        """The producer's account: the one it left, where it comes back."""
        if producer not in self.producers:
            self.producers[producer] = ProducerState(producer)
        return self.producers[producer]

    def merge_departed(self, producers: Iterable[str]) -> None:
        """These are gone for good: from here on their accounts are one, which costs what one costs."""
        departed = self.producer(DEPARTED)
        for producer in producers:
            if (state := self.producers.pop(producer, None)) is not None:
                departed.absorb(state)

    def greet(self, producer: str, sdk: str, when_ns: int) -> None:
        """A worker's hello: it counts as one of the session's producers from here on."""
        self.producer(producer).say(SESSION_FIELDS["sdk"], sdk, self._tick(when_ns))

    def apply(self, producer: str, frame: Frame, when_ns: int, elapsed_ms: int) -> tuple[list[Occurred], list[Refusal]]:
        """Takes in a frame. Returns the events to send now, with what is known of their fields, and what is refused.

        ``when_ns`` is a monotonic time; ``elapsed_ms`` is the session's age.
        """
        state = self.producer(producer)
        when = self._tick(when_ns)
        refused = state.apply(frame, when)
        to_send = []
        for occurred in frame.events:
            fields = self._filled(occurred, elapsed_ms)
            self._learn(state, occurred.event, fields, when)
            if not (occurred.event.once and occurred.event.name in self.occurred):
                to_send.append(Occurred(occurred.event, fields))
            if occurred.event.once:
                self.occurred.add(occurred.event.name)
        return to_send, refused

    def recall(self, producer: str, frame: Frame, when: int, sdk: str | None = None) -> None:
        """Takes in what a producer said before, then: a frame of its ``transcript``, and what its hello said."""
        self._last_when = max(self._last_when, when)
        state = self.producer(producer)
        if sdk is not None:
            state.say(SESSION_FIELDS["sdk"], SESSION_FIELDS["sdk"].domain.admit(sdk), when)
        state.apply(frame, when)

    def report(self, event: EventSpec, said: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """Every field of the event: as said with it, else as the daemon knows it, else as the session has it."""
        routes = None
        values: dict[str, Any] = {}
        for name, field in event.fields.items():
            if name in said:
                value = said[name]
            elif name in own:
                value = own[name]
            elif isinstance(field.rule, rules.RouteView):
                routes = self._merged(field) if routes is None else routes  # three readings of one account
                value = field.rule.value(routes)
            elif SESSION_FIELDS.get(name) is field:
                value = field.rule.value(self._merged(field))
            else:
                value = None
            values[name] = field.domain.default if value is None else value
        return values

    def total(self, name: str) -> Any:
        """One session field's value by now; None where nobody said anything."""
        field = SESSION_FIELDS[name]
        return field.rule.value(self._merged(field))

    def _tick(self, when_ns: int) -> int:
        """The time of one frame: later than of every one before, also where the clock is coarser than the frames."""
        self._last_when = max(when_ns, self._last_when + 1)
        return self._last_when

    def _merged(self, field: Field) -> Any:
        return merged(field, self.producers.values())

    def _filled(self, occurred: Occurred, elapsed_ms: int) -> dict[str, Any]:
        event, fields = occurred.event, dict(occurred.fields)
        if event.elapsed_in and event.elapsed_in not in fields:
            known = self.total(event.elapsed_in)  # also where it was learned by a daemon that died before it sent this
            fields[event.elapsed_in] = min(elapsed_ms, limits.MAX_DURATION_MS) if known is None else known
        if event.requests_in:
            fields[event.requests_in] = max(fields.get(event.requests_in, 0), self.total("request_count"))
        return fields

    def _learn(self, state: ProducerState, event: EventSpec, fields: Mapping[str, Any], when: int) -> None:
        """What an event says of the session's fields, the session knows."""
        for name, value in (*fields.items(), *event.implies.items()):
            field = SESSION_FIELDS.get(name)
            if field is None:  # the event's alone
                continue
            if "set" in field.rule.said_by:
                state.say(field, value, when)
            elif "add" in field.rule.said_by:
                for word in value:
                    state.say(field, word, when)


def merged(field: Field, producers: Iterable[ProducerState]) -> Any:
    """One field's account over all producers."""
    return reduce(field.rule.aggregate, (state.account(field) for state in producers), field.rule.identity())
