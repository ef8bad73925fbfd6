"""The state that a producer can send again: its frames, and their order."""

from __future__ import annotations

from typing import Any

import pytest
from brakit_sidecar.client import counter_file
from brakit_sidecar.client.unsent_state import (
    ITEMS_PER_FRAME,
    MAX_EVENTS,
    MAX_MARKS,
    MAX_MISTAKES,
    MAX_WORDS,
    UnsentState,
)
from brakit_sidecar.core import limits
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, MAX_ROUTES
from brakit_sidecar.core.schema import SESSION_FIELDS
from brakit_sidecar.core.wire import MAX_LINE, encode
from hypothesis import given
from hypothesis import strategies as st

ROUTE = "9f3a61c2d4e5b607"


def new_state() -> UnsentState:
    return UnsentState(counter_file.private())


def all_frames(unsent: UnsentState) -> list[dict[str, Any]]:
    frames = []
    while (frame := unsent.next_frame()) is not None:
        frames.append(frame)
    return frames


def count(unsent: UnsentState, field: str, n: int) -> None:
    unsent.counter_file.cells[COUNTER_CELLS[field]] += n


def observe(unsent: UnsentState, route: str, took_ns: int, bucket: int) -> None:
    row = unsent.counter_file.row(route)
    unsent.counter_file.cells[row + 1] += took_ns
    unsent.counter_file.cells[row + 2 + bucket] += 1


# --- a counter file that was overwritten ------------------------------------------------------------------


def test_no_count_and_no_row_of_an_overwritten_file_is_sent() -> None:
    unsent = new_state()
    count(unsent, "request_count", 3)
    observe(unsent, ROUTE, 5_000_000, 0)
    text = b"a text of the application " * 20
    unsent.counter_file.cells.cast("B")[: len(text)] = text
    unsent.set("framework", "flask")
    unsent.owe_counts()
    assert all_frames(unsent) == [{"set": {"framework": "flask"}}]


# --- each item is sent once -------------------------------------------------------------------------------


def test_a_new_producer_has_no_frame_to_send() -> None:
    assert new_state().next_frame() is None


def test_the_items_of_several_calls_are_sent_in_one_frame() -> None:
    unsent = new_state()
    unsent.set("framework", "flask")
    unsent.add("insight_types", "n1")
    unsent.add("insight_types", "slow")
    unsent.add("tabs_viewed", "logs")
    unsent.mark("insight_count", ROUTE)
    assert all_frames(unsent) == [
        {
            "set": {"framework": "flask"},
            "add": {"insight_types": ["n1", "slow"], "tabs_viewed": ["logs"]},
            "mark": {"insight_count": [ROUTE]},
        }
    ]


def test_an_item_that_is_reported_again_is_not_sent_again() -> None:
    unsent = new_state()
    for _ in range(2):
        unsent.set("framework", "flask")
        unsent.add("insight_types", "n1")
        unsent.mark("insight_count", ROUTE)
        frames = all_frames(unsent)
    assert frames == []


def test_each_value_set_for_a_field_is_sent_in_order_in_its_own_frame() -> None:
    """The last value is not enough for a field whose rule takes the smallest or the first value."""
    unsent = new_state()
    for took in (300, 100, 200):
        unsent.set("setup_duration_ms", took)
    assert all_frames(unsent) == [{"set": {"setup_duration_ms": took}} for took in (300, 100, 200)]


def test_1_and_true_are_two_different_values() -> None:
    unsent = new_state()
    unsent.set("is_custom_command", 1)
    unsent.set("is_custom_command", True)
    assert [frame["set"]["is_custom_command"] for frame in all_frames(unsent)] == [1, True]
    assert [kind for _field, _value, kind in unsent.scalars] == [int, bool]


def test_state_is_sent_first_then_events_then_mistakes_and_then_the_end() -> None:
    unsent = new_state()
    unsent.finish("clean")
    unsent.mistake({"incr": {"?": None}})
    unsent.event("first_request", {"port": 8000})
    unsent.event("dashboard_viewed", {})
    unsent.set("framework", "flask")
    assert all_frames(unsent) == [
        {"set": {"framework": "flask"}},
        {"event": {"name": "first_request", "port": 8000}},
        {"event": {"name": "dashboard_viewed"}},
        {"incr": {"?": None}},
        {"end": {"exit_reason": "clean"}},
    ]


def test_a_field_called_name_does_not_replace_the_name_of_an_event() -> None:
    unsent = new_state()
    unsent.event("first_request", {"name": "session"})
    assert all_frames(unsent) == [{"event": {"name": "first_request"}}]


