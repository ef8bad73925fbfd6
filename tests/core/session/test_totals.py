from __future__ import annotations

import json
from typing import Any

import pytest
from brakit_sidecar.core import limits
from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from brakit_sidecar.core.frames import Frame, Occurred, parse
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.core.schema import JOURNEY, SESSION, SESSION_FIELDS
from brakit_sidecar.core.session import totals
from brakit_sidecar.core.session.totals import ProducerTotals, SessionTotals
from hypothesis import given
from hypothesis import strategies as st

from tests.core import page, strategies

ID_A, ID_B, ID_C = "a" * 16, "b" * 16, "c" * 16


def frame(**keys: Any) -> Frame:
    made = parse(json.dumps(keys).encode())
    assert not made.refused
    return made


class Told:
    """A session that is told lines, a millisecond apart."""

    def __init__(self) -> None:
        self.state = SessionTotals()
        self.ms = 0
        self.sent: list[Occurred] = []
        self.refused: list[Refusal] = []

    def says(self, producer: str, **keys: Any) -> Told:
        self.ms += 1
        sent, refused = self.state.apply(producer, frame(**keys), self.ms * 1_000_000, self.ms)
        self.sent += sent
        self.refused += refused
        return self

    def greets(self, producer: str, sdk: str) -> Told:
        self.ms += 1
        self.state.greet(producer, sdk, self.ms * 1_000_000)
        return self

    def __getitem__(self, name: str) -> Any:
        return self.state.report(SESSION, {}, {})[name]


# --- counts -------------------------------------------------------------------------------------------------


def test_increments_add_up_over_lines_and_producers() -> None:
    told = (
        Told()
        .says("p", incr={"request_count": 2})
        .says("p", incr={"request_count": 3})
        .says("q", incr={"request_count": 4})
    )
    assert told["request_count"] == 9


def test_a_total_said_again_changes_nothing_and_a_smaller_one_comes_late() -> None:
    told = Told().says("p", total={"request_count": 57}).says("p", total={"request_count": 57})
    assert told.says("p", total={"request_count": 40})["request_count"] == 57


def test_an_increment_goes_on_from_the_total() -> None:
    assert Told().says("p", total={"query_count": 5}).says("p", incr={"query_count": 2})["query_count"] == 7


def test_totals_of_producers_are_summed() -> None:
    assert Told().says("p", total={"error_count": 5}).says("q", total={"error_count": 5})["error_count"] == 10


def test_a_producers_total_saturates() -> None:
    told = Told().says("p", total={"fetch_count": page.COUNT_MAX}).says("p", incr={"fetch_count": page.COUNT_MAX})
    assert told["fetch_count"] == page.COUNT_MAX


def test_a_producer_that_comes_back_goes_on_from_where_it_left() -> None:
    told = Told().greets("p", "python").says("p", incr={"request_count": 5})
    assert told.greets("p", "python").says("p", incr={"request_count": 1})["request_count"] == 6
    assert [*told.state.producers] == ["p"]


# --- distinct ids -------------------------------------------------------------------------------------------


def test_the_same_insight_seen_by_two_workers_is_one() -> None:
    told = Told().says("p", mark={"insight_count": [ID_A, ID_B]}).says("q", mark={"insight_count": [ID_A]})
    assert told["insight_count"] == 2


def test_plain_increments_count_beside_ids() -> None:
    told = Told().says("p", mark={"finding_count": [ID_A, ID_B]}, incr={"finding_count": 2})
    assert told.says("q", total={"finding_count": 3})["finding_count"] == 7


def test_marks_of_one_field_are_none_of_another() -> None:
    told = Told().says("p", mark={"insight_count": [ID_A], "finding_count": [ID_A, ID_B]})
    assert (told["insight_count"], told["finding_count"]) == (1, 2)


def test_marks_beyond_what_a_producer_may_make_the_daemon_remember_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_MARKS", 2)
    told = Told().says("p", mark={"insight_count": [ID_A, ID_B, ID_C, ID_A], "finding_count": [ID_C]})
    assert told.refused == [Refusal.TOO_MANY]
    assert (told["insight_count"], told["finding_count"]) == (2, 1)


