"""What a producer has said, as state that can be said again: which frames come of it, and in which order."""

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


def new_account() -> UnsentState:
    return UnsentState(counter_file.private())


def all_frames(account: UnsentState) -> list[dict[str, Any]]:
    frames = []
    while (frame := account.next_frame()) is not None:
        frames.append(frame)
    return frames


def count(account: UnsentState, field: str, n: int) -> None:
    account.counter_file.cells[COUNTER_CELLS[field]] += n


def observe(account: UnsentState, route: str, took_ns: int, bucket: int) -> None:
    row = account.counter_file.row(route)
    account.counter_file.cells[row + 1] += took_ns
    account.counter_file.cells[row + 2 + bucket] += 1


# --- what was said is said once -------------------------------------------------------------------------------


def test_who_said_nothing_has_nothing_to_say() -> None:
    assert new_account().next_frame() is None


def test_what_was_said_in_several_calls_is_one_frame() -> None:
    account = new_account()
    account.set("framework", "flask")
    account.add("insight_types", "n1")
    account.add("insight_types", "slow")
    account.add("tabs_viewed", "logs")
    account.mark("insight_count", ROUTE)
    assert all_frames(account) == [
        {
            "set": {"framework": "flask"},
            "add": {"insight_types": ["n1", "slow"], "tabs_viewed": ["logs"]},
            "mark": {"insight_count": [ROUTE]},
        }
    ]


def test_what_is_said_again_changes_nothing() -> None:
    account = new_account()
    for _ in range(2):
        account.set("framework", "flask")
        account.add("insight_types", "n1")
        account.mark("insight_count", ROUTE)
        frames = all_frames(account)
    assert frames == []


def test_every_word_for_a_field_is_said_in_its_order_one_a_frame() -> None:
    """A field whose least word counts, or whose first, wants more than the last one."""
    account = new_account()
    for took in (300, 100, 200):
        account.set("setup_duration_ms", took)
    assert all_frames(account) == [{"set": {"setup_duration_ms": took}} for took in (300, 100, 200)]


def test_one_and_true_are_two_words() -> None:
    account = new_account()
    account.set("is_custom_command", 1)
    account.set("is_custom_command", True)
    assert [frame["set"]["is_custom_command"] for frame in all_frames(account)] == [1, True]
    assert [kind for _field, _value, kind in account.scalars] == [int, bool]


def test_state_is_said_before_events_and_those_before_mistakes_and_the_end_is_last() -> None:
    account = new_account()
    account.finish("clean")
    account.mistake({"incr": {"?": None}})
    account.event("first_request", {"port": 8000})
    account.event("dashboard_viewed", {})
    account.set("framework", "flask")
    assert all_frames(account) == [
        {"set": {"framework": "flask"}},
        {"event": {"name": "first_request", "port": 8000}},
        {"event": {"name": "dashboard_viewed"}},
        {"incr": {"?": None}},
        {"end": {"exit_reason": "clean"}},
    ]


def test_no_field_of_an_event_is_its_name() -> None:
    account = new_account()
    account.event("first_request", {"name": "session"})
    assert all_frames(account) == [{"event": {"name": "first_request"}}]


def test_state_that_changes_after_an_event_is_said_when_its_turn_comes() -> None:
    account = new_account()
    account.event("first_request", {})
    account.next_frame()
    account.set("framework", "flask")
    assert all_frames(account) == [{"set": {"framework": "flask"}}]


def test_an_event_that_did_not_get_through_is_the_next_one() -> None:
    account = new_account()
    account.event("cli_invoked", {})
    account.event("cli_uninstall", {})
    lost = account.next_frame()
    assert lost is not None
    account.owe_event(lost)
    assert [frame["event"]["name"] for frame in all_frames(account)] == ["cli_invoked", "cli_uninstall"]


# --- counts and rows ------------------------------------------------------------------------------------------


def test_counts_are_not_said_unless_they_are_owed() -> None:
    account = new_account()
    count(account, "request_count", 5)
    observe(account, ROUTE, 5, 0)
    assert account.next_frame() is None


def test_owed_counts_are_the_running_totals_of_what_was_counted() -> None:
    account = new_account()
    count(account, "request_count", 5)
    observe(account, ROUTE, 7, 2)
    account.owe_counts()
    assert all_frames(account) == [
        {
            "total": {"request_count": 5},
            "histogram": {limits.OVERFLOW_ROUTE: [0] * 7, ROUTE: [7, 0, 0, 1, 0, 0, 0]},
        }
    ]


def test_an_owed_count_is_said_as_it_stands_then() -> None:
    account = new_account()
    count(account, "request_count", 5)
    account.owe("total", "request_count")
    count(account, "request_count", 2)
    assert all_frames(account) == [{"total": {"request_count": 7}}]


def test_a_count_that_is_owed_twice_is_said_once() -> None:
    account = new_account()
    count(account, "request_count", 5)
    account.owe("total", "request_count")
    account.owe("total", "request_count")
    assert all_frames(account) == [{"total": {"request_count": 5}}]


# --- a daemon that has never heard of it ----------------------------------------------------------------------


def test_a_new_daemon_is_told_all_state_again_but_no_event_of_each_time_and_no_mistake() -> None:
    account = new_account()
    account.set("framework", "flask")
    account.add("insight_types", "n1")
    account.mark("insight_count", ROUTE)
    account.event("first_request", {"port": 8000})
    account.event("cli_invoked", {})
    account.mistake({"incr": {"?": None}})
    account.finish("sigterm")
    first = all_frames(account)
    account.owe_everything()
    assert all_frames(account) == [first[0], {"event": {"name": "first_request", "port": 8000}}, first[-1]]


def test_a_new_daemon_is_told_of_no_end_that_nobody_said() -> None:
    account = new_account()
    account.owe_everything()
    assert account.next_frame() is None


