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

ENDPOINT_FAILURES = [
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
OTHER_REASONS = [reason for reason in Reason if reason not in ENDPOINT_FAILURES]
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


def test_events_are_sent_in_the_order_in_which_they_were_put() -> None:
    box = holding(1, 2)
    assert [box.next_task(0.0), box.next_task(0.0)] == [Send(event(1)), Send(event(2))]


def test_an_event_that_failed_is_not_tried_again() -> None:
    box = holding(1)
    box.next_task(0.0)
    box.report(TIMED_OUT, 0.0)
    assert box.next_task(0.0) is Wait.FOR_EVENTS


def test_only_a_few_events_are_sent_at_once() -> None:
    box = holding(*range(AT_ONCE + 1))
    assert all(isinstance(box.next_task(0.0), Send) for _ in range(AT_ONCE))
    assert box.next_task(0.0) is Wait.FOR_REPORTS
    box.report(SENT, 0.0)
    assert box.next_task(0.0) == Send(event(AT_ONCE))


def test_an_outbox_whose_events_are_all_being_sent_waits_for_reports() -> None:
    box = holding(1)
    box.next_task(0.0)
    assert box.next_task(0.0) is Wait.FOR_REPORTS


def test_an_event_is_queued_until_its_outcome_is_reported() -> None:
    box = holding(1, 2)
    assert box.queued == 2
    box.next_task(0.0)
    assert box.queued == 2
    box.report(SENT, 0.0)
    assert box.queued == 1


def test_a_full_outbox_drops_its_oldest_event_as_overflow() -> None:
    box = holding(*range(CAPACITY))
    assert [box.put(event(CAPACITY)), box.put(event(CAPACITY + 1))] == [event(0), event(1)]
    assert box.dropped == {Reason.OVERFLOW: 2}
    assert box.queued == CAPACITY
    assert box.next_task(0.0) == Send(event(2))


def test_an_outbox_with_room_drops_no_event() -> None:
    box = holding(*range(CAPACITY - 1))
    assert box.put(event(CAPACITY)) is None


def test_outcomes_are_counted_and_drops_are_counted_by_their_reason() -> None:
    box = Outbox()
    for verdict in (SENT, SENT, Verdict(Outcome.LOCAL, Reason.NO_KEY), TIMED_OUT, Verdict.dropped(Reason.CONSENT)):
        try_one(box, verdict)
    assert box.outcomes == {Outcome.SENT: 2, Outcome.LOCAL: 1, Outcome.DROPPED: 2}
    assert box.dropped == {Reason.TIMEOUT: 1, Reason.CONSENT: 1}


def test_giving_up_counts_and_returns_the_waiting_events_oldest_first() -> None:
    box = holding(*range(CAPACITY))
    assert box.give_up(Reason.SHUTDOWN) == [event(n) for n in range(CAPACITY)]
    assert box.dropped == {Reason.SHUTDOWN: CAPACITY}
    assert (box.queued, box.next_task(0.0)) == (0, Wait.FOR_EVENTS)


def test_giving_up_does_not_drop_an_event_that_is_being_sent() -> None:
    box = holding(1)
    box.next_task(0.0)
    assert box.give_up(Reason.CONSENT) == []
    assert box.queued == 1


def test_an_event_that_is_never_queued_is_counted() -> None:
    box = holding(1)
    box.settle(Verdict.dropped(Reason.NOBODY_JOINED))
    assert box.dropped == {Reason.NOBODY_JOINED: 1}
    assert box.queued == 1


# --- the breaker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ENDPOINT_FAILURES)
def test_repeated_failures_of_the_endpoint_open_the_breaker(reason: Reason) -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES):
        try_one(box, Verdict.dropped(reason), now=100.0)
    box.put(event(1))
    assert box.next_task(100.0) == Drop(event(1), Verdict.dropped(Reason.BREAKER))
    assert box.queued == 1


@pytest.mark.parametrize("reason", OTHER_REASONS)
def test_failures_that_are_not_caused_by_the_endpoint_do_not_open_the_breaker(reason: Reason) -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES + 1):
        try_one(box, Verdict.dropped(reason))


def test_one_failure_too_few_does_not_open_the_breaker() -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES - 1):
        try_one(box, TIMED_OUT)
    box.put(event(1))
    assert box.next_task(0.0) == Send(event(1))


def test_an_event_that_was_sent_resets_the_count_of_failures() -> None:
    box = Outbox()
    for _ in range(3):
        for _ in range(BREAKER_FAILURES - 1):
            try_one(box, TIMED_OUT)
        try_one(box, SENT)


def test_after_its_rest_the_breaker_opens_again_after_the_same_number_of_failures() -> None:
    box = Outbox()
    for _ in range(BREAKER_FAILURES):
        try_one(box, TIMED_OUT, now=100.0)
    for _ in range(BREAKER_FAILURES):
        try_one(box, TIMED_OUT, now=100.0 + BREAKER_REST_S)
    box.put(event(1))
    assert isinstance(box.next_task(100.0 + BREAKER_REST_S), Drop)


def test_an_event_that_the_breaker_dropped_is_not_a_failure_of_the_endpoint() -> None:
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


def test_only_an_event_that_was_sent_has_no_reason() -> None:
    assert SENT == (Outcome.SENT, Reason.NONE)
    assert [reason for reason in Reason if not reason.value] == [Reason.NONE]


# --- arbitrary sequences of calls ---------------------------------------------------------------------------

_steps = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 4)),
    st.tuples(st.just("next"), st.floats(0, 30)),
    st.tuples(st.just("report"), st.sampled_from([SENT, TIMED_OUT, Verdict.dropped(Reason.CLIENT_ERROR)])),
    st.tuples(st.just("give up"), st.just(Reason.SHUTDOWN)),
)


@settings(max_examples=200)
@given(st.lists(_steps, min_size=5, max_size=60))
def test_every_event_has_exactly_one_outcome_and_the_bounds_hold(steps: list[tuple[str, object]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "CAPACITY", 3)
        patch.setattr(outbox, "BREAKER_FAILURES", 2)
        check_outcomes_and_bounds(steps)


def check_outcomes_and_bounds(steps: list[tuple[str, object]]) -> None:
    box, now, put = Outbox(), 0.0, 0
    under_way: list[Send | Drop] = []
    ended: Counter[str] = Counter()
    for step, argument in steps:
        if step == "put":
            assert isinstance(argument, int)
            for _ in range(argument):
                put += 1
                if overflowed := box.put(event(put)):
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
        assert box.queued == put - sum(ended.values())
        assert sum(box.outcomes.values()) == sum(ended.values())
    assert set(ended.values()) <= {1}
