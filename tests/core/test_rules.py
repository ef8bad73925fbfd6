from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from math import ceil, floor
from typing import Any

import pytest
from brakit_sidecar.core import rules
from brakit_sidecar.core.limits import BUCKETS, COUNT_MAX, NS_MAX, OVERFLOW_ROUTE
from brakit_sidecar.core.rules import EMPTY_ROW, RULES, Row, Rule
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import page
from tests.core.strategies import ACCOUNTS, durations_ns

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
few = settings(max_examples=30)  # examples for each of thirteen rules and two ways to combine

MERGE, AGGREGATE = "merge", "aggregate"
each_way = pytest.mark.parametrize("way", [MERGE, AGGREGATE])


def combined(rule: Rule[Any], way: str, a: Any, b: Any) -> Any:
    return rule.merge(a, b) if way == MERGE else rule.aggregate(a, b)


# --- laws, for every rule in the table ----------------------------------------------------------------------


def test_every_rule_has_a_strategy_for_its_accounts() -> None:
    assert set(ACCOUNTS) == set(RULES)


def test_two_rules_have_different_names() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


@each_rule
def test_the_repr_of_a_rule_has_its_name(rule: Rule[Any]) -> None:
    assert repr(rule) == f"<rule {rule.name}>"


@each_rule
@each_way
@few
@given(data=st.data())
def test_merge_and_aggregate_are_commutative(rule: Rule[Any], way: str, data: st.DataObject) -> None:
    a, b = data.draw(ACCOUNTS[rule]), data.draw(ACCOUNTS[rule])
    assert combined(rule, way, a, b) == combined(rule, way, b, a)


@each_rule
@each_way
@few
@given(data=st.data())
def test_merge_and_aggregate_are_associative(rule: Rule[Any], way: str, data: st.DataObject) -> None:
    a, b, c = (data.draw(ACCOUNTS[rule]) for _ in range(3))
    left = combined(rule, way, combined(rule, way, a, b), c)
    assert left == combined(rule, way, a, combined(rule, way, b, c))


@each_rule
@each_way
@few
@given(data=st.data())
def test_the_identity_is_neutral_to_merge_and_aggregate(rule: Rule[Any], way: str, data: st.DataObject) -> None:
    a = data.draw(ACCOUNTS[rule])
    assert combined(rule, way, rule.identity(), a) == combined(rule, way, a, rule.identity()) == a


@each_rule
@few
@given(data=st.data())
def test_merge_is_idempotent(rule: Rule[Any], data: st.DataObject) -> None:
    a = data.draw(ACCOUNTS[rule])
    assert rule.merge(a, a) == a


@each_rule
@few
@given(data=st.data())
def test_merging_an_older_account_again_changes_nothing(rule: Rule[Any], data: st.DataObject) -> None:
    a, b = data.draw(ACCOUNTS[rule]), data.draw(ACCOUNTS[rule])
    merged = rule.merge(a, b)
    assert rule.merge(merged, a) == rule.merge(merged, b) == merged


SUMMED_OVER_PRODUCERS = {rules.SUM, rules.DISTINCT, rules.DISTINCT_ROUTES, rules.MEAN, rules.SLOWEST_P95}


@pytest.mark.parametrize("rule", [r for r in RULES if r not in SUMMED_OVER_PRODUCERS], ids=lambda rule: rule.name)
@few
@given(data=st.data())
def test_aggregate_is_idempotent_unless_the_rule_sums(rule: Rule[Any], data: st.DataObject) -> None:
    a = data.draw(ACCOUNTS[rule])
    assert rule.aggregate(a, a) == a


@each_rule
@few
@given(data=st.data())
def test_merge_and_aggregate_do_not_change_their_arguments(rule: Rule[Any], data: st.DataObject) -> None:
    a, b = data.draw(ACCOUNTS[rule]), data.draw(ACCOUNTS[rule])
    before = repr((a, b))
    rule.merge(a, b)
    rule.aggregate(a, b)
    assert repr((a, b)) == before


