"""What holds of every session of a served application, whichever the server and whatever happened to a worker. A test
class of a server inherits them, and makes the session, ``ran``.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from tests.core import page
from tests.e2e import truth
from tests.e2e.serving import SHARED_ERRORS, SHARED_QUERIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.serving import Ran


class ServedFacts:
    manner: ClassVar[Mapping[str, Any]] = {}  # how it is served, where that is not as it comes
    framework: str
    routes: int
    workers: int
    exit_reason = "sigterm"  # what `run` got

    def test_every_worker_had_requests(self, ran: Ran) -> None:
        assert len({seen["pid"] for seen in ran.requests}) >= self.workers

    def test_one_session_event_arrives(self, ran: Ran) -> None:
        assert [body["event"] for body in ran.bodies].count("session") == 1

    def test_setup_and_first_request_arrive_once_and_nothing_else(self, ran: Ran) -> None:
        assert sorted(body["event"] for body in ran.bodies) == ["first_request", "session", "setup_completed"]

    def test_every_event_keeps_the_pages_promises(self, ran: Ran) -> None:
        for body in ran.bodies:
            properties = {name: value for name, value in body["properties"].items() if name not in page.FIXED}
            assert page.broken_promises(body["event"], properties) == {}

    def test_all_requests_are_counted_but_files_health_checks_and_brakits_own(self, ran: Ran) -> None:
        assert ran.session["request_count"] == len(ran.requests) == 48

    def test_all_queries_are_counted(self, ran: Ran) -> None:
        assert ran.session["query_count"] == SHARED_QUERIES

    def test_all_errors_are_counted(self, ran: Ran) -> None:
        assert ran.session["error_count"] == SHARED_ERRORS

    def test_the_framework_is_the_one_that_is_used_though_both_can_be_imported(self, ran: Ran) -> None:
        assert ran.session["framework"] == ran.properties("setup_completed")["framework"] == self.framework

    def test_the_adapter_is_detected(self, ran: Ran) -> None:
        assert ran.session["adapters_detected"] == ["sqlalchemy"]

    def test_the_candidates_are_what_is_installed(self, ran: Ran) -> None:
        installed = [name for name in ("django", "fastapi", "flask") if find_spec(name)]
        assert ran.session["framework_detection_candidates"] == installed

    def test_routes_with_ids_are_one_endpoint(self, ran: Ran) -> None:
        assert ran.session["endpoint_count"] == self.routes

    def test_the_average_is_the_mean_of_what_brakit_measured_in_whole_ms(self, ran: Ran) -> None:
        average = ran.session["avg_duration_ms"]
        assert type(average) is int
        assert average == truth.mean_ms([seen["duration_ms"] for seen in ran.requests])

    def test_the_slowest_bucket_is_that_of_the_slowest_route(self, ran: Ran) -> None:
        durations: dict[tuple[str, str], list[float]] = {}
        for seen in ran.requests:
            durations.setdefault((seen["method"], seen["url"].split("/")[1]), []).append(seen["duration_ms"])
        assert min(durations["GET", "slow"]) >= 200  # it sleeps for 250 ms
        assert ran.session["slowest_endpoint_bucket"] == truth.slowest_bucket(durations.values())

    def test_the_session_knows_how_it_ended(self, ran: Ran) -> None:
        assert ran.session["exit_reason"] == self.exit_reason

    def test_the_exit_code_is_the_servers_own(self, ran: Ran) -> None:
        assert ran.code == 0  # what the server gives for a SIGTERM that it handled

    def test_first_request_names_the_port_that_was_asked(self, ran: Ran) -> None:
        assert ran.properties("first_request")["port"] == ran.port

    def test_the_time_to_the_first_request_is_the_same_in_both_events(self, ran: Ran) -> None:
        time_to_first = ran.properties("first_request")["time_to_first_request_ms"]
        assert ran.session["time_to_first_request_ms"] == time_to_first is not None

    def test_setup_succeeded(self, ran: Ran) -> None:
        assert ran.session["setup_succeeded"] is True

    def test_the_versions_are_those_that_run(self, ran: Ran) -> None:
        common = ("sdk", "brakit_version", "python_version", "node_version")
        python = ".".join(map(str, sys.version_info[:3]))
        for body in ran.bodies:
            assert [body["properties"][name] for name in common] == ["python", version("brakit"), python, None]

    def test_brakits_own_telemetry_never_tried_to_send(self, ran: Ran) -> None:
        assert [seen for seen in ran.witnessed if seen["channel"] == "brakit's own telemetry"] == []
