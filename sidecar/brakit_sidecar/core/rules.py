"""Merge rules decide how two values of a field become one value. This file knows no fields and no sessions.

An *account* is one producer's state of one field. A rule combines two accounts in one of two ways:

- ``merge`` combines two accounts of the same producer, for example one before a reconnect and one after it. It is
  commutative, associative and idempotent, so repeated, late and reordered reports cannot change a number.
- ``aggregate`` combines the accounts of two different producers. It is commutative and associative. It is also
  idempotent, unless the rule sums a quantity over producers.

``identity()`` is the account of a producer without reports: combining an account with it changes nothing. ``value()``
returns what an account means. It returns None if nothing was reported, and the caller then uses the field's default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .limits import BUCKETS, COUNT_MAX, MAX_DURATION_MS, NS_MAX, NS_PER_MS, OVERFLOW_ROUTE, bucket_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

A = TypeVar("A")

# One route's row: the sum of its durations in whole nanoseconds, then the number of durations in each bucket. All cells
# are integers, because float addition is not associative.
Row = tuple[int, ...]
EMPTY_ROW: Row = (0,) * (1 + len(BUCKETS))


def saturating_add(a: int, b: int) -> int:
    """Return the sum of two counts, at most COUNT_MAX."""
    return min(a + b, COUNT_MAX)


class Rule(ABC, Generic[A]):
    """How the accounts of one field combine. ``said_by`` holds the wire's keys that may report the field."""

    name: str
    said_by: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<rule {self.name}>"

    @abstractmethod
    def identity(self) -> A: ...

    def account(self, reported: Any, when: int, producer: str) -> A:
        """Return the account of a producer that reported only the value ``reported``, at the time ``when``.

        ``when`` is an integer that orders the reports of a session.
        """
        return reported  # type: ignore[no-any-return] # for most rules, a reported value already is an account

    @abstractmethod
    def merge(self, a: A, b: A) -> A: ...

    def aggregate(self, a: A, b: A) -> A:
        return self.merge(a, b)

    @abstractmethod
    def value(self, account: A) -> Any: ...


class Sum(Rule[int]):
    """A running total. ``merge`` takes the larger of a producer's two totals.

    ``aggregate`` adds two producers' totals.
    """

    name = "sum"
    said_by = frozenset({"incr", "total"})

    def identity(self) -> int:
        return 0

    def merge(self, a: int, b: int) -> int:
        return max(a, b)

    def aggregate(self, a: int, b: int) -> int:
        return saturating_add(a, b)

    def value(self, account: int) -> int:
        return account


Ids = tuple[frozenset[str], int]


class Distinct(Rule[Ids]):
    """The number of different opaque ids, plus the sum of the increments, which have no id."""

    name = "distinct"
    said_by = frozenset({"incr", "total", "mark"})

    def identity(self) -> Ids:
        return frozenset(), 0

    def merge(self, a: Ids, b: Ids) -> Ids:
        return a[0] | b[0], max(a[1], b[1])

    def aggregate(self, a: Ids, b: Ids) -> Ids:
        return a[0] | b[0], saturating_add(a[1], b[1])

    def value(self, account: Ids) -> int:
        ids, increments = account
        return saturating_add(len(ids), increments)


