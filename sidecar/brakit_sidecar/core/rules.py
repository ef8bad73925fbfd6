"""Everything that decides how two values become one lives here. This file knows no fields and no sessions.

A rule combines *accounts*, of two kinds:

- ``merge``  two accounts of the same producer, told twice or told later. A semilattice: commutative,
  associative and idempotent, so repeats, reconnects and reordering cannot change a number.
- ``aggregate`` accounts of two different producers. Commutative and associative; idempotent too, except where a
  quantity is summed over producers.

``identity()`` is the account of one who said nothing, and is neutral to both. ``value()`` reads an account;
``None`` means that nobody said anything, and the field's neutral value stands.
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

# One route's row: the sum of its durations in whole nanoseconds, then how many fell into each bucket.
# Integers, because float addition is not associative.
Row = tuple[int, ...]
EMPTY_ROW: Row = (0,) * (1 + len(BUCKETS))


def saturating_add(a: int, b: int) -> int:
    return min(a + b, COUNT_MAX)


class Rule(ABC, Generic[A]):
    """How the accounts of one field combine. ``said_by`` are the wire's keys that may feed it."""

    name: str
    said_by: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<rule {self.name}>"

    @abstractmethod
    def identity(self) -> A: ...

    def account(self, word: Any, when: int, producer: str) -> A:
        """The account of a producer that said just this one word, then."""
        return word  # type: ignore[no-any-return] # mostly a word is an account of itself

    @abstractmethod
    def merge(self, a: A, b: A) -> A: ...

    def aggregate(self, a: A, b: A) -> A:
        return self.merge(a, b)

    @abstractmethod
    def value(self, account: A) -> Any: ...


class Sum(Rule[int]):
    """Running totals: the larger within a producer, the sum over producers."""

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
    """Opaque ids count once, whoever said them; plain increments add up beside them."""

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
    """The words that anybody said, sorted."""

    name = "union"
    said_by = frozenset({"add"})

    def identity(self) -> frozenset[str]:
        return frozenset()

    def account(self, word: str, when: int, producer: str) -> frozenset[str]:
        return frozenset({word})

    def merge(self, a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
        return a | b

    def value(self, account: frozenset[str]) -> list[str]:
        return sorted(account)


Said = tuple[int, str, str]


class First(Rule["Said | None"]):
    """The word said first: the least (when, producer, word), never the order of arrival."""

    def __init__(self, name: str, said_by: str) -> None:
        self.name = name
        self.said_by = frozenset({said_by})

    def identity(self) -> Said | None:
        return None

    def account(self, word: str, when: int, producer: str) -> Said | None:
        return when, producer, word

    def merge(self, a: Said | None, b: Said | None) -> Said | None:
        if a is None or b is None:
            return a or b
        return min(a, b)

    def value(self, account: Said | None) -> str | None:
        return None if account is None else account[2]


class _Extreme(Rule["int | None"]):
    """One scalar wins; None says nothing."""

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
    """One reading of the routes' histograms. Rows are running: the larger cells within a producer, sums over them."""

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


class DaemonsOwn(Rule[None]):
    """Nobody says it: the daemon knows it."""

    name = "daemon"

    def identity(self) -> None:
        return None

    def merge(self, a: None, b: None) -> None:
        return None

    def value(self, account: None) -> None:
        return None


# --- histograms ------------------------------------------------------------------------------------------


def saturating_add_ns(a: int, b: int) -> int:
    return min(a + b, NS_MAX)


def larger_cells(a: Row, b: Row) -> Row:
    return tuple(map(max, a, b))


def added_cells(a: Row, b: Row) -> Row:
    added = tuple(map(add, a, b))  # hundreds of thousands for a status: no call of ours for each cell
    return added if max(added) <= NS_MAX else tuple(min(cell, NS_MAX) for cell in added)


def _combine(a: Histogram, b: Histogram, rows: Callable[[Row, Row], Row]) -> Histogram:
    combined = dict(a)
    for route, row in b.items():
        combined[route] = rows(combined.get(route, EMPTY_ROW), row)
    return combined


def observed(row: Row, duration_ms: float) -> Row:
    """The row after one more request of ``duration_ms``, kept to the nanosecond."""
    cells = list(row)
    cells[0] = saturating_add_ns(cells[0], round(duration_ms * NS_PER_MS))
    bucket = 1 + bucket_of(duration_ms)
    cells[bucket] = saturating_add_ns(cells[bucket], 1)
    return tuple(cells)


def count_of(row: Row) -> int:
    return sum(row[1:])


def distinct_routes(routes: Mapping[str, Row]) -> int:
    return len(routes) - (OVERFLOW_ROUTE in routes)


def mean_ms(routes: Mapping[str, Row]) -> int | None:
    """Sum of durations over their number, in ms, rounded half up; None where none was observed.

    At most a day, though a running row says its sum and its counts apart and may contradict itself.
    """
    requests = sum(map(count_of, routes.values()))
    if not requests:
        return None
    total_ns = sum(row[0] for row in routes.values())
    per_request_ns = requests * NS_PER_MS
    return min((2 * total_ns + per_request_ns) // (2 * per_request_ns), MAX_DURATION_MS)


def p95_bucket(row: Row) -> int:
    """The bucket that holds the row's 95th percentile by nearest rank: the ceil(0.95 n)-th smallest."""
    rank = (95 * count_of(row) + 99) // 100
    return bisect_left(list(accumulate(row[1:])), rank)


def slowest_p95(routes: Mapping[str, Row]) -> str | None:
    """The largest, over routes, of the bucket of the route's p95; None where no duration was observed."""
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
ANY = _Extreme("any", max)  # over booleans, or is the larger
ALL = _Extreme("all", min)  # and the smaller is and
DISTINCT_ROUTES = RouteView("distinct routes", distinct_routes)
MEAN = RouteView("mean", mean_ms)
SLOWEST_P95 = RouteView("slowest p95", slowest_p95)
DAEMON = DaemonsOwn()

RULES: tuple[Rule[Any], ...] = (
    SUM, DISTINCT, UNION, FIRST, FIRST_HELLO, MAX, MIN, ANY, ALL, DISTINCT_ROUTES, MEAN, SLOWEST_P95, DAEMON,
)  # fmt: skip

# To add a rule: a class (or an instance) above with its laws, one entry in RULES. The property tests run over RULES.
