"""The daemon is killed by SIGKILL during a session. The session's event is the same as without the kill."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.e2e.crashing import Worker, journal_of, kill_daemon, open_session, runtime_files
from tests.harness import JOIN_THEN, PATIENCE_S, Endpoint, Place, Wire, end_process, join_once, new_id, wait_until

pytestmark = pytest.mark.slow

WORKERS = 4
KILLS = 20

# This worker counts until a file appears, then writes its count to a file. With the argument "all", the program starts
# all workers instead.
COUNTING = """
import os, subprocess, sys, time
import brakit_sidecar
path, number = sys.argv[1:]
if number == "all":
    command = [sys.executable, "-c", os.environ["COUNTING"], path]
    workers = [subprocess.Popen([*command, str(number)]) for number in range(int(os.environ["WORKERS"]))]
    sys.exit(max(worker.wait() for worker in workers))
t = brakit_sidecar.connect()
t.set(framework="flask")
queries = t.counter("query_count")
counted = 0
while not os.path.exists(path + ".stop"):
    t.request(f"GET /{counted % 5}", 1.5)
    queries.inc()
    counted += 1
    if counted == 100:
        t.event("first_request", port=8000)
    time.sleep(0.002)
with open(f"{path}.{number}", "w") as file:
    file.write(str(counted))
"""


def test_a_session_of_run_makes_one_exact_event_despite_twenty_kills_of_its_daemon(
    place: Place, endpoint: Endpoint
) -> None:
    path = os.path.join(place.root, "counting")
    command = (sys.executable, "-m", "brakit_sidecar", "run", "--", sys.executable, "-c", COUNTING, path, "all")
    running = place.popen(*command, COUNTING=COUNTING, WORKERS=str(WORKERS))
    session, raw, total = open_session(place), new_id(), 0
    for _ in range(KILLS):
        kill_daemon(place)
        wait_until(place.accepts, "another daemon")
        total += 10
        with Wire(place.socket_path).hello(session, producer=raw) as wire:
            wire.send(total={"error_count": total}).sync()
    with open(path + ".stop", "w", encoding="ascii"):
        pass
    assert running.wait(PATIENCE_S) == 0
    counted = 0
    for worker in range(WORKERS):
        with open(f"{path}.{worker}", encoding="ascii") as file:
            counted += int(file.read())
    found = endpoint.only_session()
    assert (found["request_count"], found["query_count"]) == (counted, counted)
    assert found["error_count"] == total
    assert (found["endpoint_count"], found["framework"], found["exit_reason"]) == (5, "flask", "clean")
    wait_until(place.daemon_has_exited, "the last daemon's exit")
    assert len({str(body) for body in endpoint.bodies_of("first_request")}) == 1
    assert len({str(body) for body in endpoint.bodies_of("session")}) == 1
    assert runtime_files(place) == ["sidecar-1.lock"]
    assert journal_of(place) == []


# --- the workers -----------------------------------------------------------------------------------------------------


def test_a_worker_that_counted_and_died_while_no_daemon_ran_is_counted(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    worker = Worker(place, BRAKIT_SESSION_ID=session).count(5)
    open_session(place)
    end_process(served, signal.SIGKILL)
    worker.count(7).die()
    place.serve(grace_s=0.5)
    found = endpoint.session_of(session)
    assert (found["request_count"], found["exit_reason"]) == (12, "crash")


def test_a_new_daemon_waits_for_a_living_worker_that_makes_no_call(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    worker = Worker(place, BRAKIT_SESSION_ID=session).count(5)
    open_session(place)
    end_process(served, signal.SIGKILL)
    place.serve()
    worker.count(7)
    (found,) = place.status()["sessions"]
    assert found["producers"] == {"live": 1, "gone": 0}
    assert found["fields"]["request_count"] == 12
    time.sleep(6)  # longer than the grace of a session without producers
    worker.count(1).end()
    ended = endpoint.session_of(session)
    assert (ended["request_count"], ended["exit_reason"]) == (13, "clean")


def test_a_new_daemon_watches_the_process_that_owns_the_session(place: Place, endpoint: Endpoint) -> None:
    served = place.serve()
    owner = place.popen("sleep", "600")
    session = place.run("session", "start", "--owner-pid", str(owner.pid)).stdout.strip()
    join_once(place.socket_path, session)
    end_process(served, signal.SIGKILL)
    place.serve()
    assert [found["id"] for found in place.status()["sessions"]] == [session]
    end_process(owner, signal.SIGKILL)
    assert endpoint.session_of(session)["exit_reason"] == "crash"


# --- the owner -------------------------------------------------------------------------------------------------------


def test_the_exit_reason_is_clean_even_if_the_command_kills_its_daemon(place: Place, endpoint: Endpoint) -> None:
    pid = place.start()["pid"]
    assert place.run("run", "--", *JOIN_THEN, "sh", "-c", f"kill -9 {pid}").returncode == 0
    assert endpoint.only_session()["exit_reason"] == "clean"


def test_the_exit_reason_is_crash_if_the_owner_is_killed_together_with_its_daemon(
    place: Place, endpoint: Endpoint
) -> None:
    running = place.popen(sys.executable, "-m", "brakit_sidecar", "run", "--", "sleep", "1")
    join_once(place.socket_path, open_session(place))
    running.kill()
    kill_daemon(place)
    running.wait(PATIENCE_S)
    place.serve()
    assert endpoint.only_session()["exit_reason"] == "crash"


def test_a_stopped_daemon_is_not_started_again_by_the_owner(place: Place) -> None:
    running = place.popen(sys.executable, "-m", "brakit_sidecar", "run", "--", "sleep", "3")
    open_session(place)
    assert place.run("stop").returncode == 0
    assert running.wait(PATIENCE_S) == 0
    assert place.daemon_has_exited()
    assert [receipt["event"] for receipt in place.receipts()] == ["session"]
