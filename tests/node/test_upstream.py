"""What the preload takes over of brakit's sends, and what it makes of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import run_to_end
from tests.node.application import Project, joining
from tests.node.nodes import PACKAGE, each_node, newest_node
from tests.node.requests import FORWARDED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.harness import Endpoint, Place

SETUP = ("setup_completed", {"setup_duration_ms": 7, "adapters_detected": ["pg"], "adapters_failed": ["prisma"]})


@pytest.fixture
def project() -> Iterator[Project]:
    with Project() as project:
        yield project


def sent(*events: tuple[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Return the arguments for Node that send these events as brakit does."""
    return ("sends.mjs", json.dumps(events))


# --- which children are not started ----------------------------------------------------------------------------------


@each_node
def test_only_the_children_that_are_exactly_brakits_are_not_started(home: Place, project: Project, node: str) -> None:
    with joining(home, node, project) as session:
        started = json.loads(session.run("near-misses.mjs").output)
        assert [name for name, has_started in started.items() if not has_started] == ["brakit's own"]
        assert all(json.loads(session.run_without_us("near-misses.mjs").output).values())


@each_node
def test_a_child_that_is_not_started_is_an_inert_object(home: Place, project: Project, node: str) -> None:
    with joining(home, node, project) as session:
        ended = session.run("not-started.mjs")
        assert (ended.code, ended.errors) == (0, "")
        assert json.loads(ended.output) == {"pid": None, "killed": False, "connected": False, "events": []}


@each_node
@pytest.mark.parametrize("late_setup", ["", "1"], ids=["brakit's order", "another order"])
def test_no_wrapper_stays_after_brakits_setup(home: Place, project: Project, node: str, late_setup: str) -> None:
    with joining(home, node, project, STANDIN_LATE_SETUP=late_setup) as session:
        assert json.loads(session.run_without_us("traces.mjs").output) == []
        assert json.loads(session.run("traces.mjs").output) == []


@each_node
def test_links_are_resolved_as_without_us(home: Place, project: Project, node: str) -> None:
    # Up to Node 24.19, fs.realpathSync stops early if the last file that fs.lstatSync or fs.fstatSync saw is a socket.
    with joining(home, node, project) as session:
        assert session.run("links.mjs") == session.run_without_us("links.mjs")


# --- what each event means -------------------------------------------------------------------------------------------


@newest_node
def test_setup_completed_has_brakits_fields(home: Place, remote: Endpoint, project: Project, node: str) -> None:
    with joining(home, node, project) as session:
        session.run(*sent(SETUP))
        session.end()
        found = remote.session_of(session.id)
        assert [found[name] for name in ("setup_succeeded", *SETUP[1])] == [True, 7, ["pg"], ["prisma"]]


@newest_node
def test_brakits_own_times_and_framework_are_not_taken_over(
    home: Place, remote: Endpoint, project: Project, node: str
) -> None:
    times = {"time_to_first_request_ms": 12_345_678, "time_to_dashboard_ms": 12_345_678, "framework": "koa"}
    with joining(home, node, project) as session:
        session.run(*sent(SETUP, ("first_request", {"port": 4711, **times}), ("session", times)))
        session.end()
        found = remote.session_of(session.id)
        assert found["time_to_first_request_ms"] < 12_345_678
        assert (found["time_to_dashboard_ms"], found["framework"]) == (None, "unknown")


@newest_node
def test_the_dashboard_is_an_event(place: Place, endpoint: Endpoint, project: Project, node: str) -> None:
    place.serve()
    with joining(place, node, project) as session:
        session.run(*sent(SETUP, ("dashboard_viewed", {"time_to_dashboard_ms": 1, "request_count_at_open": 99})))
        session.end()
        assert endpoint.session_of(session.id)["dashboard_opened"] is True
        (viewed,) = endpoint.bodies_of("dashboard_viewed")
        assert viewed["properties"]["request_count_at_open"] == 0