# --- scalars and sets ---------------------------------------------------------------------------------------


def test_the_framework_is_the_first_that_is_not_unknown() -> None:
    told = Told().says("q", set={"framework": "unknown"}).says("q", set={"framework": "flask"})
    assert told.says("p", set={"framework": "django"})["framework"] == "flask"


def test_another_framework_is_a_framework() -> None:
    assert Told().says("p", set={"framework": "homemade"}).says("p", set={"framework": "flask"})["framework"] == "other"


def test_frames_at_the_same_instant_are_ordered_by_their_arrival() -> None:
    session = SessionTotals()
    session.apply("q", frame(set={"package_manager": "uv"}), when_ns=7, elapsed_ms=0)
    session.apply("p", frame(set={"package_manager": "pip"}), when_ns=7, elapsed_ms=0)
    assert session.total("package_manager") == "uv"


def test_a_word_bears_the_time_at_which_it_was_said_and_no_two_frames_bear_the_same() -> None:
    session = SessionTotals()
    for producer in ("p", "q"):
        session.apply(producer, frame(set={"framework": "flask"}), when_ns=7, elapsed_ms=0)
    session.greet("r", "python", when_ns=100)
    said = [account.values for account in session.producers.values()]
    assert said == [{"framework": (7, "p", "flask")}, {"framework": (8, "q", "flask")}, {"sdk": (100, "r", "python")}]


def test_the_sdk_is_the_first_of_the_hellos_that_knows_it() -> None:
    assert Told().greets("p", "unknown").greets("q", "python").greets("r", "node")["sdk"] == "python"


def test_without_a_workers_hello_the_sdk_is_unknown_whatever_else_is_said() -> None:
    assert Told().says("owner", event={"name": "cli_invoked", "sdk": "node"})["sdk"] == "unknown"


@pytest.mark.parametrize(
    ("field", "said", "reported"),
    [
        ("is_custom_command", [False, True, False], True),
        ("explain_used", [False, False], False),
        ("setup_succeeded", [True, True], True),
        ("setup_succeeded", [True, False, True], False),
        ("setup_duration_ms", [42, 97, 13], 97),
        ("time_to_first_request_ms", [42, 97, 13], 13),
        ("time_to_dashboard_ms", [0, 5], 0),
        ("brakit_version", ["0.1.7", "0.1.8"], "0.1.7"),
        ("node_version", ["v22.0.1", "v20.11.0"], "v22.0.1"),
        ("python_version", ["3.12.1", "3.13.0"], "3.12.1"),
        ("package_manager", ["unknown", "uv", "pip"], "uv"),
    ],
)
def test_scalars_of_workers_merge_by_their_fields_rule(field: str, said: list[Any], reported: object) -> None:
    told = Told()
    for number, word in enumerate(said):
        told.says(f"p{-number}", set={field: word})
    assert told[field] == reported


def test_sets_of_workers_are_united_and_sorted() -> None:
    told = Told().says("p", add={"insight_types": ["slow", "n1"]}).says("q", add={"insight_types": ["n1", "homemade"]})
    assert told["insight_types"] == ["n1", "other", "slow"]


# --- durations ----------------------------------------------------------------------------------------------


def test_durations_of_workers_are_read_together() -> None:
    told = Told().says("p", observe={ID_A: [100] * 19}).says("q", observe={ID_A: [6000], ID_B: [300]})
    assert told["endpoint_count"] == 2
    assert told["avg_duration_ms"] == 390  # 8200 / 21, rounded half up
    assert told["slowest_endpoint_bucket"] == "200-500ms"  # one of twenty is above the 95th percentile


def test_a_running_row_said_again_changes_nothing_and_an_older_one_neither() -> None:
    told = Told().says("p", histogram={ID_A: [4_000_000, 2, 0, 0, 0, 0, 0]})
    told.says("p", histogram={ID_A: [4_000_000, 2, 0, 0, 0, 0, 0]}).says(
        "p", histogram={ID_A: [1_000_000, 1, 0, 0, 0, 0, 0]}
    )
    assert (told["avg_duration_ms"], told.state.producer("p").routes) == (2, {ID_A: (4_000_000, 2, 0, 0, 0, 0, 0)})


