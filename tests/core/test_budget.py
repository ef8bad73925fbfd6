"""At most so many events are sent in any 24 hours, and the clock may be set meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from brakit_sidecar.core.budget import HOUR_S, MAX_EVENTS, WINDOW, Budget
from hypothesis import given
from hypothesis import strategies as st

DAY_S = 24 * HOUR_S
NOW = 1_800_000_000.0  # the beginning of an hour
MOST = 3

steps = st.lists(st.one_of(st.floats(0, 2 * HOUR_S), st.floats(0, 30 * HOUR_S)), max_size=40)
budgets = st.dictionaries(
    st.integers(int(NOW // HOUR_S) - 50, int(NOW // HOUR_S) + 50), st.integers(1, MOST), max_size=30
).map(Budget)


def attempts(times: list[float], most: int = MOST) -> tuple[list[float], Budget]:
    """Try one event at each time. Returns the times at which one was sent, and what was counted then."""
    budget, sent = Budget(), []
    for now in times:
        taken = budget.take(now, most)
        if taken is not None:
            budget = taken
            sent.append(now)
    return sent, budget


@given(steps)
def test_no_24_hours_see_more_events(waits: list[float]) -> None:
    now, times = NOW, []
    for wait in waits:
        now += wait
        times.append(now)
    sent, _ = attempts(times)
    for first in sent:
        assert sum(first <= time < first + DAY_S for time in sent) <= MOST


@given(steps)
def test_an_event_is_sent_if_few_were_tried_in_the_last_25_hours(waits: list[float]) -> None:
    now, times = NOW, []
    for wait in waits:
        now += wait
        times.append(now)
    sent, _ = attempts(times)
    for time in times:
        if sum(time - WINDOW * HOUR_S <= other <= time for other in times) <= MOST:
            assert time in sent


@given(budgets, st.floats(NOW - 40 * HOUR_S, NOW + 40 * HOUR_S))
def test_setting_the_clock_back_frees_nothing(budget: Budget, now: float) -> None:
    later = {hour: number for hour, number in budget.sent.items() if hour * HOUR_S > now - DAY_S}
    assert sum(budget.at(now).sent.values()) >= sum(later.values())


@given(budgets, st.floats(0, NOW))
def test_a_clock_that_was_set_back_locks_out_for_at_most_25_hours(budget: Budget, now: float) -> None:
    first = budget.at(now)
    assert first.take(now + WINDOW * HOUR_S, MOST) is not None


@given(budgets, st.floats(NOW - 40 * HOUR_S, NOW + 40 * HOUR_S))
def test_the_size_is_bounded(budget: Budget, now: float) -> None:
    assert len(budget.at(now).sent) <= WINDOW


@given(budgets)
def test_a_budget_is_stored_and_read_back(budget: Budget) -> None:
    assert Budget.of_json(json.loads(json.dumps(budget.as_json()))).sent == budget.sent


@given(budgets, budgets)
def test_a_merged_budget_has_no_less_than_either(one: Budget, other: Budget) -> None:
    merged = one.merged(other).sent
    assert all(merged[hour] >= number for budget in (one, other) for hour, number in budget.sent.items())
    assert merged == other.merged(one).sent


def test_5000_events_are_sent_and_then_none_until_the_first_are_25_hours_old() -> None:
    sent, budget = attempts([NOW] * (MAX_EVENTS + 1), MAX_EVENTS)
    assert len(sent) == MAX_EVENTS
    assert budget.take(NOW + WINDOW * HOUR_S - 1) is None
    assert budget.take(NOW + WINDOW * HOUR_S) is not None


@pytest.mark.parametrize(
    "stored",
    [
        None, 7, "x", [1], {"x": 1}, {"-1": 1}, {"²": 1}, {"1" * 10: 1}, {"": 1}, {"5": 0}, {"5": -1}, {"5": 5001},
        {"5": True}, {"5": 1.0}, {"5": None}, {"5": {}},
    ],
)  # fmt: skip
def test_what_is_not_a_count_is_ignored(stored: Any) -> None:
    assert Budget.of_json(stored).sent == {}


def test_the_good_parts_of_a_stored_budget_are_read() -> None:
    assert Budget.of_json({"5": 7, "6": "x"}).sent == {5: 7}
