"""The totals: how the lines of several producers become the fields of a session's events."""

from __future__ import annotations

from typing import Any

import pytest
from brakit_sidecar.core import limits
from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from brakit_sidecar.core.frames import Occurred, parse
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.core.schema import JOURNEY, SESSION, SESSION_FIELDS
from brakit_sidecar.core.session import totals
from brakit_sidecar.core.session.totals import ProducerTotals, SessionTotals
from hypothesis import given
from hypothesis import strategies as st

from tests.core import page, strategies
from tests.core.session.story import frame

ID_A, ID_B, ID_C = "a" * 16, "b" * 16, "c" * 16


class Conversation:
    """A session that receives one line per millisecond."""

    def __init__(self) -> None:
        self.state = SessionTotals()
        self.ms = 0
        self.sent: list[Occurred] = []
        self.refused: list[Refusal] = []

    def send(self, producer: str, **keys: Any) -> Conversation:
        self.ms += 1
        sent, refused = self.state.apply(producer, frame(**keys), self.ms * 1_000_000, self.ms)
        self.sent += sent
        self.refused += refused
        return self

    def hello(self, producer: str, sdk: str) -> Conversation:
        self.ms += 1
        self.state.greet(producer, sdk, self.ms * 1_000_000)
        return self

    def __getitem__(self, name: str) -> Any:
        return self.state.report(SESSION, {}, {})[name]


# --- counts -------------------------------------------------------------------------------------------------


def test_increments_add_up_over_lines_and_producers() -> None:
    session = (
        Conversation()
        .send("p", incr={"request_count": 2})
        .send("p", incr={"request_count": 3})
        .send("q", incr={"request_count": 4})
    )
    assert session["request_count"] == 9


def test_a_repeated_total_and_a_smaller_total_change_nothing() -> None:
    session = Conversation().send("p", total={"request_count": 57}).send("p", total={"request_count": 57})
    assert session.send("p", total={"request_count": 40})["request_count"] == 57


def test_an_increment_adds_to_the_total() -> None:
    assert Conversation().send("p", total={"query_count": 5}).send("p", incr={"query_count": 2})["query_count"] == 7


def test_totals_are_summed_over_producers() -> None:
    assert Conversation().send("p", total={"error_count": 5}).send("q", total={"error_count": 5})["error_count"] == 10


def test_a_producers_total_saturates() -> None:
    session = (
        Conversation().send("p", total={"fetch_count": page.COUNT_MAX}).send("p", incr={"fetch_count": page.COUNT_MAX})
    )
    assert session["fetch_count"] == page.COUNT_MAX


def test_a_producer_that_reconnects_adds_to_its_totals() -> None:
    session = Conversation().hello("p", "python").send("p", incr={"request_count": 5})
    assert session.hello("p", "python").send("p", incr={"request_count": 1})["request_count"] == 6
    assert [*session.state.producers] == ["p"]


# --- distinct ids -------------------------------------------------------------------------------------------


def test_an_insight_that_two_workers_mark_counts_once() -> None:
    session = Conversation().send("p", mark={"insight_count": [ID_A, ID_B]}).send("q", mark={"insight_count": [ID_A]})
    assert session["insight_count"] == 2


def test_increments_count_in_addition_to_marked_ids() -> None:
    session = Conversation().send("p", mark={"finding_count": [ID_A, ID_B]}, incr={"finding_count": 2})
    assert session.send("q", total={"finding_count": 3})["finding_count"] == 7


def test_a_mark_counts_only_for_its_own_field() -> None:
    session = Conversation().send("p", mark={"insight_count": [ID_A], "finding_count": [ID_A, ID_B]})
    assert (session["insight_count"], session["finding_count"]) == (1, 2)


def test_marks_beyond_a_producers_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_MARKS", 2)
    session = Conversation().send("p", mark={"insight_count": [ID_A, ID_B, ID_C, ID_A], "finding_count": [ID_C]})
    assert session.refused == [Refusal.TOO_MANY]
    assert (session["insight_count"], session["finding_count"]) == (2, 1)