def test_an_observation_goes_on_from_the_running_row() -> None:
    told = Told().says("p", histogram={ID_A: [4_000_000, 2, 0, 0, 0, 0, 0]}).says("p", observe={ID_A: [8]})
    assert told["avg_duration_ms"] == 4


def test_running_rows_of_workers_are_summed() -> None:
    told = Told().says("p", histogram={ID_A: [1_000_000, 1, 0, 0, 0, 0, 0]})
    told.says("q", histogram={ID_A: [3_000_000, 1, 0, 0, 0, 0, 0]})
    assert (told["avg_duration_ms"], told["endpoint_count"]) == (2, 1)


def test_routes_beyond_the_bound_feed_durations_and_are_no_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_ROUTES", 1)
    told = Told().says("p", observe={ID_A: [1], ID_B: [5]}).says("p", histogram={ID_C: [9_000_000, 0, 0, 0, 0, 0, 1]})
    told.says("p", observe={ID_A: [1]})
    assert set(told.state.producer("p").routes) == {ID_A, limits.OVERFLOW_ROUTE}
    assert (told["endpoint_count"], told.refused) == (1, [])
    assert told["slowest_endpoint_bucket"] == ">5000ms"


@pytest.mark.parametrize("route", ["0" * 16, "f" * 16])
def test_every_opaque_id_is_an_endpoint(route: str) -> None:
    assert Told().says("p", observe={route: [1]})["endpoint_count"] == 1


def test_a_producers_memory_is_taken_in_as_if_it_had_just_been_said() -> None:
    told = Told().says("p", incr={"request_count": 3}, observe={ID_A: [1]})
    contents = CounterSnapshot({"request_count": 5, "error_count": 1}, {ID_A: (4_000_000, 2, 0, 0, 0, 0, 0)})
    for _ in range(2):
        told.state.producer("p").merge_snapshot(contents)
    assert (told["request_count"], told["error_count"], told["avg_duration_ms"], told["endpoint_count"]) == (5, 1, 2, 1)


def test_an_older_reading_of_a_producers_memory_loses_nothing() -> None:
    told = Told().says("p", total={"request_count": 5}, histogram={ID_A: [4_000_000, 2, 0, 0, 0, 0, 0]})
    told.state.producer("p").merge_snapshot(
        CounterSnapshot({"request_count": 4}, {ID_A: (1_000_000, 1, 0, 0, 0, 0, 0)})
    )
    assert (told["request_count"], told["avg_duration_ms"]) == (5, 2)


def test_one_producers_overflow_takes_no_room_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_ROUTES", 1)
    told = Told().says("p", observe={ID_A: [1], ID_B: [1]}).says("q", observe={ID_B: [1]})
    assert told["endpoint_count"] == 2


# --- what was said before -------------------------------------------------------------------------------------


def test_what_is_recalled_stands_beside_what_was_said_since() -> None:
    told = Told().says("q", set={"framework": "django"}, incr={"request_count": 1})
    told.state.replay("p", frame(set={"framework": "flask"}, total={"request_count": 2}), 0, sdk="node")
    assert (told["framework"], told["request_count"], told["sdk"]) == ("flask", 3, "node")
    told.state.replay("p", frame(total={"request_count": 2}), 0)
    assert told["request_count"] == 3


# --- producers that are gone for good -----------------------------------------------------------------------


def test_accounts_that_become_one_change_nothing_of_what_is_reported() -> None:
    told = Told().greets("p", "python").greets("q", "python")
    for producer, framework in (("p", "flask"), ("q", "django"), ("r", "fastapi")):
        told.says(
            producer, incr={"request_count": 2}, set={"framework": framework}, add={"insight_types": ["n1", "slow"]}
        )
        told.says(producer, mark={"insight_count": [ID_A]}, observe={ID_B: [1, 600], ID_C: [3]})
    before = told.state.report(SESSION, {}, {})
    told.state.compact(["p", "q", "never seen"])
    assert told.state.report(SESSION, {}, {}) == before
    assert len(told.state.producers) == 2
    told.state.compact(["r"])
    assert told.state.report(SESSION, {}, {}) == before
    assert len(told.state.producers) == 1