def test_owing_everything_forgets_no_event_that_still_waits() -> None:
    account = new_account()
    account.event("first_request", {})
    account.event("cli_invoked", {})
    account.owe_everything()
    assert [frame["event"]["name"] for frame in all_frames(account)] == ["first_request", "cli_invoked"]


def test_an_event_of_a_session_that_did_not_get_through_is_said_once_to_the_next_daemon() -> None:
    account = new_account()
    account.event("first_request", {})
    lost = account.next_frame()
    assert lost is not None
    account.owe_event(lost)
    account.owe_everything()
    assert all_frames(account) == [lost]


def test_all_is_said_when_what_is_said_again_is_too() -> None:
    account = new_account()
    account.event("first_request", {})
    assert not account.is_all_sent
    all_frames(account)
    assert account.is_all_sent
    account.owe_everything()
    assert not account.is_all_sent


# --- bounds ---------------------------------------------------------------------------------------------------


def test_no_more_words_of_a_scalar_field_are_kept_than_there_may_be() -> None:
    account = new_account()
    for number in range(MAX_WORDS + 10):
        account.set("setup_duration_ms", number)
    account.set("framework", "flask")
    said = [frame["set"] for frame in all_frames(account)]
    assert [words["setup_duration_ms"] for words in said] == [*range(MAX_WORDS)]
    assert [words["framework"] for words in said if "framework" in words] == ["flask"]


@pytest.mark.parametrize("say", [UnsentState.add, UnsentState.mark])
def test_no_more_members_of_a_field_are_kept_than_there_may_be(say: Any) -> None:
    account = new_account()
    for number in range(MAX_MARKS + 10):
        say(account, "insight_count", f"{number:016x}")
        say(account, "endpoint_count", f"{number % 3:016x}")
    members = [frame[key] for frame in all_frames(account) for key in frame]
    assert sum(len(fields.get("insight_count", [])) for fields in members) == MAX_MARKS
    assert sum(len(fields.get("endpoint_count", [])) for fields in members) == 3


def test_the_latest_events_and_mistakes_are_kept() -> None:
    account = new_account()
    for number in range(MAX_EVENTS + MAX_MISTAKES):
        account.event("cli_invoked", {"number": number})
        account.mistake({"number": number})
    frames = all_frames(account)
    assert [frame["event"]["number"] for frame in frames[:MAX_EVENTS]] == [*range(MAX_MISTAKES, 128)]
    assert [frame["number"] for frame in frames[MAX_EVENTS:]] == [*range(MAX_EVENTS, 128)]


def test_no_more_events_are_said_again_than_there_may_be_and_all_are_said() -> None:
    account = new_account()
    for number in range(MAX_EVENTS + 10):
        account.event("setup_completed", {"number": number})
    assert [frame["event"]["number"] for frame in all_frames(account)] == [*range(MAX_EVENTS + 10)]
    account.owe_everything()
    assert [frame["event"]["number"] for frame in all_frames(account)] == [*range(MAX_EVENTS)]


LONGEST_WORD = "\N{PILE OF POO}" * 64  # twelve bytes of JSON each, and as long as a word may be


def test_no_frame_is_longer_than_a_line_whatever_waits() -> None:
    account = new_account()
    for field in SESSION_FIELDS:
        account.set(field, LONGEST_WORD)
        for number in range(ITEMS_PER_FRAME):
            account.add(field, f"{number:03}{LONGEST_WORD}"[:64])
            account.mark(field, f"{number:016x}")
    for field in COUNTER_CELLS:
        count(account, field, limits.COUNT_MAX)
    for number in range(MAX_ROUTES):
        row = account.counter_file.row(f"{number:016x}")
        account.counter_file.cells[row + 1 : row + 8] = memoryview((limits.NS_MAX).to_bytes(8, "little") * 7).cast("Q")
    account.owe_counts()
    frames = all_frames(account)
    assert max(len(encode(frame)) for frame in frames) <= MAX_LINE
    assert sum(len(frame.get("histogram", {})) for frame in frames) == 1 + MAX_ROUTES


def test_what_does_not_fit_into_a_frame_is_in_the_next_ones() -> None:
    account = new_account()
    for number in range(2 * ITEMS_PER_FRAME + 1):
        account.mark("insight_count", f"{number:016x}")
    said = [mark for frame in all_frames(account) for mark in frame["mark"]["insight_count"]]
    assert said == [f"{number:016x}" for number in range(2 * ITEMS_PER_FRAME + 1)]


_FIELDS = st.sampled_from(["framework", "insight_types", "insight_count"])
_calls = st.one_of(
    st.tuples(st.just("set"), _FIELDS, st.sampled_from(["flask", "django", 1, True, 1.0])),
    st.tuples(st.just("add"), _FIELDS, st.sampled_from(["n1", "slow", "flask"])),
    st.tuples(st.just("mark"), _FIELDS, st.sampled_from([ROUTE, "0" * 16])),
)


@given(st.lists(st.tuples(_calls, st.booleans())))
def test_all_that_was_said_comes_out_once_whenever_it_is_asked_for(
    said: list[tuple[tuple[str, str, Any], bool]],
) -> None:
    account = new_account()
    frames = []
    for (call, field, word), ask in said:
        getattr(account, call)(field, word)
        if ask:
            frames += all_frames(account)
    frames += all_frames(account)
    came = [("set", field, word, type(word)) for frame in frames for field, word in frame.get("set", {}).items()]
    for key in ("add", "mark"):
        came += [
            (key, field, word, str) for frame in frames for field, words in frame.get(key, {}).items() for word in words
        ]
    assert len(came) == len(set(came))
    assert set(came) == {(call, field, word, type(word)) for (call, field, word), _ in said}
