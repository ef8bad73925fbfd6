from __future__ import annotations

import math
import os
import platform
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.e2e import expected_durations
from tests.e2e.apps import counting
from tests.e2e.serving import REPOSITORY
from tests.harness import Endpoint, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

ONCE_A_SESSION = {"setup_completed", "first_request", "dashboard_viewed"}
SIGSTOP = int(signal.SIGSTOP)
PYTHON_VERSION = ".".join(map(str, sys.version_info[:3]))


# --- four workers that report every kind of thing ----------------------------------------------------------------


class Ran(NamedTuple):
    endpoint: Endpoint
    took_s: float


@pytest.fixture(scope="module", params=["fork", "spawn"])
def ran(request: pytest.FixtureRequest) -> Iterator[Ran]:
    endpoint = Endpoint()
    with Place(endpoint.url, PYTHONPATH=REPOSITORY) as place:
        started = time.monotonic()
        application = [sys.executable, "-m", "tests.e2e.apps.counting", request.param]
        assert place.run("run", "--", *application).returncode == 0
        endpoint.wait_for("session")
        took_s = time.monotonic() - started
        place.run("stop")  # the daemon sends the queued events
        yield Ran(endpoint, took_s)
    endpoint.close()


def test_every_field_of_the_session_is_exact(ran: Ran) -> None:
    properties = dict(ran.endpoint.only_session())
    assert 1 <= properties.pop("session_duration_s") <= math.ceil(ran.took_s)
    assert properties == expected_session()


@pytest.mark.parametrize("event", sorted(ONCE_A_SESSION | {"cli_invoked", "cli_uninstall", "session"}))
def test_each_event_arrives_once(ran: Ran, event: str) -> None:
    assert len(ran.endpoint.bodies_of(event)) == 1


def test_no_two_events_have_the_same_uuid(ran: Ran) -> None:
    assert len({body["uuid"] for body in ran.endpoint.bodies}) == 6


def test_the_event_setup_completed_has_the_duration_of_one_worker(ran: Ran) -> None:
    (body,) = ran.endpoint.bodies_of("setup_completed")
    assert body["properties"]["setup_duration_ms"] in counting.SETUP_MS


def test_the_event_first_request_has_the_values_of_one_worker(ran: Ran) -> None:
    (body,) = ran.endpoint.bodies_of("first_request")
    assert body["properties"]["port"] == 8000
    assert body["properties"]["time_to_first_request_ms"] in counting.FIRST_REQUEST_MS


def test_the_request_count_at_the_dashboards_opening_covers_all_workers(ran: Ran) -> None:
    (body,) = ran.endpoint.bodies_of("dashboard_viewed")
    at_least = min(requests_of(worker) for worker in counting.WORKERS)
    assert at_least <= body["properties"]["request_count_at_open"] <= sum(map(requests_of, counting.WORKERS))


def test_events_that_are_sent_each_time_have_their_fields(ran: Ran) -> None:
    invoked, uninstalled = (ran.endpoint.bodies_of(name)[0]["properties"] for name in ("cli_invoked", "cli_uninstall"))
    assert (invoked["command"], invoked["has_package_json"], invoked["cwd_has_node_modules"]) == ("run", True, False)
    removed = ("instrumentation_removed", "package_removed", "mcp_removed", "data_removed")
    assert [uninstalled[name] for name in removed] == [True, False, False, True]


def requests_of(worker: int) -> int:
    return counting.UNTIMED[worker] + sum(map(len, counting.DURATIONS[worker].values()))


