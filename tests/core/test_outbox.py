from __future__ import annotations

from collections import Counter

import pytest
from brakit_sidecar.core import outbox
from brakit_sidecar.core.outbox import (
    AT_ONCE,
    BREAKER_FAILURES,
    BREAKER_REST_S,
    CAPACITY,
    SENT,
    Drop,
    Outbox,
    Outcome,
    QueuedEvent,
    Reason,
    Send,
    Verdict,
    Wait,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ENDPOINT_IS_GONE = [
    Reason.NAME_RESOLUTION,
    Reason.REFUSED,
    Reason.UNREACHABLE,
    Reason.TLS,
    Reason.PROXY,
    Reason.TIMEOUT,
    Reason.RESET,
    Reason.BAD_ANSWER,
    Reason.SERVER_ERROR,
    Reason.TOO_MANY_REQUESTS,
]
ABOUT_ONE_EVENT_OR_US = [reason for reason in Reason if reason not in ENDPOINT_IS_GONE]
TIMED_OUT = Verdict.dropped(Reason.TIMEOUT)


def event(number: int) -> QueuedEvent:
    return QueuedEvent(name="session", uuid=str(number), distinct_id="anonymous", body=b"{}")


def holding(*numbers: int) -> Outbox:
    box = Outbox()
    for number in numbers:
        box.put(event(number))
    return box


def try_one(box: Outbox, verdict: Verdict, now: float = 0.0) -> None:
    box.put(event(0))
    assert isinstance(box.next_task(now), Send)
    box.report(verdict, now)


def test_an_empty_outbox_waits_for_events() -> None:
    assert Outbox().next_task(0.0) is Wait.FOR_EVENTS


def test_events_are_sent_in_the_order_in_which_they_came() -> None:
    box = holding(1, 2)
    assert [box.next_task(0.0), box.next_task(0.0)] == [Send(event(1)), Send(event(2))]


def test_an_event_is_tried_once_whatever_becomes_of_it() -> None:
    box = holding(1)
    box.next_task(0.0)
    box.report(TIMED_OUT, 0.0)
    assert box.next_task(0.0) is Wait.FOR_EVENTS


def test_no_more_than_a_few_are_under_way_at_once() -> None:
    box = holding(*range(AT_ONCE + 1))
    assert all(isinstance(box.next_task(0.0), Send) for _ in range(AT_ONCE))
    assert box.next_task(0.0) is Wait.FOR_REPORTS
    box.report(SENT, 0.0)
    assert box.next_task(0.0) == Send(event(AT_ONCE))


def test_with_all_under_way_and_none_waiting_it_waits_for_reports() -> None:
    box = holding(1)
    box.next_task(0.0)
    assert box.next_task(0.0) is Wait.FOR_REPORTS


def test_queued_are_all_whose_outcome_is_not_known_yet() -> None:
    box = holding(1, 2)
    assert box.queued == 2
    box.next_task(0.0)
    assert box.queued == 2
    box.report(SENT, 0.0)
    assert box.queued == 1


def test_where_there_is_no_room_the_oldest_goes_and_is_counted_as_overflow() -> None:
    box = holding(*range(CAPACITY))
    assert [box.put(event(CAPACITY)), box.put(event(CAPACITY + 1))] == [event(0), event(1)]
    assert box.dropped == {Reason.OVERFLOW: 2}
    assert box.queued == CAPACITY
    assert box.next_task(0.0) == Send(event(2))


def test_where_there_is_room_none_goes() -> None:
    box = holding(*range(CAPACITY - 1))
    assert box.put(event(CAPACITY)) is None


def test_outcomes_are_counted_and_drops_by_their_reason() -> None:
    box = Outbox()
    for verdict in (SENT, SENT, Verdict(Outcome.LOCAL, Reason.NO_KEY), TIMED_OUT, Verdict.dropped(Reason.CONSENT)):
        try_one(box, verdict)
    assert box.outcomes == {Outcome.SENT: 2, Outcome.LOCAL: 1, Outcome.DROPPED: 2}
    assert box.dropped == {Reason.TIMEOUT: 1, Reason.CONSENT: 1}


def test_giving_up_returns_what_waited_oldest_first_and_counts_it() -> None:
    box = holding(*range(CAPACITY))
    assert box.give_up(Reason.SHUTDOWN) == [event(n) for n in range(CAPACITY)]
    assert box.dropped == {Reason.SHUTDOWN: CAPACITY}
    assert (box.queued, box.next_task(0.0)) == (0, Wait.FOR_EVENTS)


def test_giving_up_leaves_what_is_under_way_to_its_report() -> None:
    box = holding(1)
    box.next_task(0.0)
    assert box.give_up(Reason.CONSENT) == []
    assert box.queued == 1


# --- the breaker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ENDPOINT_IS_GONE)
def test_repeated_failures_of_the_endpoint_spare_further_attempts_for_a_while(reason: Reason) -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES):
        try_one(box, Verdict.dropped(reason), now=100.0)
    box.put(event(1))
    assert box.next_task(100.0) == Drop(event(1), Verdict.dropped(Reason.BREAKER))
    assert box.queued == 1