NEVER_DOWN = [rules.SUM, rules.DISTINCT, rules.MAX, rules.ANY, rules.DISTINCT_ROUTES]
NEVER_UP = [rules.MIN, rules.ALL]


@pytest.mark.parametrize("rule", NEVER_DOWN, ids=lambda rule: rule.name)
@each_way
@few
@given(data=st.data())
def test_a_sum_a_max_and_an_any_never_go_down(rule: Rule[Any], way: str, data: st.DataObject) -> None:
    a, b = data.draw(ACCOUNTS[rule]), data.draw(ACCOUNTS[rule])
    before, after = rule.value(a), rule.value(combined(rule, way, a, b))
    assert before is None or after >= before


@pytest.mark.parametrize("rule", NEVER_UP, ids=lambda rule: rule.name)
@each_way
@few
@given(data=st.data())
def test_a_min_and_an_all_never_go_up(rule: Rule[Any], way: str, data: st.DataObject) -> None:
    a, b = data.draw(ACCOUNTS[rule]), data.draw(ACCOUNTS[rule])
    before, after = rule.value(a), rule.value(combined(rule, way, a, b))
    assert before is None or after <= before


@each_way
@few
@given(a=ACCOUNTS[rules.UNION], b=ACCOUNTS[rules.UNION])
def test_a_union_has_exactly_the_words_of_both_accounts(way: str, a: frozenset[str], b: frozenset[str]) -> None:
    assert rules.UNION.value(combined(rules.UNION, way, a, b)) == sorted({*a, *b})


# --- each rule by itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "nothing"),
    [
        (rules.SUM, 0),
        (rules.DISTINCT, 0),
        (rules.UNION, []),
        (rules.FIRST, None),
        (rules.FIRST_HELLO, None),
        (rules.MAX, None),
        (rules.MIN, None),
        (rules.ANY, None),
        (rules.ALL, None),
        (rules.DISTINCT_ROUTES, 0),
        (rules.MEAN, None),
        (rules.SLOWEST_P95, None),
        (rules.DAEMON, None),
    ],
    ids=lambda case: case.name if isinstance(case, Rule) else "",
)
def test_the_value_of_a_field_without_a_report_is_empty(rule: Rule[Any], nothing: object) -> None:
    assert rule.value(rule.identity()) == nothing


@pytest.mark.parametrize(
    ("rule", "keys"),
    [
        (rules.SUM, {"incr", "total"}),
        (rules.DISTINCT, {"incr", "total", "mark"}),
        (rules.UNION, {"add"}),
        (rules.FIRST, {"set"}),
        (rules.FIRST_HELLO, {"hello"}),
        (rules.MAX, {"set"}),
        (rules.MIN, {"set"}),
        (rules.ANY, {"set"}),
        (rules.ALL, {"set"}),
        (rules.DISTINCT_ROUTES, {"observe", "histogram"}),
        (rules.MEAN, {"observe", "histogram"}),
        (rules.SLOWEST_P95, {"observe", "histogram"}),
        (rules.DAEMON, set()),
    ],
    ids=lambda case: case.name if isinstance(case, Rule) else "",
)
def test_each_rule_accepts_its_own_keys_of_the_wire(rule: Rule[Any], keys: set[str]) -> None:
    assert rule.said_by == keys


@pytest.mark.parametrize("order", [*permutations([3, 7, 5])])
def test_the_rule_max_takes_the_largest_value_in_any_order_of_reports(order: tuple[int, ...]) -> None:
    account = rules.MAX.identity()
    for value in order:
        account = rules.MAX.aggregate(account, rules.MAX.account(value, 1, "p"))
    assert rules.MAX.value(account) == 7


@pytest.mark.parametrize("order", [*permutations([3, 7, 5])])
def test_the_rule_min_takes_the_smallest_value_in_any_order_of_reports(order: tuple[int, ...]) -> None:
    account = rules.MIN.identity()
    for value in order:
        account = rules.MIN.aggregate(account, rules.MIN.account(value, 1, "p"))
    assert rules.MIN.value(account) == 3