def test_state_that_changes_after_an_event_is_sent_next() -> None:
    unsent = new_state()
    unsent.event("first_request", {})
    unsent.next_frame()
    unsent.set("framework", "flask")
    assert all_frames(unsent) == [{"set": {"framework": "flask"}}]


def test_an_event_whose_frame_was_lost_is_sent_next() -> None:
    unsent = new_state()
    unsent.event("cli_invoked", {})
    unsent.event("cli_uninstall", {})
    lost = unsent.next_frame()
    assert lost is not None
    unsent.owe_event(lost)
    assert [frame["event"]["name"] for frame in all_frames(unsent)] == ["cli_invoked", "cli_uninstall"]


# --- counts and rows ------------------------------------------------------------------------------------------


def test_counts_are_not_sent_unless_they_are_queued() -> None:
    unsent = new_state()
    count(unsent, "request_count", 5)
    observe(unsent, ROUTE, 5, 0)
    assert unsent.next_frame() is None


def test_queued_counts_are_sent_as_running_totals() -> None:
    unsent = new_state()
    count(unsent, "request_count", 5)
    observe(unsent, ROUTE, 7, 2)
    unsent.owe_counts()
    assert all_frames(unsent) == [
        {
            "total": {"request_count": 5},
            "histogram": {limits.OVERFLOW_ROUTE: [0] * 7, ROUTE: [7, 0, 0, 1, 0, 0, 0]},
        }
    ]


def test_a_queued_count_has_its_value_at_the_time_of_sending() -> None:
    unsent = new_state()
    count(unsent, "request_count", 5)
    unsent.owe("total", "request_count")
    count(unsent, "request_count", 2)
    assert all_frames(unsent) == [{"total": {"request_count": 7}}]


def test_a_count_that_is_queued_twice_is_sent_once() -> None:
    unsent = new_state()
    count(unsent, "request_count", 5)
    unsent.owe("total", "request_count")
    unsent.owe("total", "request_count")
    assert all_frames(unsent) == [{"total": {"request_count": 5}}]


# --- a daemon that does not know the producer ----------------------------------------------------------------------


def test_a_new_daemon_gets_all_state_again_but_no_repeated_event_and_no_mistake() -> None:
    unsent = new_state()
    unsent.set("framework", "flask")
    unsent.add("insight_types", "n1")
    unsent.mark("insight_count", ROUTE)
    unsent.event("first_request", {"port": 8000})
    unsent.event("cli_invoked", {})
    unsent.mistake({"incr": {"?": None}})
    unsent.finish("sigterm")
    first = all_frames(unsent)
    unsent.owe_everything()
    assert all_frames(unsent) == [first[0], {"event": {"name": "first_request", "port": 8000}}, first[-1]]


def test_a_new_daemon_gets_no_end_before_the_producer_has_ended() -> None:
    unsent = new_state()
    unsent.owe_everything()
    assert unsent.next_frame() is None


def test_queueing_everything_keeps_the_events_that_still_wait() -> None:
    unsent = new_state()
    unsent.event("first_request", {})
    unsent.event("cli_invoked", {})
    unsent.owe_everything()
    assert [frame["event"]["name"] for frame in all_frames(unsent)] == ["first_request", "cli_invoked"]


def test_a_lost_once_only_event_is_sent_once_to_the_next_daemon() -> None:
    unsent = new_state()
    unsent.event("first_request", {})
    lost = unsent.next_frame()
    assert lost is not None
    unsent.owe_event(lost)
    unsent.owe_everything()
    assert all_frames(unsent) == [lost]


def test_is_all_sent_is_false_until_the_repeated_events_are_sent() -> None:
    unsent = new_state()
    unsent.event("first_request", {})
    assert not unsent.is_all_sent
    all_frames(unsent)
    assert unsent.is_all_sent
    unsent.owe_everything()
    assert not unsent.is_all_sent


# --- bounds ---------------------------------------------------------------------------------------------------


def test_the_number_of_values_of_a_scalar_field_is_bounded() -> None:
    unsent = new_state()
    for number in range(MAX_WORDS + 10):
        unsent.set("setup_duration_ms", number)
    unsent.set("framework", "flask")
    sets = [frame["set"] for frame in all_frames(unsent)]
    assert [values["setup_duration_ms"] for values in sets] == [*range(MAX_WORDS)]
    assert [values["framework"] for values in sets if "framework" in values] == ["flask"]


