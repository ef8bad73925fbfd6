"""The preload with a real build of brakit, which is not on the npm registry.

Opt-in: BRAKIT_NODE_DIR names a checkout of brakit in which it was built.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.harness import PATIENCE_S, wait_until
from tests.node.application import Joining, Project, joining, preload_options
from tests.node.nodes import each_node
from tests.node.requests import BROKEN, COUNTED, FETCHING, FORWARDED, ROUTES, USERS, make_requests
from tests.node.ways import WAYS, Way, project_for, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    from tests.harness import Endpoint, Place

BRAKIT = os.environ.get("BRAKIT_NODE_DIR")

pytestmark = pytest.mark.skipif(BRAKIT is None, reason="BRAKIT_NODE_DIR does not name a build of brakit")

ONCE = ["first_request", "session", "setup_completed"]


@pytest.fixture
def project() -> Iterator[Project]:
    with Project(brakit=BRAKIT) as project:
        yield project


def joining_traced(place: Place, node: str, project: Project, **environ: str) -> AbstractContextManager[Joining]:
    """Open a session in which the children of brakit's are written down and reach no network."""
    traced = preload_options(project.path("children.cjs"))
    return joining(place, node, project, NODE_OPTIONS=f"{preload_options()} {traced}", **environ)


def counts(fields: dict[str, Any]) -> list[int]:
    return [fields[f"{name}_count"] for name in ("request", "query", "error", "fetch", "endpoint")]


@each_node
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_an_unmodified_application_is_counted_exactly(place: Place, endpoint: Endpoint, node: str, way: Way) -> None:
    place.serve()
    with (
        project_for(way, node, BRAKIT) as project,
        joining_traced(place, node, project, FETCH_URL=endpoint.url) as session,
        start(session, way) as application,
    ):
        make_requests(application)
        wait_until(lambda: session.fields()["request_count"] == COUNTED, "the last count")
        assert application.stop() == 0
        session.end()
        found = endpoint.session_of(session.id)
        assert counts(found) == [COUNTED, USERS, BROKEN, FETCHING, ROUTES]
        assert (found["framework"], found["adapters_detected"]) == (way.framework, ["pg"])
        assert found["slowest_endpoint_bucket"] == "200-500ms"
        assert sorted(body["event"] for body in endpoint.bodies) == ONCE
        assert session.started_children() == []


@each_node
def test_without_us_brakit_starts_children(place: Place, project: Project, node: str) -> None:
    place.serve()
    with joining_traced(place, node, project) as session:
        traced = preload_options(project.path("children.cjs"))
        session.run("ends.mjs", "returns", NODE_OPTIONS=traced)
        wait_until(lambda: sorted(session.started_children()) == ["session", "setup_completed"], "brakit's children")


@each_node
def test_2600_requests_are_counted_though_brakit_keeps_1000_and_the_application_is_killed(
    home: Place, remote: Endpoint, project: Project, node: str
) -> None:
    with joining_traced(home, node, project) as session, session.start("http.mjs") as application:
        application.get_over_one_connection("/", 2600)
        application.finish_answers()
        application.kill()
        session.end()
        assert remote.session_of(session.id)["request_count"] == 2600


@each_node
def test_a_killed_daemon_costs_no_count_and_repeats_no_event(
    place: Place, endpoint: Endpoint, project: Project, node: str
) -> None:
    served = place.serve()
    with joining_traced(place, node, project) as session, session.start("http.mjs") as application:
        application.get("/users/1", 40)
        served.kill()
        served.wait(PATIENCE_S)
        application.get("/users/1", 40)
        place.serve()
        application.get("/users/1", 11)
        application.stop()
        session.end()
        assert endpoint.session_of(session.id)["request_count"] == 91
        assert (sorted(body["event"] for body in endpoint.bodies), session.started_children()) == (ONCE, [])


@each_node
def test_what_another_process_forwards_is_not_counted_again(
    home: Place, remote: Endpoint, project: Project, node: str
) -> None:
    with joining_traced(home, node, project) as session, session.start("http.mjs") as application:
        application.get("/users/1", 20)
        application.request("POST", "/__brakit/api/ingest", json.dumps(FORWARDED).encode())
        application.get("/users/1", 20)
        application.stop()
        session.end()
        assert counts(remote.session_of(session.id)) == [40, 40, 0, 0, 1]


@each_node
def test_the_dashboard_and_its_tabs_are_reported(place: Place, endpoint: Endpoint, project: Project, node: str) -> None:
    place.serve()
    with joining_traced(place, node, project) as session, session.start("http.mjs") as application:
        application.get("/", 3)
        application.request("GET", "/__brakit")
        application.request("GET", "/__brakit/api/tab?tab=graph&event=filter&detail=free%20text")
        application.stop()
        session.end()
        found = endpoint.session_of(session.id)
        assert (found["dashboard_opened"], found["tabs_viewed"], found["request_count"]) == (True, ["graph"], 3)
        (viewed,) = endpoint.bodies_of("dashboard_viewed")
        assert viewed["properties"]["request_count_at_open"] == 3
        assert session.started_children() == []


@each_node
@pytest.mark.parametrize("end", ["returns", "throws", "sets an exit code", "exits", "rejects", "is killed by SIGHUP"])
def test_an_application_ends_as_without_us(home: Place, project: Project, node: str, end: str) -> None:
    with joining_traced(home, node, project) as session:
        ended = session.run("ends.mjs", end)
        assert (session.workers(), session.started_children()) == (1, [])
        assert ended == session.run("ends.mjs", end, NODE_OPTIONS=preload_options(project.path("children.cjs")))


@each_node
def test_brakits_own_command_reports_its_event(place: Place, endpoint: Endpoint, project: Project, node: str) -> None:
    place.serve()
    with joining_traced(place, node, project) as session:
        session.run(project.path("node_modules", "brakit", "dist", "bin", "brakit.js"), "install", "nowhere")
        (body,) = endpoint.wait_for("cli_invoked")
        assert body["properties"]["command"] == "install"
        assert (session.workers(), session.started_children()) == (0, [])