@pytest.mark.parametrize(
    ("values", "any_of", "all_of"),
    [([True, True], True, True), ([True, False], True, False), ([False, False], False, False)],
)
def test_the_any_and_the_all_of_booleans_are_booleans(values: list[bool], any_of: bool, all_of: bool) -> None:
    assert rules.ANY.value(rules.ANY.aggregate(*values)) is any_of
    assert rules.ALL.value(rules.ALL.aggregate(*values)) is all_of


def test_running_totals_merge_to_the_larger_total_and_aggregate_to_the_sum() -> None:
    assert (rules.SUM.merge(5, 7), rules.SUM.aggregate(5, 7)) == (7, 12)


def test_a_sum_saturates_at_the_largest_integer_that_every_json_reader_holds_exactly() -> None:
    assert rules.SUM.aggregate(COUNT_MAX, 1) == COUNT_MAX == 2**53 - 1


def test_five_ids_and_two_increments_count_as_seven() -> None:
    assert rules.DISTINCT.value((frozenset("abcde"), 2)) == 7


def test_aggregating_counts_an_id_of_two_producers_once_and_adds_their_increments() -> None:
    assert rules.DISTINCT.aggregate((frozenset("ab"), 1), (frozenset("bc"), 2)) == (frozenset("abc"), 3)


def test_merging_counts_an_id_once_and_takes_the_larger_total() -> None:
    assert rules.DISTINCT.merge((frozenset("ab"), 1), (frozenset("ab"), 2)) == (frozenset("ab"), 2)


def test_distinct_ids_and_increments_saturate_together() -> None:
    assert rules.DISTINCT.value((frozenset("ab"), COUNT_MAX)) == COUNT_MAX


def test_the_value_of_a_union_is_sorted() -> None:
    words = [rules.UNION.account(word, 1, "p") for word in ("slow", "n1", "slow", "security")]
    assert rules.UNION.value(frozenset().union(*words)) == ["n1", "security", "slow"]


@pytest.mark.parametrize(
    ("sooner", "later"),
    [
        ((1, "q", "flask"), (2, "p", "django")),
        ((1, "p", "flask"), (1, "q", "django")),
        ((1, "p", "django"), (1, "p", "flask")),
    ],
    ids=["by time", "then by producer", "then by value"],
)
def test_the_rule_first_takes_the_least_value_by_time_then_producer_then_value(
    sooner: rules.TimedValue, later: rules.TimedValue
) -> None:
    assert rules.FIRST.merge(later, sooner) == rules.FIRST.aggregate(sooner, later) == sooner


def test_an_account_of_first_has_the_time_and_the_producer_of_its_value() -> None:
    account = rules.FIRST.account("flask", 7, "p")
    assert account == (7, "p", "flask")
    assert rules.FIRST.value(account) == "flask"


# --- histograms ---------------------------------------------------------------------------------------------


def row_of(durations_ns: list[int]) -> Row:
    row = EMPTY_ROW
    for ns in durations_ns:
        row = rules.observed(row, ns / 1_000_000)
    return row


def naive_bucket(duration_ms: Fraction) -> str:
    edges = {"<200ms": 200, "200-500ms": 500, "500-1000ms": 1000, "1000-2000ms": 2000, "2000-5000ms": 5000}
    return next((bucket for bucket, edge in edges.items() if duration_ms < edge), ">5000ms")


def naive_p95(durations_ns: list[int]) -> str:
    rank = ceil(Fraction(95, 100) * len(durations_ns))
    return naive_bucket(Fraction(sorted(durations_ns)[rank - 1], 1_000_000))


def test_a_request_adds_its_nanoseconds_to_the_sum_and_one_to_its_bucket() -> None:
    assert rules.observed((5, 0, 1, 0, 0, 0, 0), 250.000001) == (250_000_006, 0, 2, 0, 0, 0, 0)


def test_a_cell_of_a_row_saturates_at_the_largest_signed_64_bit_integer() -> None:
    assert NS_MAX == 2**63 - 1
    assert rules.observed((NS_MAX,) * 7, 1.0) == (NS_MAX,) * 7