@pytest.mark.parametrize("add", [UnsentState.add, UnsentState.mark])
def test_the_number_of_members_of_a_field_is_bounded(add: Any) -> None:
    unsent = new_state()
    for number in range(MAX_MARKS + 10):
        add(unsent, "insight_count", f"{number:016x}")
        add(unsent, "endpoint_count", f"{number % 3:016x}")
    members = [frame[key] for frame in all_frames(unsent) for key in frame]
    assert sum(len(fields.get("insight_count", [])) for fields in members) == MAX_MARKS
    assert sum(len(fields.get("endpoint_count", [])) for fields in members) == 3


def test_the_latest_events_and_mistakes_are_kept_and_earlier_events_and_mistakes_are_dropped() -> None:
    unsent = new_state()
    for number in range(MAX_EVENTS + MAX_MISTAKES):
        unsent.event("cli_invoked", {"number": number})
        unsent.mistake({"number": number})
    frames = all_frames(unsent)
    assert [frame["event"]["number"] for frame in frames[:MAX_EVENTS]] == [*range(MAX_MISTAKES, 128)]
    assert [frame["number"] for frame in frames[MAX_EVENTS:]] == [*range(MAX_EVENTS, 128)]


def test_the_events_that_are_repeated_are_bounded_and_all_events_are_sent() -> None:
    unsent = new_state()
    for number in range(MAX_EVENTS + 10):
        unsent.event("setup_completed", {"number": number})
    assert [frame["event"]["number"] for frame in all_frames(unsent)] == [*range(MAX_EVENTS + 10)]
    unsent.owe_everything()
    assert [frame["event"]["number"] for frame in all_frames(unsent)] == [*range(MAX_EVENTS)]


LONGEST_WORD = "\N{PILE OF POO}" * 64  # twelve bytes of JSON per character, at the maximum length


def test_no_frame_is_longer_than_a_line_may_be() -> None:
    unsent = new_state()
    for field in SESSION_FIELDS:
        unsent.set(field, LONGEST_WORD)
        for number in range(ITEMS_PER_FRAME):
            unsent.add(field, f"{number:03}{LONGEST_WORD}"[:64])
            unsent.mark(field, f"{number:016x}")
    for field in COUNTER_CELLS:
        count(unsent, field, limits.COUNT_MAX)
    for number in range(MAX_ROUTES):
        row = unsent.counter_file.row(f"{number:016x}")
        unsent.counter_file.cells[row + 1 : row + 8] = memoryview((limits.NS_MAX).to_bytes(8, "little") * 7).cast("Q")
    unsent.owe_counts()
    frames = all_frames(unsent)
    assert max(len(encode(frame)) for frame in frames) <= MAX_LINE
    assert sum(len(frame.get("histogram", {})) for frame in frames) == 1 + MAX_ROUTES


def test_items_that_do_not_fit_into_a_frame_are_in_the_next_frames() -> None:
    unsent = new_state()
    for number in range(2 * ITEMS_PER_FRAME + 1):
        unsent.mark("insight_count", f"{number:016x}")
    marks = [mark for frame in all_frames(unsent) for mark in frame["mark"]["insight_count"]]
    assert marks == [f"{number:016x}" for number in range(2 * ITEMS_PER_FRAME + 1)]


_FIELDS = st.sampled_from(["framework", "insight_types", "insight_count"])
_calls = st.one_of(
    st.tuples(st.just("set"), _FIELDS, st.sampled_from(["flask", "django", 1, True, 1.0])),
    st.tuples(st.just("add"), _FIELDS, st.sampled_from(["n1", "slow", "flask"])),
    st.tuples(st.just("mark"), _FIELDS, st.sampled_from([ROUTE, "0" * 16])),
)


@given(st.lists(st.tuples(_calls, st.booleans())))
def test_every_item_is_sent_once_no_matter_when_frames_are_taken(
    reported: list[tuple[tuple[str, str, Any], bool]],
) -> None:
    unsent = new_state()
    frames = []
    for (call, field, word), take in reported:
        getattr(unsent, call)(field, word)
        if take:
            frames += all_frames(unsent)
    frames += all_frames(unsent)
    sent = [("set", field, word, type(word)) for frame in frames for field, word in frame.get("set", {}).items()]
    for key in ("add", "mark"):
        sent += [
            (key, field, word, str) for frame in frames for field, words in frame.get(key, {}).items() for word in words
        ]
    assert len(sent) == len(set(sent))
    assert set(sent) == {(call, field, word, type(word)) for (call, field, word), _ in reported}