@newest_node
def test_a_session_adds_its_sets(home: Place, remote: Endpoint, project: Project, node: str) -> None:
    sets = {"tabs_viewed": ["graph"], "insight_types": ["slow"], "rules_triggered": ["token-in-url"]}
    with joining(home, node, project) as session:
        session.run(*sent(SETUP, ("session", {**sets, "explain_used": True})))
        session.end()
        found = remote.session_of(session.id)
        assert {name: found[name] for name in (*sets, "explain_used")} == {**sets, "explain_used": True}


@newest_node
def test_events_that_the_page_does_not_name_are_swallowed(home: Place, project: Project, node: str) -> None:
    with joining(home, node, project) as session:
        events = sent(("graph_feature", {"feature": "filter", "detail": "free text"}), ("new_event", {}))
        assert (session.run(*events).code, session.workers()) == (0, 0)
        assert home.status()["refused"] == {}


@newest_node
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("cli_invoked", {"command": "install", "has_package_json": True, "cwd_has_node_modules": False}),
        (
            "cli_uninstall",
            {"instrumentation_removed": True, "package_removed": True, "mcp_removed": False, "data_removed": True},
        ),
    ],
)
def test_a_command_of_brakits_reports_its_event_and_joins_no_session(
    place: Place, endpoint: Endpoint, project: Project, node: str, name: str, fields: dict[str, Any]
) -> None:
    place.serve()
    with joining(place, node, project) as session:
        session.run(*sent((name, fields)))
        (body,) = endpoint.wait_for(name)
        properties = body["properties"]
        assert {field: properties[field] for field in fields} == fields
        assert (properties["sdk"], properties["brakit_version"]) == ("node", "0.10.2")
        assert session.workers() == 0


# --- brakit's totals, where the bus was not found --------------------------------------------------------------------


@each_node
def test_another_order_of_brakits_setup_counts_by_brakits_totals(
    home: Place, remote: Endpoint, project: Project, node: str
) -> None:
    with (
        joining(home, node, project, STANDIN_LATE_SETUP="1") as session,
        session.start("http.mjs") as application,
    ):
        application.get("/users/1", 5)
        application.stop()
        session.end()
        found = remote.session_of(session.id)
        assert (found["request_count"], found["query_count"]) == (5, 5)


@newest_node
def test_totals_that_are_sent_again_are_added_once(home: Place, remote: Endpoint, project: Project, node: str) -> None:
    earlier, later = {"request_count": 5, "insight_count": 2}, {"request_count": 7, "insight_count": 2}
    with joining(home, node, project) as session:
        session.run(*sent(SETUP, ("session", earlier), ("session", earlier), ("session", later)))
        session.end()
        found = remote.session_of(session.id)
        assert (found["request_count"], found["insight_count"]) == (7, 2)


# --- what another process forwards -----------------------------------------------------------------------------------


@each_node
def test_what_another_process_forwards_is_not_counted_again(
    home: Place, remote: Endpoint, project: Project, node: str
) -> None:
    with joining(home, node, project) as session, session.start("http.mjs") as application:
        application.get("/users/1", 20)
        application.request("POST", "/__brakit/api/ingest?sdk=python", json.dumps(FORWARDED).encode())
        application.get("/users/1", 20)
        application.stop()
        session.end()
        found = remote.session_of(session.id)
        assert [found[f"{name}_count"] for name in ("request", "query", "error", "endpoint")] == [40, 40, 0, 1]


# --- routes ----------------------------------------------------------------------------------------------------------

PATHS = (
    "", "/", "/users", "/users/1", "/users/1/orders/99999999999999999999", "/users/5f1d7a84b2c9", "/DEADBEEFdeadbeef00",
    "/6f9d4c1e-3c56-5b0e-9a55-0b6f3d6a1c7e", "/6F9D4C1E-3C56-5B0E-9A55-0B6F3D6A1C7E/x", "/k3jd92ms", "/A1B2C3D4E5",
    "/abcdefgh", "/abcdefabcdef", "/abc123", "/v2/users", "/users?id=1", "/1?a=/2/3", "/users/1/", "//1", "/1.json",
    "/users/a-1b2c3d4e", "/%31", "/users/me", "/6f9d4c1e-3c56-5b0e-9a55", "/12e4", "/users/\u0661",
)  # fmt: skip


