"""Unmodified applications join a session by the preload file alone: NODE_OPTIONS names it, and nothing else is done.

The applications import a stand-in for brakit (tests/node/standin), which writes down each child that it really starts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.harness import PATIENCE_S, new_id, run_to_end, wait_until
from tests.node.application import PRELOAD, Project, joining, major, preload_options, version
from tests.node.nodes import NODES, each_node
from tests.node.requests import BROKEN, COUNTED, FETCHING, ROUTES, USERS, make_requests
from tests.node.ways import WAYS, Way, project_for, start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Endpoint, Place

pytestmark = pytest.mark.slow


class Ran(NamedTuple):
    """A session that has ended."""

    way: Way
    node: str
    code: int  # the application's exit code
    port: int
    bodies: list[dict[str, Any]]
    started_children: list[str]

    def properties(self, event: str) -> dict[str, Any]:
        """Return the properties of the only event with that name."""
        (body,) = (body for body in self.bodies if body["event"] == event)
        properties: dict[str, Any] = body["properties"]
        return properties

    @property
    def session(self) -> dict[str, Any]:
        return self.properties("session")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((node, way), id=f"node{major}-{name}")
        for major, node in NODES.items()
        for name, way in WAYS.items()
    ],
)
def ran(request: pytest.FixtureRequest, home: Place, remote: Endpoint) -> Ran:
    """Run an application that serves requests, let it exit by itself, and end its session."""
    node, way = request.param
    earlier = len(remote.requests)
    with (
        project_for(way, node) as project,
        joining(home, node, project, FETCH_URL=remote.url) as session,
        start(session, way) as application,
    ):
        make_requests(application)
        # Brakit's analysis follows the last request. The counts are there at once.
        wait_until(lambda: session.fields()["insight_count"] == 1, "the insight")
        code = application.stop()
        session.end()
        remote.session_of(session.id)
        return Ran(way, node, code, application.ports[0], remote.bodies[earlier:], session.started_children())


class TestServed:
    def test_all_requests_are_counted_except_files_health_checks_and_brakits_own(self, ran: Ran) -> None:
        assert ran.session["request_count"] == COUNTED

    def test_all_queries_are_counted(self, ran: Ran) -> None:
        assert ran.session["query_count"] == USERS

    def test_all_errors_are_counted(self, ran: Ran) -> None:
        assert ran.session["error_count"] == BROKEN

    def test_all_fetches_are_counted(self, ran: Ran) -> None:
        assert ran.session["fetch_count"] == FETCHING

    def test_routes_that_differ_only_in_ids_are_one_endpoint(self, ran: Ran) -> None:
        assert ran.session["endpoint_count"] == ROUTES

    def test_the_slowest_bucket_is_that_of_the_slow_route(self, ran: Ran) -> None:
        assert ran.session["slowest_endpoint_bucket"] == "200-500ms"  # the route waits for 250 ms

    def test_each_event_arrives_once(self, ran: Ran) -> None:
        assert sorted(body["event"] for body in ran.bodies) == ["first_request", "session", "setup_completed"]

    def test_brakit_started_no_child(self, ran: Ran) -> None:
        assert ran.started_children == []

    def test_the_framework_is_the_one_that_is_loaded(self, ran: Ran) -> None:
        assert ran.session["framework"] == ran.properties("setup_completed")["framework"] == ran.way.framework

    def test_the_candidates_are_the_dependencies(self, ran: Ran) -> None:
        expected = [name for name in (*ran.way.packages, *ran.way.dependencies) if name != "tsx"]
        assert ran.session["framework_detection_candidates"] == expected

    def test_the_package_manager_is_that_of_the_lock_file(self, ran: Ran) -> None:
        assert ran.session["package_manager"] == "npm"

    def test_the_tab_that_was_viewed_is_reported_at_the_exit(self, ran: Ran) -> None:
        if ran.way is not WAYS["worker threads"]:  # a thread does not run brakit's exit listener if the process exits
            assert ran.session["tabs_viewed"] == ["overview"]

    def test_setup_succeeded_with_the_adapter(self, ran: Ran) -> None:
        assert (ran.session["setup_succeeded"], ran.session["adapters_detected"]) == (True, ["pg"])

    def test_an_insight_whose_numbers_change_is_one_insight(self, ran: Ran) -> None:
        assert (ran.session["insight_count"], ran.session["insight_types"]) == (1, ["n1"])

    def test_a_finding_of_several_workers_is_one_finding(self, ran: Ran) -> None:
        assert (ran.session["finding_count"], ran.session["rules_triggered"]) == (1, ["insecure-cookie"])

    def test_the_versions_are_those_of_the_running_programs(self, ran: Ran) -> None:
        for body in ran.bodies:
            common = [body["properties"][name] for name in ("sdk", "brakit_version", "node_version")]
            assert common == ["node", "0.10.2", version(ran.node)]

    def test_first_request_has_the_applications_port(self, ran: Ran) -> None:
        if ran.way is not WAYS["worker threads"]:  # each thread has a port of its own
            assert ran.properties("first_request")["port"] == ran.port

    def test_the_times_are_the_daemons(self, ran: Ran) -> None:
        time_to_first = ran.properties("first_request")["time_to_first_request_ms"]
        assert ran.session["time_to_first_request_ms"] == time_to_first > 1  # the stand-in says 1

    def test_the_application_exits_as_without_us(self, ran: Ran) -> None:
        assert ran.code == 0


# --- processes that are killed ---------------------------------------------------------------------------------------


@pytest.fixture
def project() -> Iterator[Project]:
    with Project() as project:
        yield project


@each_node
def test_2600_requests_are_counted_though_brakit_keeps_1000_and_the_application_is_killed(
    home: Place, remote: Endpoint, project: Project, node: str
) -> None:
    with joining(home, node, project) as session, session.start("http.mjs") as application:
        application.get_over_one_connection("/", 2600)
        application.finish_answers()
        application.kill()
        session.end()
        assert remote.session_of(session.id)["request_count"] == 2600


@each_node
def test_the_requests_of_a_cluster_are_counted_though_one_worker_is_killed(
    home: Place, remote: Endpoint, project: Project, node: str
) -> None:
    with joining(home, node, project) as session, session.start("cluster.mjs") as application:
        application.get("/users/1", 20)
        assert len(application.answered) == 4
        wait_until(lambda: session.fields()["request_count"] == 20, "the last count")  # brakit counts after the answer
        os.kill(next(iter(application.answered)), signal.SIGKILL)
        wait_until(lambda: session.status()["producers"]["live"] == 3, "the end of the worker")
        application.get("/users/1", 20)
        application.stop()
        session.end()
        found = remote.session_of(session.id)
        assert (found["request_count"], found["query_count"], session.started_children()) == (40, 40, [])


@each_node
def test_a_killed_daemon_costs_no_count_and_repeats_no_event(
    place: Place, endpoint: Endpoint, project: Project, node: str
) -> None:
    served = place.serve()
    with joining(place, node, project) as session, session.start("http.mjs") as application:
        application.get("/users/1", 40)
        served.kill()
        served.wait(PATIENCE_S)
        application.get("/users/1", 40)
        place.serve()
        application.get("/users/1", 11)
        application.stop()
        session.end()
        found = endpoint.session_of(session.id)
        assert (found["request_count"], found["query_count"]) == (91, 91)
        events = ["first_request", "session", "setup_completed"]
        for event in events:  # up to four are sent at the same time, so the session's may be the first to arrive
            endpoint.wait_for(event)
        # An event whose receipt the killed daemon had not written is sent again, with the same uuid.
        assert sorted({body["uuid"]: body["event"] for body in endpoint.bodies}.values()) == events


@each_node
def test_what_is_counted_while_the_daemon_is_dead_survives_the_applications_death(
    place: Place, endpoint: Endpoint, project: Project, node: str
) -> None:
    served = place.serve()
    with joining(place, node, project) as session, session.start("http.mjs") as application:
        application.get("/", 40)
        served.kill()
        served.wait(PATIENCE_S)
        application.get("/", 40)
        application.finish_answers()
        application.kill()
        place.serve()
        session.end()
        assert endpoint.session_of(session.id)["request_count"] == 80


@each_node
@pytest.mark.parametrize("end", ["exits", "throws", "rejects"])
def test_setup_is_reported_though_the_application_ends_at_once(
    place: Place, endpoint: Endpoint, project: Project, node: str, end: str
) -> None:
    place.serve()
    with joining(place, node, project) as session:
        assert session.run("ends.mjs", end) == session.run_without_us("ends.mjs", end)
        session.end()
        assert endpoint.session_of(session.id)["setup_succeeded"] is True
        assert sorted(body["event"] for body in endpoint.bodies) == ["session", "setup_completed"]


@each_node
def test_a_daemon_that_starts_late_gets_everything(
    place: Place, endpoint: Endpoint, project: Project, node: str
) -> None:
    with (
        joining(place, node, project, session=new_id()) as session,
        session.start("http.mjs") as application,
    ):
        application.get("/", 10)
        assert session.started_children() == []  # else these events would be sent twice
        place.serve()
        wait_until(lambda: place.status()["sessions"], "the application's connection")
        application.get("/", 10)
        application.stop()
        session.end()
        assert endpoint.session_of(session.id)["request_count"] == 20
        assert sorted(body["event"] for body in endpoint.bodies) == ["first_request", "session", "setup_completed"]


@each_node
def test_an_application_that_nodemon_restarts_is_one_session(home: Place, remote: Endpoint, node: str) -> None:
    earlier = len(remote.requests)
    nodemon = ("node_modules/nodemon/bin/nodemon.js", "--quiet", "--watch", "touched.mjs", "http.mjs")
    with (
        Project("nodemon") as project,
        joining(home, node, project) as session,
        session.start(*nodemon) as application,
    ):
        application.get("/", 7)
        application.finish_answers()
        project.write("touched.mjs", "// saved")
        application.await_ports()
        application.get("/", 5)
        assert len(application.answered) == 2  # processes
        application.finish_answers()
        application.kill()
        session.end()
        assert remote.session_of(session.id)["request_count"] == 12
        events = [body["event"] for body in remote.bodies[earlier:]]
        assert (sorted(events), session.started_children()) == (["first_request", "session", "setup_completed"], [])


# --- what the application must not notice ----------------------------------------------------------------------------

ENDS = (
    "returns", "throws", "throws later", "sets an exit code", "exits", "exits later", "rejects", "is killed by SIGHUP",
)  # fmt: skip
PLAIN_ENDS = ("returns", "throws", "rejects", "is killed by SIGTERM")


@each_node
@pytest.mark.parametrize("end", ENDS)
def test_an_application_with_brakit_ends_as_without_us(home: Place, project: Project, node: str, end: str) -> None:
    with joining(home, node, project) as session:
        assert session.run("ends.mjs", end) == session.run_without_us("ends.mjs", end)
        assert session.workers() == 1


@each_node
@pytest.mark.parametrize("end", ENDS)
def test_an_application_ends_as_without_us_though_no_daemon_listens(
    home: Place, project: Project, node: str, end: str
) -> None:
    nowhere = project.path("none.sock")
    with joining(home, node, project) as session:
        ended = session.run("ends.mjs", end, BRAKIT_SIDECAR_SOCKET=nowhere)
        assert session.started_children() == []
        assert ended == session.run_without_us("ends.mjs", end)


@each_node
@pytest.mark.parametrize("end", PLAIN_ENDS)
def test_a_program_without_brakit_ends_as_without_us_and_never_connects(
    home: Place, project: Project, node: str, end: str
) -> None:
    with joining(home, node, project) as session:
        assert session.run("plain-ends.mjs", end) == session.run_without_us("plain-ends.mjs", end)
        assert session.workers() == 0


@each_node
@pytest.mark.parametrize("arguments", [("-e", "0"), ("-p", "1 + 1"), ("--version",), ("--check", "http.cjs")])
def test_a_node_process_that_is_not_an_application_never_connects(
    home: Place, project: Project, node: str, arguments: tuple[str, ...]
) -> None:
    with joining(home, node, project) as session:
        ended = session.run(*arguments)
        assert (ended.code, ended.errors, session.workers()) == (0, "", 0)


@each_node
def test_a_process_without_brakit_loads_no_module_but_the_one_that_publishes_new_children(
    home: Place, project: Project, node: str
) -> None:
    if major(node) < 20:
        pytest.skip("Node 18 publishes no new children, so the module that starts them is loaded")
    listing = ("-p", "JSON.stringify(process.moduleLoadList)")
    with joining(home, node, project) as session:
        preloaded, bare = session.run(*listing), session.run_without_us(*listing)
    more = set(json.loads(preloaded.output)) - set(json.loads(bare.output))
    assert more <= {"NativeModule diagnostics_channel"}


@each_node
def test_the_applications_own_children_start_as_without_us(home: Place, project: Project, node: str) -> None:
    with joining(home, node, project) as session:
        expected = session.run_without_us("spawns.mjs")
        assert expected.code == 0, expected.errors
        assert session.run("spawns.mjs") == expected


# --- places where nothing may be reported, or nothing can be ---------------------------------------------------------


@each_node
def test_an_opt_out_that_brakit_does_not_know_stops_its_children_too(home: Place, project: Project, node: str) -> None:
    with joining(home, node, project, DO_NOT_TRACK="1") as session, session.start("http.mjs") as application:
        application.get("/", 3)
        assert (application.stop(), session.started_children(), session.workers()) == (0, [], 0)


@each_node
def test_telemetry_that_was_switched_off_stops_brakits_children_too(place: Place, project: Project, node: str) -> None:
    assert place.run("telemetry", "off").returncode == 0
    with joining(place, node, project, session=new_id()) as session:
        assert (session.run("ends.mjs", "returns").code, session.started_children()) == (0, [])


SENT_BY_ITSELF = ["setup_completed", "session"]


@each_node
def test_without_a_session_brakit_sends_as_without_us(home: Place, project: Project, node: str) -> None:
    with joining(home, node, project) as session:
        ended = session.run("ends.mjs", "returns", BRAKIT_SESSION_ID="")
        assert (ended.code, ended.errors, session.started_children()) == (0, "err\n", SENT_BY_ITSELF)


@each_node
def test_without_our_other_files_brakit_sends_as_without_us(home: Place, project: Project, node: str) -> None:
    alone = shutil.copy(PRELOAD, project.path("brakit.cjs"))
    with joining(home, node, project, NODE_OPTIONS=preload_options(alone)) as session:
        ended = session.run("ends.mjs", "returns")
        assert (ended.code, ended.errors, session.started_children()) == (0, "err\n", SENT_BY_ITSELF)


@each_node
def test_our_files_may_disappear_while_an_application_runs(
    home: Place, remote: Endpoint, project: Project, node: str
) -> None:
    copy = shutil.copytree(os.path.dirname(PRELOAD), project.path("a copy with spaces"))
    options = preload_options(os.path.join(copy, "brakit.cjs"))
    with joining(home, node, project, NODE_OPTIONS=options) as session, session.start("http.mjs") as application:
        shutil.rmtree(copy)
        application.get("/users/1", 5)
        assert application.stop() == 0
        session.end()
        assert remote.session_of(session.id)["request_count"] == 5


# --- how the preload file is loaded ----------------------------------------------------------------------------------


@each_node
def test_a_second_copy_of_the_preload_does_nothing(home: Place, remote: Endpoint, project: Project, node: str) -> None:
    copy = shutil.copytree(os.path.dirname(PRELOAD), project.path("copy"))
    twice = f"{preload_options()} {preload_options(os.path.join(copy, 'brakit.cjs'))}"
    with joining(home, node, project, NODE_OPTIONS=twice) as session, session.start("http.mjs") as application:
        application.get("/users/1", 5)
        application.stop()
        session.end()
        found = remote.session_of(session.id)
        assert (found["request_count"], found["query_count"]) == (5, 5)


@each_node
def test_the_preload_can_be_imported(home: Place, remote: Endpoint, project: Project, node: str) -> None:
    options = f'--import "{os.path.join(os.path.dirname(PRELOAD), "brakit.mjs")}"'
    with joining(home, node, project, NODE_OPTIONS=options) as session, session.start("http.mjs") as application:
        application.get("/", 5)
        application.stop()
        session.end()
        assert remote.session_of(session.id)["request_count"] == 5
        assert session.started_children() == []


@each_node
def test_a_node_of_any_age_can_parse_the_preload(node: str) -> None:
    parse = (
        "const { parse } = require('internal/deps/acorn/acorn/dist/acorn');"
        "parse(require('fs').readFileSync(process.argv[1], 'utf8'), { ecmaVersion: 5 });"
    )
    ran = run_to_end([node, "--expose-internals", "-e", parse, PRELOAD], {})
    assert ran.returncode == 0, ran.stderr