# --- scalars and sets ---------------------------------------------------------------------------------------


def test_the_framework_is_the_first_value_that_is_not_unknown() -> None:
    session = Conversation().send("q", set={"framework": "unknown"}).send("q", set={"framework": "flask"})
    assert session.send("p", set={"framework": "django"})["framework"] == "flask"


def test_a_framework_outside_the_vocabulary_is_reported_as_other() -> None:
    assert (
        Conversation().send("p", set={"framework": "homemade"}).send("p", set={"framework": "flask"})["framework"]
        == "other"
    )


def test_frames_at_the_same_instant_are_ordered_by_their_arrival() -> None:
    session = SessionTotals()
    session.apply("q", frame(set={"package_manager": "uv"}), when_ns=7, elapsed_ms=0)
    session.apply("p", frame(set={"package_manager": "pip"}), when_ns=7, elapsed_ms=0)
    assert session.total("package_manager") == "uv"


def test_a_value_has_the_time_of_its_frame_and_no_two_frames_have_the_same_time() -> None:
    session = SessionTotals()
    for producer in ("p", "q"):
        session.apply(producer, frame(set={"framework": "flask"}), when_ns=7, elapsed_ms=0)
    session.greet("r", "python", when_ns=100)
    values = [producer.values for producer in session.producers.values()]
    assert values == [{"framework": (7, "p", "flask")}, {"framework": (8, "q", "flask")}, {"sdk": (100, "r", "python")}]


def test_the_sdk_is_the_first_known_sdk_of_a_hello() -> None:
    assert Conversation().hello("p", "unknown").hello("q", "python").hello("r", "node")["sdk"] == "python"


def test_the_sdk_is_unknown_without_a_hello_even_if_an_event_names_it() -> None:
    assert Conversation().send("owner", event={"name": "cli_invoked", "sdk": "node"})["sdk"] == "unknown"