def expected_session() -> dict[str, Any]:
    """Return the expected properties, added up from the application's tables."""
    durations: dict[str, list[float]] = {}
    for by_route in counting.DURATIONS:
        for route, some in by_route.items():
            durations.setdefault(route, []).extend(some)
    return {
        "brakit_version": "0.1.7",
        "node_version": None,
        "python_version": PYTHON_VERSION,
        "os": f"{sys.platform}-{release()}",
        "arch": {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "sdk": "python",
        "framework": "flask",
        "package_manager": "uv",
        "first_session": True,
        "request_count": sum(map(requests_of, counting.WORKERS)),
        **{field: sum(by_worker) for field, by_worker in counting.COUNTS.items()},
        **{
            field: len({mark for some in marks for mark in some}) + sum(counting.UNMARKED[field])
            for field, marks in counting.MARKS.items()
        },
        **{field: sorted({word for some in words for word in some}) for field, words in counting.WORDS.items()},
        "endpoint_count": len(durations),
        "avg_duration_ms": expected_durations.mean_ms([duration for some in durations.values() for duration in some]),
        "slowest_endpoint_bucket": expected_durations.slowest_bucket(durations.values()),
        "is_custom_command": True,
        "explain_used": True,
        "dashboard_opened": True,
        "setup_succeeded": False,
        "setup_duration_ms": max(counting.SETUP_MS),
        "time_to_first_request_ms": min(counting.FIRST_REQUEST_MS),
        "time_to_dashboard_ms": min(counting.DASHBOARD_MS),
        "exit_reason": "clean",
        "$lib": "brakit",
        "$process_person_profile": False,
        "$geoip_disable": True,
        "$ip": "0.0.0.0",
    }


def release() -> str:
    found = re.match(r"\d+\.\d+\.\d+", platform.release())
    assert found is not None
    return found.group()


# --- threads, forks and kills in one worker --------------------------------------------------------------------------


def counted(place: Place, endpoint: Endpoint, code: str, *, exits: int = 0) -> dict[str, Any]:
    """Return the session event of ``run -- python -c code``."""
    ran = place.run("run", "--", sys.executable, "-c", code)
    assert ran.returncode == exits, ran.stderr
    return endpoint.only_session()


def test_no_count_of_a_worker_with_eight_threads_is_lost(place: Place, endpoint: Endpoint) -> None:
    session = counted(place, endpoint, _THREADS)
    assert (session["request_count"], session["query_count"], session["fetch_count"]) == (160_000, 60_000, 40_000)


def test_no_duration_of_a_worker_with_eight_threads_is_lost(place: Place, endpoint: Endpoint) -> None:
    """The mean is 7.5 ms, which rounds up. If a single nanosecond were lost, the mean would round down."""
    session = counted(place, endpoint, _THREADS)
    assert (session["avg_duration_ms"], session["endpoint_count"]) == (8, 1)


_THREADS = """
import sys, threading
import brakit_sidecar

sys.setswitchinterval(1e-6)
telemetry = brakit_sidecar.connect()
queries = telemetry.counter("query_count")
together = threading.Barrier(8)

def count():
    together.wait()
    for n in range(20_000):
        telemetry.request("GET /", duration_ms=7 + n % 2)
    together.wait()
    for n in range(5000):
        queries.inc() if n % 2 else queries.inc(2)
    together.wait()
    for n in range(5000):
        telemetry.incr("fetch_count")

threads = [threading.Thread(target=count) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_forked_children_and_their_children_count_for_themselves(place: Place, endpoint: Endpoint) -> None:
    session = counted(place, endpoint, _FORKS)
    assert session["request_count"] == 10 + 3 * 100 + 3 * 7 + 5


def test_a_forked_child_does_not_report_its_parents_counts_again(place: Place, endpoint: Endpoint) -> None:
    session = counted(place, endpoint, _FORKS)
    assert (session["error_count"], session["insight_count"], len(endpoint.bodies_of("first_request"))) == (4, 2, 1)


_FORKS = """
import os
import brakit_sidecar

telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
requests.inc(10)
telemetry.incr("error_count", 4)
telemetry.incr("insight_count")
telemetry.mark("insight_count", "one")
telemetry.event("first_request", port=8000)

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child

def grandchild():
    requests.inc(7)

def child():
    for _ in range(100):
        requests.inc()
    os.waitpid(in_child(grandchild), 0)

for pid in [in_child(child) for _ in range(3)]:
    os.waitpid(pid, 0)
requests.inc(5)
"""


def test_no_count_is_lost_if_a_worker_is_killed_right_after_its_last_count(place: Place, endpoint: Endpoint) -> None:
    session = counted(place, endpoint, _KILLED, exits=128 + signal.SIGKILL)
    assert session["request_count"] == session["query_count"] == 3000


def test_no_count_is_lost_if_a_worker_is_killed_while_the_daemon_is_suspended(place: Place, endpoint: Endpoint) -> None:
    daemon = place.start()["pid"]
    try:
        ran = place.run("run", "--", sys.executable, "-c", f"import os; os.kill({daemon}, {SIGSTOP})\n{_KILLED}")
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert ran.returncode == 128 + signal.SIGKILL
    session = endpoint.only_session()
    assert session["request_count"] == session["query_count"] == 3000


_KILLED = """
import os, signal
import brakit_sidecar

telemetry = brakit_sidecar.connect()
queries = telemetry.counter("query_count")
for n in range(3000):
    telemetry.request(f"GET /{n % 7}", duration_ms=n % 300)
    queries.inc()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_exit_reason_is_crash_if_the_command_is_killed(place: Place, endpoint: Endpoint) -> None:
    assert counted(place, endpoint, _KILLED, exits=128 + signal.SIGKILL)["exit_reason"] == "crash"