class Union(Rule[frozenset[str]]):
    """The sorted set of all reported words."""

    name = "union"
    said_by = frozenset({"add"})

    def identity(self) -> frozenset[str]:
        return frozenset()

    def account(self, reported: str, when: int, producer: str) -> frozenset[str]:
        return frozenset({reported})

    def merge(self, a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
        return a | b

    def value(self, account: frozenset[str]) -> list[str]:
        return sorted(account)


TimedValue = tuple[int, str, str]  # (when, producer, value)


class First(Rule["TimedValue | None"]):
    """The earliest value: the least (when, producer, value). The order in which reports arrive does not matter."""

    def __init__(self, name: str, said_by: str) -> None:
        self.name = name
        self.said_by = frozenset({said_by})

    def identity(self) -> TimedValue | None:
        return None

    def account(self, reported: str, when: int, producer: str) -> TimedValue | None:
        return when, producer, reported

    def merge(self, a: TimedValue | None, b: TimedValue | None) -> TimedValue | None:
        if a is None or b is None:
            return a or b
        return min(a, b)

    def value(self, account: TimedValue | None) -> str | None:
        return None if account is None else account[2]


class _Extreme(Rule["int | None"]):
    """The largest or the smallest reported value. A producer that did not report the field has the account None."""

    said_by = frozenset({"set"})

    def __init__(self, name: str, pick: Callable[[int, int], int]) -> None:
        self.name = name
        self._pick = pick

    def identity(self) -> int | None:
        return None

    def merge(self, a: int | None, b: int | None) -> int | None:
        if a is None:
            return b
        if b is None:
            return a
        return self._pick(a, b)

    def value(self, account: int | None) -> int | None:
        return account


Histogram = dict[str, Row]


class RouteView(Rule[Histogram]):
    """A number that is computed from the histograms of all routes, by ``read``.

    Cells only grow, so merging takes the larger of two cells. Aggregating adds them.
    """

    said_by = frozenset({"observe", "histogram"})

    def __init__(self, name: str, read: Callable[[Mapping[str, Row]], Any]) -> None:
        self.name = name
        self._read = read

    def identity(self) -> Histogram:
        return {}

    def merge(self, a: Histogram, b: Histogram) -> Histogram:
        return _combine(a, b, larger_cells)

    def aggregate(self, a: Histogram, b: Histogram) -> Histogram:
        return _combine(a, b, added_cells)

    def value(self, account: Histogram) -> Any:
        return self._read(account)


class FilledByDaemon(Rule[None]):
    """A field that producers cannot report, because the daemon fills it in."""

    name = "daemon"

    def identity(self) -> None:
        return None

    def merge(self, a: None, b: None) -> None:
        return None

    def value(self, account: None) -> None:
        return None


# --- histograms ------------------------------------------------------------------------------------------


def saturating_add_ns(a: int, b: int) -> int:
    """Return the sum of two cells of a row, at most NS_MAX."""
    return min(a + b, NS_MAX)


def larger_cells(a: Row, b: Row) -> Row:
    """Return the row that has the larger of the two cells at each position."""
    return tuple(map(max, a, b))


def added_cells(a: Row, b: Row) -> Row:
    """Return the row that has the sum of the two cells at each position, at most NS_MAX."""
    # A status adds hundreds of thousands of cells, so this does not call a Python function for each cell.
    added = tuple(map(add, a, b))
    return added if max(added) <= NS_MAX else tuple(min(cell, NS_MAX) for cell in added)


def _combine(a: Histogram, b: Histogram, rows: Callable[[Row, Row], Row]) -> Histogram:
    combined = dict(a)
    for route, row in b.items():
        combined[route] = rows(combined.get(route, EMPTY_ROW), row)
    return combined


def observed(row: Row, duration_ms: float) -> Row:
    """Return ``row`` plus one request of ``duration_ms``. The sum is exact to the nanosecond."""
    cells = list(row)
    cells[0] = saturating_add_ns(cells[0], round(duration_ms * NS_PER_MS))
    bucket = 1 + bucket_of(duration_ms)
    cells[bucket] = saturating_add_ns(cells[bucket], 1)
    return tuple(cells)


def count_of(row: Row) -> int:
    """Return the number of requests in a row."""
    return sum(row[1:])


def distinct_routes(routes: Mapping[str, Row]) -> int:
    """Return the number of routes. The overflow row is not counted, because it is not a route."""
    return len(routes) - (OVERFLOW_ROUTE in routes)


def mean_ms(routes: Mapping[str, Row]) -> int | None:
    """Return the mean duration of all requests in whole ms, rounded half up, at most one day.

    Returns None if there is no request. The limit is needed because a producer reports the sum and the counts of a row
    separately, and the sum may contradict the counts.
    """
    requests = sum(map(count_of, routes.values()))
    if not requests:
        return None
    total_ns = sum(row[0] for row in routes.values())
    per_request_ns = requests * NS_PER_MS
    return min((2 * total_ns + per_request_ns) // (2 * per_request_ns), MAX_DURATION_MS)


def p95_bucket(row: Row) -> int:
    """Return the index of the bucket that holds the row's 95th percentile.

    The percentile is the nearest rank: of n durations, the ceil(0.95 n)-th smallest.
    """
    rank = (95 * count_of(row) + 99) // 100
    return bisect_left(list(accumulate(row[1:])), rank)


def slowest_p95(routes: Mapping[str, Row]) -> str | None:
    """Return the name of the bucket that holds the 95th percentile of the slowest route.

    Returns None if there is no request.
    """
    buckets = [p95_bucket(row) for row in routes.values() if count_of(row)]
    return BUCKETS[max(buckets)] if buckets else None


# --- the table ---------------------------------------------------------------------------------------------

SUM = Sum()
DISTINCT = Distinct()
UNION = Union()
FIRST = First("first", "set")
FIRST_HELLO = First("first hello", "hello")
MAX = _Extreme("max", max)
MIN = _Extreme("min", min)
ANY = _Extreme("any", max)  # the larger of two booleans is their "or"
ALL = _Extreme("all", min)  # the smaller of two booleans is their "and"
DISTINCT_ROUTES = RouteView("distinct routes", distinct_routes)
MEAN = RouteView("mean", mean_ms)
SLOWEST_P95 = RouteView("slowest p95", slowest_p95)
DAEMON = FilledByDaemon()

RULES: tuple[Rule[Any], ...] = (
    SUM, DISTINCT, UNION, FIRST, FIRST_HELLO, MAX, MIN, ANY, ALL, DISTINCT_ROUTES, MEAN, SLOWEST_P95, DAEMON,
)  # fmt: skip

# To add a rule: define a class or an instance above and list it in RULES. The property tests check every rule in RULES.