@pytest.mark.parametrize(
    ("field", "values", "reported"),
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
def test_scalars_of_several_workers_are_aggregated_by_the_fields_rule(
    field: str, values: list[Any], reported: object
) -> None:
    session = Conversation()
    for number, value in enumerate(values):
        session.send(f"p{-number}", set={field: value})
    assert session[field] == reported


def test_the_reported_set_is_the_sorted_union_over_workers() -> None:
    session = (
        Conversation()
        .send("p", add={"insight_types": ["slow", "n1"]})
        .send("q", add={"insight_types": ["n1", "homemade"]})
    )
    assert session["insight_types"] == ["n1", "other", "slow"]


# --- durations ----------------------------------------------------------------------------------------------


def test_average_and_percentile_are_taken_over_the_durations_of_all_workers() -> None:
    session = Conversation().send("p", observe={ID_A: [100] * 19}).send("q", observe={ID_A: [6000], ID_B: [300]})
    assert session["endpoint_count"] == 2
    assert session["avg_duration_ms"] == 390  # 8200 / 21, rounded half up
    assert session["slowest_endpoint_bucket"] == "200-500ms"  # one of twenty durations is above the 95th percentile


def test_a_repeated_row_and_an_older_row_change_nothing() -> None:
    session = Conversation().send("p", histogram={ID_A: [4_000_000, 2, 0, 0, 0, 0, 0]})
    session.send("p", histogram={ID_A: [4_000_000, 2, 0, 0, 0, 0, 0]}).send(
        "p", histogram={ID_A: [1_000_000, 1, 0, 0, 0, 0, 0]}
    )
    assert (session["avg_duration_ms"], session.state.producer("p").routes) == (
        2,
        {ID_A: (4_000_000, 2, 0, 0, 0, 0, 0)},
    )


def test_an_observation_adds_to_the_row() -> None:
    session = Conversation().send("p", histogram={ID_A: [4_000_000, 2, 0, 0, 0, 0, 0]}).send("p", observe={ID_A: [8]})
    assert session["avg_duration_ms"] == 4


def test_rows_are_summed_over_workers() -> None:
    session = Conversation().send("p", histogram={ID_A: [1_000_000, 1, 0, 0, 0, 0, 0]})
    session.send("q", histogram={ID_A: [3_000_000, 1, 0, 0, 0, 0, 0]})
    assert (session["avg_duration_ms"], session["endpoint_count"]) == (2, 1)


def test_routes_beyond_the_bound_count_in_the_durations_and_not_as_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_ROUTES", 1)
    session = (
        Conversation()
        .send("p", observe={ID_A: [1], ID_B: [5]})
        .send("p", histogram={ID_C: [9_000_000, 0, 0, 0, 0, 0, 1]})
    )
    session.send("p", observe={ID_A: [1]})
    assert set(session.state.producer("p").routes) == {ID_A, limits.OVERFLOW_ROUTE}
    assert (session["endpoint_count"], session.refused) == (1, [])
    assert session["slowest_endpoint_bucket"] == ">5000ms"


@pytest.mark.parametrize("route", ["0" * 16, "f" * 16])
def test_every_opaque_id_counts_as_an_endpoint(route: str) -> None:
    assert Conversation().send("p", observe={route: [1]})["endpoint_count"] == 1


def test_a_snapshot_of_the_counter_file_is_merged_like_totals_and_rows_of_a_line() -> None:
    session = Conversation().send("p", incr={"request_count": 3}, observe={ID_A: [1]})
    snapshot = CounterSnapshot({"request_count": 5, "error_count": 1}, {ID_A: (4_000_000, 2, 0, 0, 0, 0, 0)})
    for _ in range(2):
        session.state.producer("p").merge_snapshot(snapshot)
    assert (
        session["request_count"],
        session["error_count"],
        session["avg_duration_ms"],
        session["endpoint_count"],
    ) == (5, 1, 2, 1)


def test_an_older_snapshot_of_the_counter_file_lowers_no_reported_value() -> None:
    session = Conversation().send("p", total={"request_count": 5}, histogram={ID_A: [4_000_000, 2, 0, 0, 0, 0, 0]})
    session.state.producer("p").merge_snapshot(
        CounterSnapshot({"request_count": 4}, {ID_A: (1_000_000, 1, 0, 0, 0, 0, 0)})
    )
    assert (session["request_count"], session["avg_duration_ms"]) == (5, 2)


def test_too_many_routes_of_one_producer_do_not_limit_another_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MAX_ROUTES", 1)
    session = Conversation().send("p", observe={ID_A: [1], ID_B: [1]}).send("q", observe={ID_B: [1]})
    assert session["endpoint_count"] == 2


# --- replayed frames ----------------------------------------------------------------------------------------


def test_a_replayed_frame_is_merged_with_frames_that_arrived_before_the_replay() -> None:
    session = Conversation().send("q", set={"framework": "django"}, incr={"request_count": 1})
    session.state.replay("p", frame(set={"framework": "flask"}, total={"request_count": 2}), 0, sdk="node")
    assert (session["framework"], session["request_count"], session["sdk"]) == ("flask", 3, "node")
    session.state.replay("p", frame(total={"request_count": 2}), 0)
    assert session["request_count"] == 3


# --- compaction ---------------------------------------------------------------------------------------------


def test_compacting_producers_changes_nothing_in_the_report() -> None:
    session = Conversation().hello("p", "python").hello("q", "python")
    for producer, framework in (("p", "flask"), ("q", "django"), ("r", "fastapi")):
        session.send(
            producer, incr={"request_count": 2}, set={"framework": framework}, add={"insight_types": ["n1", "slow"]}
        )
        session.send(producer, mark={"insight_count": [ID_A]}, observe={ID_B: [1, 600], ID_C: [3]})
    before = session.state.report(SESSION, {}, {})
    session.state.compact(["p", "q", "never seen"])
    assert session.state.report(SESSION, {}, {}) == before
    assert len(session.state.producers) == 2
    session.state.compact(["r"])
    assert session.state.report(SESSION, {}, {}) == before
    assert len(session.state.producers) == 1


# --- events -------------------------------------------------------------------------------------------------


def test_a_once_only_event_is_sent_once_and_its_repetition_still_merges_its_fields() -> None:
    session = Conversation().send(
        "p", event={"name": "setup_completed", "setup_duration_ms": 4, "adapters_detected": ["pg"]}
    )
    session.send("q", event={"name": "setup_completed", "setup_duration_ms": 9, "adapters_detected": ["prisma"]})
    assert session.sent == [Occurred(JOURNEY["setup_completed"], {"setup_duration_ms": 4, "adapters_detected": ["pg"]})]
    assert (session["setup_duration_ms"], session["adapters_detected"]) == (9, ["pg", "prisma"])
    assert session.state.occurred == {"setup_completed"}


def test_an_event_that_may_occur_more_than_once_is_sent_each_time() -> None:
    session = Conversation().send("p", event={"name": "cli_invoked"}).send("p", event={"name": "cli_invoked"})
    assert [occurred.event.name for occurred in session.sent] == ["cli_invoked", "cli_invoked"]
    assert session.state.occurred == set()


def test_the_daemon_fills_in_the_time_of_the_first_request() -> None:
    session = Conversation().send("p").send("p").send("p", event={"name": "first_request", "port": 8000})
    assert session.sent[0].fields == {"port": 8000, "time_to_first_request_ms": 3}
    assert session["time_to_first_request_ms"] == 3


def test_a_time_that_the_producer_reports_is_kept() -> None:
    session = (
        Conversation().send("p").send("p").send("p", event={"name": "first_request", "time_to_first_request_ms": 1})
    )
    assert session.sent[0].fields == {"time_to_first_request_ms": 1}


def test_an_event_without_a_time_has_the_time_that_the_session_knows() -> None:
    """The session knows the time if a daemon died between receiving the event and sending it.

    The producer then reports the event again, to the next daemon.
    """
    session = (
        Conversation()
        .send("p", set={"time_to_first_request_ms": 1})
        .send("p")
        .send("p", event={"name": "first_request"})
    )
    assert session.sent[0].fields == {"time_to_first_request_ms": 1}


def test_a_repeated_event_changes_no_time_and_no_known_field() -> None:
    session = Conversation().send("p", incr={"request_count": 3})
    for _ in range(2):
        session.send("p", event={"name": "setup_completed", "framework": "flask", "setup_duration_ms": 4})
        session.send("p", event={"name": "first_request", "port": 8000})
        session.send("p", event={"name": "dashboard_viewed", "request_count_at_open": 1}).send("q")
        report = session.state.report(SESSION, {}, {})
    assert len(session.sent) == 3
    assert (report["time_to_first_request_ms"], report["time_to_dashboard_ms"]) == (3, 4)
    assert (report["framework"], report["setup_duration_ms"]) == ("flask", 4)


def test_a_time_of_more_than_a_day_is_reported_as_a_day() -> None:
    session = SessionTotals()
    session.apply("p", frame(event={"name": "first_request"}), when_ns=0, elapsed_ms=page.DAY_MS + 1)
    assert session.total("time_to_first_request_ms") == page.DAY_MS


def test_a_dashboard_view_holds_the_requests_of_all_workers_and_sets_dashboard_opened() -> None:
    session = Conversation().send("p", incr={"request_count": 3}).send("q", incr={"request_count": 4})
    session.send("q", event={"name": "dashboard_viewed", "request_count_at_open": 4})
    assert session.sent[0].fields == {"request_count_at_open": 7, "time_to_dashboard_ms": 3}
    assert (session["dashboard_opened"], session["time_to_dashboard_ms"]) == (True, 3)


def test_a_dashboard_view_before_any_request_holds_zero_requests() -> None:
    session = Conversation().send("p", event={"name": "dashboard_viewed"})
    assert session.sent[0].fields["request_count_at_open"] == 0


def test_an_event_includes_the_counts_of_its_own_line() -> None:
    session = Conversation().send("p", event={"name": "dashboard_viewed"}, incr={"request_count": 1})
    assert session.sent[0].fields["request_count_at_open"] == 1


def test_fields_that_belong_to_an_event_alone_are_not_merged_into_the_session() -> None:
    session = Conversation().send(
        "p", event={"name": "first_request", "port": 8000, "sdk": "python", "brakit_version": "0.1.7"}
    )
    assert set(session.state.producer("p").values) == {"brakit_version", "time_to_first_request_ms"}


# --- the report ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", page.EVENTS)
def test_every_field_of_an_event_has_its_default_if_no_producer_reported_it(name: str) -> None:
    event = SESSION if name == "session" else JOURNEY[name]
    defaults = {field: promise.default for field, promise in page.EVENTS[name].items()}
    assert SessionTotals().report(event, {}, {}) == defaults


def test_a_report_takes_values_first_from_the_event_then_from_the_daemon_then_from_the_session() -> None:
    session = Conversation().hello("p", "python").send("p", set={"brakit_version": "0.1.7", "python_version": "3.12.1"})
    session.send("p", event={"name": "first_request", "port": 8000, "brakit_version": "0.1.8"})
    daemons_own = {"os": "linux-6.18.44", "arch": "x64", "brakit_version": "9.9.9", "python_version": "3.13.0"}
    assert session.state.report(JOURNEY["first_request"], session.sent[0].fields, daemons_own) == {
        "brakit_version": "0.1.8",
        "node_version": None,
        "python_version": "3.13.0",
        "os": "linux-6.18.44",
        "arch": "x64",
        "sdk": "python",
        "port": 8000,
        "time_to_first_request_ms": 3,
    }


def test_making_a_report_changes_nothing() -> None:
    session = (
        Conversation().send("p", observe={ID_A: [1]}).send("q", observe={ID_A: [1]}, mark={"insight_count": [ID_A]})
    )
    first = session.state.report(SESSION, {}, {})
    assert session.state.report(SESSION, {}, {}) == first


def test_a_scalar_that_no_producer_reported_is_none_and_a_count_is_zero() -> None:
    session = SessionTotals()
    assert (session.total("framework"), session.total("request_count")) == (None, 0)


@pytest.mark.parametrize("field", SESSION_FIELDS.values(), ids=lambda field: field.name)
def test_a_producer_that_reported_nothing_has_the_rules_identity_in_every_field(field: Any) -> None:
    assert ProducerTotals("p").account(field) == field.rule.identity()


def test_bad_lines_of_one_producer_do_not_change_another_producer() -> None:
    session = Conversation().send("p", incr={"request_count": 1})
    bad = parse(b'{"incr":{"request_count":-1},"set":{"framework":7},"observe":{"GET /":[1]},"event":{"name":"x"}}')
    assert session.state.apply("q", bad, 1, 1) == ([], [])
    assert session["request_count"] == 1


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
def test_lines_without_increments_may_arrive_in_any_order_and_any_number_of_times(
    history: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    shuffled = data.draw(
        st.permutations([*history, *data.draw(st.lists(st.sampled_from(history)) if history else st.just([]))])
    )
    session, repeated = Conversation(), Conversation()
    for producer, keys in history:
        session.send(producer, **keys)
    for producer, keys in shuffled:
        repeated.send(producer, **keys)
    assert session.state.report(SESSION, {}, {}) == repeated.state.report(SESSION, {}, {})