# --- events -------------------------------------------------------------------------------------------------


def test_an_event_of_a_session_is_sent_once_and_said_again_still_merges_its_fields() -> None:
    told = Told().says("p", event={"name": "setup_completed", "setup_duration_ms": 4, "adapters_detected": ["pg"]})
    told.says("q", event={"name": "setup_completed", "setup_duration_ms": 9, "adapters_detected": ["prisma"]})
    assert told.sent == [Occurred(JOURNEY["setup_completed"], {"setup_duration_ms": 4, "adapters_detected": ["pg"]})]
    assert (told["setup_duration_ms"], told["adapters_detected"]) == (9, ["pg", "prisma"])
    assert told.state.occurred == {"setup_completed"}


def test_an_event_that_may_occur_each_time_is_sent_each_time() -> None:
    told = Told().says("p", event={"name": "cli_invoked"}).says("p", event={"name": "cli_invoked"})
    assert [occurred.event.name for occurred in told.sent] == ["cli_invoked", "cli_invoked"]
    assert told.state.occurred == set()


def test_the_daemon_fills_in_when_the_first_request_came() -> None:
    told = Told().says("p").says("p").says("p", event={"name": "first_request", "port": 8000})
    assert told.sent[0].fields == {"port": 8000, "time_to_first_request_ms": 3}
    assert told["time_to_first_request_ms"] == 3


def test_a_time_that_was_said_stands() -> None:
    told = Told().says("p").says("p").says("p", event={"name": "first_request", "time_to_first_request_ms": 1})
    assert told.sent[0].fields == {"time_to_first_request_ms": 1}


def test_a_time_that_the_session_knows_is_the_events_too() -> None:
    """As of an event that was said to a daemon which died before it sent it, and then to the next one."""
    told = Told().says("p", set={"time_to_first_request_ms": 1}).says("p").says("p", event={"name": "first_request"})
    assert told.sent[0].fields == {"time_to_first_request_ms": 1}


def test_an_event_said_again_changes_no_time_and_no_field_that_is_known() -> None:
    told = Told().says("p", incr={"request_count": 3})
    for _ in range(2):
        told.says("p", event={"name": "setup_completed", "framework": "flask", "setup_duration_ms": 4})
        told.says("p", event={"name": "first_request", "port": 8000})
        told.says("p", event={"name": "dashboard_viewed", "request_count_at_open": 1}).says("q")
        known = told.state.report(SESSION, {}, {})
    assert len(told.sent) == 3
    assert (known["time_to_first_request_ms"], known["time_to_dashboard_ms"]) == (3, 4)
    assert (known["framework"], known["setup_duration_ms"]) == ("flask", 4)


def test_a_time_beyond_a_day_is_a_day() -> None:
    session = SessionTotals()
    session.apply("p", frame(event={"name": "first_request"}), when_ns=0, elapsed_ms=page.DAY_MS + 1)
    assert session.total("time_to_first_request_ms") == page.DAY_MS


def test_a_dashboard_view_has_the_requests_of_all_workers_and_opens_the_dashboard() -> None:
    told = Told().says("p", incr={"request_count": 3}).says("q", incr={"request_count": 4})
    told.says("q", event={"name": "dashboard_viewed", "request_count_at_open": 4})
    assert told.sent[0].fields == {"request_count_at_open": 7, "time_to_dashboard_ms": 3}
    assert (told["dashboard_opened"], told["time_to_dashboard_ms"]) == (True, 3)


def test_a_dashboard_that_is_viewed_before_any_request_says_so() -> None:
    told = Told().says("p", event={"name": "dashboard_viewed"})
    assert told.sent[0].fields["request_count_at_open"] == 0


def test_an_event_counts_what_its_own_line_says() -> None:
    told = Told().says("p", event={"name": "dashboard_viewed"}, incr={"request_count": 1})
    assert told.sent[0].fields["request_count_at_open"] == 1