@newest_node
def test_a_route_of_node_is_the_route_of_python(node: str) -> None:
    code = "const { routeOf } = require(process.argv[1]); const paths = JSON.parse(process.argv[2]);"
    code += "console.log(JSON.stringify(paths.map((path) => routeOf('GET', path))))"
    ran = run_to_end([node, "-e", code, os.path.join(PACKAGE, "lib", "routes.cjs"), json.dumps(PATHS)], {})
    ascii_paths = [path for path in PATHS if path.isascii()]  # as Node's parser of HTTP requires
    routes = dict(zip(PATHS, json.loads(ran.stdout), strict=True))
    # Imported in a process of its own, because an import in this one would start a daemon and join it.
    code = "import json, sys; from brakit_sidecar.integrations.brakit import route_of; "
    code += "print(json.dumps([route_of('GET', path) for path in json.loads(sys.argv[1])]))"
    ran = run_to_end([sys.executable, "-c", code, json.dumps(ascii_paths)], {"BRAKIT_DISABLE": "1"})
    assert [routes[path] for path in ascii_paths] == json.loads(ran.stdout)


# --- the project -----------------------------------------------------------------------------------------------------


def project_facts(node: str, call: str) -> Any:
    """Return the JSON value of an expression with the functions of lib/project.cjs."""
    code = "const { candidates, framework, loadedPackages, read } = require(process.argv[1]);"
    ran = run_to_end(
        [node, "-e", f"{code} console.log(JSON.stringify({call}))", os.path.join(PACKAGE, "lib", "project.cjs")], {}
    )
    return json.loads(ran.stdout)


@newest_node
@pytest.mark.parametrize(
    ("dependencies", "loaded", "expected"),
    [
        (["express"], ["express"], "express"),
        (["fastify"], [], None),  # a plain http server that does not use it
        (["express", "@nestjs/core"], ["express", "@nestjs/core"], "nestjs"),
        (["express", "next"], ["express"], "express"),
        (["fastify"], ["express", "fastify"], "fastify"),  # a package of the application loads express for itself
        ([], ["express"], "express"),  # the package.json is that of another directory
        (["hono"], [], "hono"),  # an ES module, which cannot be seen
        (["hono", "express"], ["express"], "express"),
        (["vite"], [], None),  # builds the frontend
        ([], ["@remix-run/dev"], "remix"),
        ([], [], None),
    ],
)
def test_the_framework_is_the_one_in_use(
    node: str, dependencies: Sequence[str], loaded: Sequence[str], expected: str | None
) -> None:
    known = json.dumps(dict.fromkeys(dependencies, "*"))
    found = project_facts(node, f"framework({known}, new Set({json.dumps(loaded)}))")
    assert found.get("framework") == expected


@newest_node
@pytest.mark.parametrize(
    ("lock_file", "expected"),
    [
        ("package-lock.json", "npm"),
        ("yarn.lock", "yarn"),
        ("pnpm-lock.yaml", "pnpm"),
        ("bun.lock", "bun"),
        ("bun.lockb", "bun"),
        ("other.lock", None),
    ],
)
def test_the_package_manager_is_known_by_its_lock_file(
    node: str, project: Project, lock_file: str, expected: str | None
) -> None:
    shutil.move(project.path("package-lock.json"), project.path(lock_file))
    found = project_facts(node, f"read({json.dumps(project.directory)})")
    assert found["packageManager"].get("package_manager") == expected


@newest_node
@pytest.mark.parametrize("text", ["", "[]", "null", '{"dependencies": 1}', '{"dependencies": null}'])
def test_a_package_json_of_any_shape_has_no_dependencies(node: str, project: Project, text: str) -> None:
    project.write("package.json", text)
    assert project_facts(node, f"read({json.dumps(project.directory)})")["dependencies"] == {}
