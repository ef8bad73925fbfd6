"""Hypothesis strategies that several test files share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from brakit_sidecar.core import limits, rules
from hypothesis import strategies as st

from tests.core import page

if TYPE_CHECKING:
    from brakit_sidecar.core.rules import Rule

# --- values that correct producers report -------------------------------------------------------------------

# There are only a few ids, so that two producers often report the same id.
opaque_ids = st.sampled_from(["00000000000000aa", "00000000000000bb", "9f3a61c2d4e5b607", "ffffffffffffffff"])

# Small counts, and counts near the limit at which totals saturate.
counts = st.integers(1, 60) | st.integers(limits.COUNT_MAX - 2, limits.COUNT_MAX)

_EDGES_NS = [edge * 1_000_000 for edge in (0, 200, 500, 1000, 2000, 5000, 86_400_000)]

# Durations in whole nanoseconds. Many of them are at the edge of a bucket, or one nanosecond beside the edge.
durations_ns = st.one_of(
    st.sampled_from([ns + beside for ns in _EDGES_NS for beside in (-1, 0, 1) if 0 <= ns + beside <= _EDGES_NS[-1]]),
    st.integers(0, 7_000_000_000),
    st.integers(0, 40).map(lambda halves: halves * 500_000),  # multiples of half a ms, at which rounding changes
)

# --- accounts, for the laws of the merge rules --------------------------------------------------------------

_totals = st.integers(0, 60) | st.integers(limits.COUNT_MAX - 2, limits.COUNT_MAX)
_ids = st.frozensets(opaque_ids)
_cells = st.integers(0, 60) | st.integers(limits.NS_MAX - 2, limits.NS_MAX)
_rows = st.tuples(*[_cells] * len(rules.EMPTY_ROW))
_routes = st.dictionaries(opaque_ids | st.just(limits.OVERFLOW_ROUTE), _rows, max_size=4)
_timed_words = st.none() | st.tuples(
    st.integers(0, 3), st.sampled_from(["p", "q"]), st.sampled_from(["flask", "django"])
)
_extremes = st.none() | st.integers(0, 100)
_truths = st.none() | st.booleans()

# For each rule, the accounts that it may combine. test_rules fails if a rule has no entry.
ACCOUNTS: dict[Rule[Any], st.SearchStrategy[Any]] = {
    rules.SUM: _totals,
    rules.DISTINCT: st.tuples(_ids, _totals),
    rules.UNION: st.frozensets(st.sampled_from(["n1", "slow", "security", "other"])),
    rules.FIRST: _timed_words,
    rules.FIRST_HELLO: _timed_words,
    rules.MAX: _extremes,
    rules.MIN: _extremes,
    rules.ANY: _truths,
    rules.ALL: _truths,
    rules.DISTINCT_ROUTES: _routes,
    rules.MEAN: _routes,
    rules.SLOWEST_P95: _routes,
    rules.DAEMON: st.none(),
}

# --- lines that a socket may receive ------------------------------------------------------------------------

_TEXTS = ["/home/ada/secret", "GET /users/7", "ada@example.org", "flask", "1.2.3-ada", "v20.11.0", "n1", "python"]
_NAMES = [*{name: None for fields in page.EVENTS.values() for name in fields}]

_numbers = st.one_of(
    st.integers(-2, 9),
    st.sampled_from([2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 86_400_000, 86_400_001]),
    st.floats(),
)
_scalars = st.none() | st.booleans() | _numbers | st.sampled_from(_TEXTS) | st.text(max_size=8)
json_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)

_values = _scalars | st.lists(_scalars, max_size=3) | st.lists(opaque_ids, max_size=3) | json_values
_by_field = st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=4), _values, max_size=4)
_by_route = st.dictionaries(
    opaque_ids | st.text(max_size=4), st.lists(_numbers, max_size=7) | st.tuples(*[_numbers] * 7) | _values, max_size=3
)
_events = st.builds(lambda name, fields: {**fields, "name": name}, st.sampled_from([*page.EVENTS, "no"]), _by_field)
_hellos = st.fixed_dictionaries(
    {"protocol": st.just(1) | _scalars},
    optional={
        "session": st.uuids().map(str) | _scalars,
        "group": st.uuids().map(str) | _scalars,
        "producer": st.uuids().map(str) | _scalars,
        "sdk": _values,
        "role": st.sampled_from(["worker", "owner"]) | _values,
    },
)
_near_lines = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("incr", "total", "set", "add", "mark"), _by_field | _values),
        "observe": _by_route | _values,
        "histogram": _by_route | _values,
        "event": _events | _values,
        "end": st.fixed_dictionaries({"exit_reason": _values}) | _by_field | _values,
        "hello": _hellos | _values,
        "ask": _values,
        "nonsense": _values,
    },
)

# Correct lines, nearly correct lines, wrong lines, and arbitrary bytes.
lines: st.SearchStrategy[bytes] = st.one_of(
    _near_lines.map(lambda line: json.dumps(line).encode()),
    json_values.map(lambda line: json.dumps(line).encode()),
    st.binary(max_size=40),
)
