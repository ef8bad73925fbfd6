"""The tests of a served application's session. They hold for each server, and also if a worker is killed.

The test class of a server inherits these tests. Its file has a fixture ``ran`` that serves the application.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from tests.core import page
from tests.e2e import expected_durations
from tests.e2e.serving import SHARED_ERRORS, SHARED_QUERIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.serving import Ran


class ServedSessionTests:
    serving: ClassVar[Mapping[str, Any]] = {}  # arguments of the file's function that serves the application
    framework: str
    routes: int
    workers: int
    exit_reason = "sigterm"  # the signal that `run` gets
    exit_code = 0  # most servers handle SIGTERM and exit with 0

    def test_every_worker_served_requests(self, ran: Ran) -> None:
        assert len({request["pid"] for request in ran.requests}) >= self.workers

    def test_one_session_event_arrives(self, ran: Ran) -> None:
        assert [body["event"] for body in ran.bodies].count("session") == 1

    def test_setup_completed_and_first_request_each_arrive_once_and_no_other_event_arrives(self, ran: Ran) -> None:
        assert sorted(body["event"] for body in ran.bodies) == ["first_request", "session", "setup_completed"]

    def test_every_event_is_as_the_telemetry_page_says(self, ran: Ran) -> None:
        for body in ran.bodies:
            properties = {name: value for name, value in body["properties"].items() if name not in page.FIXED}
            assert page.broken_promises(body["event"], properties) == {}

    def test_all_requests_are_counted_except_files_health_checks_and_brakits_own_requests(self, ran: Ran) -> None:
        assert ran.session["request_count"] == len(ran.requests) == 48

    def test_all_queries_are_counted(self, ran: Ran) -> None:
        assert ran.session["query_count"] == SHARED_QUERIES

    def test_all_errors_are_counted(self, ran: Ran) -> None:
        assert ran.session["error_count"] == SHARED_ERRORS

    def test_the_framework_is_the_framework_in_use_although_both_can_be_imported(self, ran: Ran) -> None:
        assert ran.session["framework"] == ran.properties("setup_completed")["framework"] == self.framework

    def test_the_adapter_is_detected(self, ran: Ran) -> None:
        assert ran.session["adapters_detected"] == ["sqlalchemy"]

    def test_the_candidates_are_the_installed_frameworks(self, ran: Ran) -> None:
        installed = [name for name in ("django", "fastapi", "flask") if find_spec(name)]
        assert ran.session["framework_detection_candidates"] == installed

    def test_routes_that_differ_only_in_ids_count_as_one_endpoint(self, ran: Ran) -> None:
        assert ran.session["endpoint_count"] == self.routes

    def test_the_average_is_the_mean_of_brakits_durations_in_whole_ms(self, ran: Ran) -> None:
        average = ran.session["avg_duration_ms"]
        assert type(average) is int
        assert average == expected_durations.mean_ms([request["duration_ms"] for request in ran.requests])

    def test_the_slowest_bucket_is_the_bucket_of_the_slowest_route(self, ran: Ran) -> None:
        durations: dict[tuple[str, str], list[float]] = {}
        for request in ran.requests:
            route = (request["method"], request["url"].split("/")[1])
            durations.setdefault(route, []).append(request["duration_ms"])
        assert min(durations["GET", "slow"]) >= 200  # the route sleeps for 250 ms
        assert ran.session["slowest_endpoint_bucket"] == expected_durations.slowest_bucket(durations.values())

    def test_the_exit_reason_is_the_signal_that_ended_the_session(self, ran: Ran) -> None:
        assert ran.session["exit_reason"] == self.exit_reason

    def test_the_exit_code_is_the_exit_code_of_the_server(self, ran: Ran) -> None:
        assert ran.code == self.exit_code

    def test_the_event_first_request_has_the_servers_port(self, ran: Ran) -> None:
        assert ran.properties("first_request")["port"] == ran.port

    def test_the_time_to_the_first_request_is_the_same_in_both_events(self, ran: Ran) -> None:
        time_to_first = ran.properties("first_request")["time_to_first_request_ms"]
        assert ran.session["time_to_first_request_ms"] == time_to_first is not None

    def test_setup_succeeded(self, ran: Ran) -> None:
        assert ran.session["setup_succeeded"] is True

    def test_the_versions_are_the_versions_of_the_running_programs(self, ran: Ran) -> None:
        common = ("sdk", "brakit_version", "python_version", "node_version")
        python = ".".join(map(str, sys.version_info[:3]))
        for body in ran.bodies:
            assert [body["properties"][name] for name in common] == ["python", version("brakit"), python, None]

    def test_brakits_own_telemetry_never_tried_to_send(self, ran: Ran) -> None:
        assert [record for record in ran.recorded if record["channel"] == "brakit's own telemetry"] == []