def test_what_an_event_says_for_itself_alone_the_session_does_not_learn() -> None:
    told = Told().says("p", event={"name": "first_request", "port": 8000, "sdk": "python", "brakit_version": "0.1.7"})
    assert set(told.state.producer("p").values) == {"brakit_version", "time_to_first_request_ms"}


# --- the report ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", page.EVENTS)
def test_of_an_event_that_nobody_said_anything_of_every_field_is_neutral(name: str) -> None:
    event = SESSION if name == "session" else JOURNEY[name]
    defaults = {field: promise.default for field, promise in page.EVENTS[name].items()}
    assert SessionTotals().report(event, {}, {}) == defaults


def test_a_report_is_what_was_said_then_what_the_daemon_knows_then_what_the_session_has() -> None:
    told = Told().greets("p", "python").says("p", set={"brakit_version": "0.1.7", "python_version": "3.12.1"})
    told.says("p", event={"name": "first_request", "port": 8000, "brakit_version": "0.1.8"})
    own = {"os": "linux-6.18.44", "arch": "x64", "brakit_version": "9.9.9", "python_version": "3.13.0"}
    assert told.state.report(JOURNEY["first_request"], told.sent[0].fields, own) == {
        "brakit_version": "0.1.8",
        "node_version": None,
        "python_version": "3.13.0",
        "os": "linux-6.18.44",
        "arch": "x64",
        "sdk": "python",
        "port": 8000,
        "time_to_first_request_ms": 3,
    }


def test_asking_for_the_report_changes_nothing() -> None:
    told = Told().says("p", observe={ID_A: [1]}).says("q", observe={ID_A: [1]}, mark={"insight_count": [ID_A]})
    first = told.state.report(SESSION, {}, {})
    assert told.state.report(SESSION, {}, {}) == first


def test_a_total_that_nobody_spoke_of_is_none_or_nothing() -> None:
    session = SessionTotals()
    assert (session.total("framework"), session.total("request_count")) == (None, 0)


@pytest.mark.parametrize("field", SESSION_FIELDS.values(), ids=lambda field: field.name)
def test_the_account_of_a_silent_producer_is_the_rules_identity(field: Any) -> None:
    assert ProducerTotals("p").account(field) == field.rule.identity()


def test_one_producers_garbage_leaves_another_producer_untouched() -> None:
    told = Told().says("p", incr={"request_count": 1})
    bad = parse(b'{"incr":{"request_count":-1},"set":{"framework":7},"observe":{"GET /":[1]},"event":{"name":"x"}}')
    assert told.state.apply("q", bad, 1, 1) == ([], [])
    assert told["request_count"] == 1


_idempotent = st.fixed_dictionaries(
    {},
    optional={
        "total": st.dictionaries(st.sampled_from(["request_count", "insight_count"]), strategies.counts),
        "set": st.fixed_dictionaries(
            {}, optional={"explain_used": st.booleans(), "setup_duration_ms": st.integers(0, 9)}
        ),
        "add": st.dictionaries(st.sampled_from(["tabs_viewed"]), st.lists(st.sampled_from(["logs", "errors"]))),
        "mark": st.dictionaries(st.sampled_from(["insight_count"]), st.lists(strategies.opaque_ids)),
        "histogram": st.dictionaries(strategies.opaque_ids, st.tuples(*[st.integers(0, 9)] * 7)),
    },
)


@given(st.lists(st.tuples(st.sampled_from("pq"), _idempotent), max_size=8), st.data())
def test_what_is_no_increment_may_come_in_any_order_and_any_number_of_times(
    history: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    again = data.draw(
        st.permutations([*history, *data.draw(st.lists(st.sampled_from(history)) if history else st.just([]))])
    )
    told, retold = Told(), Told()
    for producer, keys in history:
        told.says(producer, **keys)
    for producer, keys in again:
        retold.says(producer, **keys)
    assert told.state.report(SESSION, {}, {}) == retold.state.report(SESSION, {}, {})