@pytest.mark.parametrize("reason", ABOUT_ONE_EVENT_OR_US)
def test_failures_that_are_not_the_endpoints_spare_nothing(reason: Reason) -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES + 1):
        try_one(box, Verdict.dropped(reason))


def test_one_failure_less_spares_nothing() -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES - 1):
        try_one(box, TIMED_OUT)
    box.put(event(1))
    assert box.next_task(0.0) == Send(event(1))


def test_an_event_that_arrived_makes_the_failures_before_it_forgotten() -> None:
    box = Outbox()
    for _ in range(3):
        for _ in range(BREAKER_FAILURES - 1):
            try_one(box, TIMED_OUT)
        try_one(box, SENT)


def test_after_the_rest_the_endpoint_gets_as_many_chances_as_before() -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES):
        try_one(box, TIMED_OUT, now=100.0)
    for _ in range(BREAKER_FAILURES):
        try_one(box, TIMED_OUT, now=100.0 + BREAKER_REST_S)
    box.put(event(1))
    assert isinstance(box.next_task(100.0 + BREAKER_REST_S), Drop)


def test_events_that_the_breaker_dropped_are_no_failures_of_the_endpoint() -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES):
        try_one(box, TIMED_OUT, now=100.0)
    for _ in range(BREAKER_FAILURES):
        box.put(event(1))
        task = box.next_task(101.0)
        assert isinstance(task, Drop)
        box.report(task.verdict, 101.0)
    box.put(event(2))
    assert box.next_task(100.0 + BREAKER_REST_S) == Send(event(2))


def test_only_an_event_that_was_sent_needs_no_reason() -> None:
    assert SENT == (Outcome.SENT, Reason.NONE)
    assert [reason for reason in Reason if not reason.value] == [Reason.NONE]


# --- whatever happens ---------------------------------------------------------------------------------------

_steps = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 4)),
    st.tuples(st.just("next"), st.floats(0, 30)),
    st.tuples(st.just("report"), st.sampled_from([SENT, TIMED_OUT, Verdict.dropped(Reason.CLIENT_ERROR)])),
    st.tuples(st.just("give up"), st.just(Reason.SHUTDOWN)),
)


@settings(max_examples=200)
@given(st.lists(_steps, min_size=5, max_size=60))
def test_every_event_has_exactly_one_end_and_the_bounds_hold(steps: list[tuple[str, object]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "CAPACITY", 3)
        patch.setattr(outbox, "BREAKER_FAILURES", 2)
        _ends_once(steps)


def _ends_once(steps: list[tuple[str, object]]) -> None:
    box, now, came = Outbox(), 0.0, 0
    under_way: list[Send | Drop] = []
    ended: Counter[str] = Counter()
    for step, argument in steps:
        if step == "put":
            assert isinstance(argument, int)
            for _ in range(argument):
                came += 1
                if overflowed := box.put(event(came)):
                    ended[overflowed.uuid] += 1
        elif step == "next":
            assert isinstance(argument, float)
            now += argument
            task = box.next_task(now)
            if not isinstance(task, Wait):
                under_way.append(task)
            else:
                assert (task is Wait.FOR_REPORTS) == bool(under_way)
        elif step == "report" and under_way:
            task = under_way.pop(0)
            assert isinstance(argument, Verdict)
            box.report(task.verdict if isinstance(task, Drop) else argument, now)
            ended[task.event.uuid] += 1
        elif step == "give up":
            ended.update(given_up.uuid for given_up in box.give_up(Reason.SHUTDOWN))
        assert sum(isinstance(task, Send) for task in under_way) <= AT_ONCE
        assert len(box._waiting) <= 3
        assert box.queued == came - sum(ended.values())
        assert sum(box.outcomes.values()) == sum(ended.values())
    assert set(ended.values()) <= {1}