def test_rows_merge_to_the_larger_cells_and_aggregate_to_the_sums() -> None:
    a: rules.Histogram = {"r": (5, 1, 0, 0, 0, 0, 0)}
    b: rules.Histogram = {"r": (9, 1, 1, 0, 0, 0, 0)}
    assert rules.MEAN.merge(a, b) == {"r": (9, 1, 1, 0, 0, 0, 0)}
    assert rules.MEAN.aggregate(a, b) == {"r": (14, 2, 1, 0, 0, 0, 0)}


def test_aggregated_rows_saturate() -> None:
    assert rules.MEAN.aggregate({"r": (NS_MAX,) * 7}, {"r": (1,) * 7}) == {"r": (NS_MAX,) * 7}


def test_a_route_of_two_producers_is_counted_once() -> None:
    aggregated = rules.DISTINCT_ROUTES.aggregate({"r": row_of([1]), "s": row_of([1])}, {"s": row_of([1])})
    assert rules.DISTINCT_ROUTES.value(aggregated) == 2


def test_the_overflow_row_counts_towards_the_mean_but_is_not_a_route() -> None:
    routes = {"r": row_of([1_000_000]), OVERFLOW_ROUTE: row_of([3_000_000])}
    assert (rules.distinct_routes(routes), rules.mean_ms(routes)) == (1, 2)


@pytest.mark.parametrize(
    ("durations_ns", "mean"),
    [
        ([0], 0),
        ([499_999], 0),
        ([500_000], 1),
        ([1_499_999], 1),
        ([1_500_000], 2),
        ([2_500_000], 3),
        ([1_000_000, 2_000_000], 2),
        ([1_000_000, 1_000_000, 2_000_000], 1),
    ],
)
def test_the_mean_rounds_half_up(durations_ns: list[int], mean: int) -> None:
    assert rules.mean_ms({"r": row_of(durations_ns)}) == mean


def test_the_mean_of_a_row_that_contradicts_itself_is_at_most_one_day() -> None:
    assert rules.mean_ms({"r": (NS_MAX, 1, 0, 0, 0, 0, 0)}) == page.DAY_MS


def test_a_row_without_a_request_has_neither_mean_nor_p95() -> None:
    assert (rules.mean_ms({"r": EMPTY_ROW}), rules.slowest_p95({"r": EMPTY_ROW})) == (None, None)


@given(st.dictionaries(st.sampled_from("abc"), st.lists(durations_ns, min_size=1), min_size=1))
def test_the_mean_is_exact_over_all_durations_of_all_routes(by_route: dict[str, list[int]]) -> None:
    every = [Fraction(ns, 1_000_000) for route in by_route.values() for ns in route]
    exact = floor(sum(every) / len(every) + Fraction(1, 2))
    assert rules.mean_ms({route: row_of(durations) for route, durations in by_route.items()}) == exact


@pytest.mark.parametrize(
    ("fast", "slow", "bucket"),
    [
        (0, 1, ">5000ms"),
        (1, 1, ">5000ms"),
        (19, 1, "<200ms"),
        (18, 1, ">5000ms"),
        (95, 5, "<200ms"),
        (94, 6, ">5000ms"),
    ],
)
def test_the_p95_is_the_duration_at_the_nearest_rank(fast: int, slow: int, bucket: str) -> None:
    assert BUCKETS[rules.p95_bucket((0, fast, 0, 0, 0, 0, slow))] == bucket


@given(st.lists(durations_ns, min_size=1, max_size=60))
def test_the_six_bucket_counts_give_the_exact_bucket_of_the_p95(durations_ns: list[int]) -> None:
    assert BUCKETS[rules.p95_bucket(row_of(durations_ns))] == naive_p95(durations_ns)


@given(st.dictionaries(st.sampled_from("abc"), st.lists(durations_ns, min_size=1), min_size=1))
def test_the_slowest_p95_is_the_largest_bucket_of_any_route(by_route: dict[str, list[int]]) -> None:
    slowest = max(map(naive_p95, by_route.values()), key=BUCKETS.index)
    assert rules.slowest_p95({route: row_of(durations) for route, durations in by_route.items()}) == slowest
