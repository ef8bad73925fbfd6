"""The npm package's client and the ends of processes: the worker's own, at any instant, and the daemon's."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core.counter_snapshot import CounterSnapshot

from tests.harness import PATIENCE_S, Endpoint, Place, Wire, end_process, new_id, suspended, wait_until

from .fake_daemon import FakeDaemon
from .nodes import PACKAGE, each_node, newest_node
from .sessions import counter_files, counts_by_line, owned, refused, shown, until_shown
from .workers import CLIENT, Worker, run_driver, run_script, start_driver

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLS_ITSELF = "process.kill(process.pid, 'SIGKILL');"
REFUSES_THE_FILE = {"refused": {"reason": "bad_counter_file", "line": 1}}


@pytest.fixture
def nowhere() -> Iterator[Place]:
    """Make a place without a daemon."""
    with Place() as place:
        yield place


# --- the worker is killed -------------------------------------------------------------------------------------------

# Counts three times a turn, and is killed in turn KILLED_AT, in the tick in which it has connected.
COUNTS_AND_DIES = """
const t = connect();
const requests = t.counter('request_count');
for (let turn = 0; ; turn += 1) {
  requests.inc();
  t.incr('query_count', 2);
  t.request('GET /', 1);
  if (turn === Number(process.env.KILLED_AT)) {
    process.kill(process.pid, 'SIGKILL');
  }
}
"""


@each_node
def test_a_worker_killed_at_any_instant_of_its_first_tick_loses_no_count(node: str, home: Place) -> None:
    killed_at = [0, 1, 17, 1000]
    with owned(home) as session:
        for at in killed_at:
            ran = run_script(node, home, COUNTS_AND_DIES, BRAKIT_SESSION_ID=session, KILLED_AT=str(at))
            assert ran.returncode == -signal.SIGKILL
        turns = sum(at + 1 for at in killed_at)
        until_shown(home, session, request_count=2 * turns, query_count=2 * turns, endpoint_count=1)


@each_node
def test_a_worker_killed_later_loses_no_count(node: str, home: Place) -> None:
    with owned(home) as session:
        worker = Worker(node, home, session)
        worker.do("for (let n = 0; n < 1000; n += 1) { t.incr('query_count'); t.request('GET /', 300) }")
        worker.kill()
        until_shown(home, session, query_count=1000, request_count=1000, avg_duration_ms=300)


@each_node
def test_a_worker_killed_in_its_first_tick_loses_no_state(node: str, place: Place, endpoint: Endpoint) -> None:
    place.serve()
    code = """
    const t = connect();
    t.set({ framework: 'koa' });
    t.add('insight_types', 'n1');
    t.mark('insight_count', 'one');
    t.event('first_request', { port: 8000 });
    process.kill(process.pid, 'SIGKILL');
    """
    with owned(place) as session:
        run_script(node, place, code, BRAKIT_SESSION_ID=session)
        until_shown(place, session, framework="koa", insight_types=["n1"], insight_count=1)
    assert endpoint.wait_for("first_request")[0]["properties"]["port"] == 8000


@each_node
def test_an_event_after_many_counts_of_the_first_tick_survives_the_kill(
    node: str, home: Place, remote: Endpoint
) -> None:
    """Before its answer the daemon gets counts as lines, which must leave room in the socket."""
    code = """
    const t = connect();
    for (let n = 0; n < 1000; n += 1) t.request('GET /', 1);
    t.event('first_request', { port: 8000 });
    """
    before = len(remote.bodies_of("first_request"))
    with owned(home) as session:
        with suspended(home.status()["pid"]):
            run_script(node, home, code + KILLS_ITSELF, BRAKIT_SESSION_ID=session)
        until_shown(home, session, request_count=1000)
        remote.wait_for("first_request", before + 1)


# --- the daemon is killed -------------------------------------------------------------------------------------------


@each_node
def test_a_new_daemon_gets_all_state_again(node: str, place: Place, endpoint: Endpoint) -> None:
    session, served = new_id(), place.serve()
    with Worker(node, place, session) as worker:
        worker.do("t.set({ brakit_version: '0.10.2' }); t.add('insight_types', 'n1'); t.mark('insight_count', 'one')")
        worker.do("t.request('GET /users', 300); t.incr('query_count', 4); t.event('first_request', { port: 8000 })")
        until_shown(place, session, query_count=4, insight_count=1)
        end_process(served, signal.SIGKILL)
        worker.do("t.incr('query_count', 2); t.add('insight_types', 'slow')")
        place.serve()
        until_shown(
            place, session, query_count=6, request_count=1, brakit_version="0.10.2", insight_types=["n1", "slow"],
            insight_count=1, endpoint_count=1, avg_duration_ms=300,
        )  # fmt: skip
        assert place.run("stop").returncode == 0
    (event,) = endpoint.bodies_of("first_request")
    assert event["properties"]["port"] == 8000
    assert endpoint.session_of(session)["query_count"] == 6


@newest_node
@pytest.mark.parametrize("is_running", [True, False], ids=["the daemon runs", "the daemon is dead"])
def test_a_counter_file_that_was_overwritten_costs_no_count_at_the_next_daemon(
    node: str, place: Place, endpoint: Endpoint, is_running: bool
) -> None:
    session, served = new_id(), place.serve()
    with Worker(node, place, session) as worker:
        worker.do("t.request('GET /users', 300); t.incr('query_count', 4)")
        until_shown(place, session, query_count=4)
        if not is_running:
            end_process(served, signal.SIGKILL)
        with open(worker.counter_file(), "r+b") as file:
            file.write(b"passwd: a text of the application, " * 10)
        if is_running:
            until_shown(place, session, query_count=4, request_count=1, error_count=0, endpoint_count=1)
            end_process(served, signal.SIGKILL)
        worker.do("t.incr('query_count', 2)")
        place.serve()
        until_shown(place, session, query_count=6, request_count=1, error_count=0, endpoint_count=1)
        with open(worker.counter_file(), "rb") as file:
            assert b"passwd" not in file.read()
        assert place.run("stop").returncode == 0
    assert endpoint.session_of(session)["query_count"] == 6


@each_node
def test_counts_while_the_daemon_is_dead_are_exact_even_if_the_worker_dies_too(node: str) -> None:
    with Place() as place:
        session, served = new_id(), place.serve()
        worker = Worker(node, place, session)
        worker.do("t.incr('request_count', 3)")
        until_shown(place, session, request_count=3)
        end_process(served, signal.SIGKILL)
        worker.do("for (let n = 0; n < 91; n += 1) t.request('GET /', 1)")
        worker.kill()
        place.serve()
        until_shown(place, session, request_count=94, endpoint_count=1)


@each_node
def test_a_worker_that_begins_while_a_killed_daemon_is_away_is_counted_even_if_it_dies(node: str) -> None:
    with Place() as place:
        session = new_id()
        end_process(place.serve(), signal.SIGKILL)
        run_script(node, place, COUNTS_AND_DIES, BRAKIT_SESSION_ID=session, KILLED_AT="9")
        place.serve()
        until_shown(place, session, request_count=20, query_count=20, endpoint_count=1)


@each_node
def test_an_idle_worker_joins_the_next_daemon_without_a_call(node: str) -> None:
    with Place() as place:
        session, served = new_id(), place.serve()
        with Worker(node, place, session) as worker:
            worker.do("t.incr('request_count', 3); t.set({ framework: 'koa' })")
            until_shown(place, session, framework="koa")
            end_process(served, signal.SIGKILL)
            place.serve()
            until_shown(place, session, request_count=3, framework="koa")
            wait_until(lambda: producers(place, session)["live"] == 1, "the connection")


def producers(place: Place, session: str) -> dict[str, int]:
    """Return how many producers of the session are live, and how many are gone."""
    with Wire(place.socket_path).hello() as wire:
        (found,) = [each["producers"] for each in wire.ask()[0]["sessions"] if each["id"] == session]
    counted: dict[str, int] = found
    return counted


@each_node
def test_an_event_that_was_being_written_when_the_daemon_died_is_written_again(node: str, nowhere: Place) -> None:
    daemon = nowhere.serve()
    with Worker(node, nowhere, new_id()) as worker:
        os.kill(daemon.pid, signal.SIGSTOP)
        worker.do("t.event('first_request', { port: 8000 })")
        worker.do("for (let n = 0; n < 1000; n += 1) t.event('cli_invoked', { command: `c${n}` })")
        end_process(daemon, signal.SIGKILL)
        os.unlink(nowhere.socket_path)
        with FakeDaemon(nowhere) as successor:
            wait_until(lambda: successor.frames_with("event") == 65, "the events that wait, which are at most 64")
            once, first, *others = [frame["event"] for frame in successor.frames if "event" in frame]
    assert once["name"] == "first_request"  # a session has it once, so it is repeated to each daemon
    assert int(first["command"][1:]) < 900
    assert [event["command"] for event in others] == [f"c{number}" for number in range(936, 999)]


# --- no daemon runs -------------------------------------------------------------------------------------------------


@each_node
def test_counts_from_before_any_daemon_ran_are_not_lost(node: str, nowhere: Place) -> None:
    session = new_id()
    with Worker(node, nowhere, session) as worker:
        worker.do("for (let n = 0; n < 100; n += 1) t.request('GET /users', 5)")
        worker.do("t.event('first_request', { port: 8000 })")
        nowhere.serve()
        until_shown(nowhere, session, request_count=100, endpoint_count=1)
        assert shown(nowhere, session)["time_to_first_request_ms"] is not None


@each_node
def test_a_worker_leaves_nothing_behind_where_no_daemon_ever_ran(node: str, nowhere: Place) -> None:
    os.makedirs(os.path.dirname(nowhere.socket_path), mode=0o700)
    ran = run_script(node, nowhere, "const t = connect(); t.incr('request_count'); t.request('GET /', 1)")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert os.listdir(os.path.dirname(nowhere.socket_path)) == []


@each_node
def test_a_worker_hands_everything_over_at_its_exit_if_a_daemon_began_meanwhile(node: str, nowhere: Place) -> None:
    session = new_id()
    worker = Worker(node, nowhere, session)
    worker.do("t.request('GET /', 5); t.set({ framework: 'koa' })")
    nowhere.serve()
    with owned(nowhere, session):
        assert worker.end() == (0, "")
        until_shown(nowhere, session, request_count=1, framework="koa")


# --- a daemon that does not read the counter file -------------------------------------------------------------------


@each_node
@pytest.mark.parametrize("answer", [None, REFUSES_THE_FILE], ids=["no answer", "a refusal"])
def test_a_daemon_that_does_not_read_the_counter_file_gets_every_count_as_a_line(
    node: str, nowhere: Place, answer: dict[str, Any] | None
) -> None:
    with FakeDaemon(nowhere, answer) as daemon:
        worker = Worker(node, nowhere, new_id())
        worker.do("t.incr('query_count', 5)")
        wait_until(lambda: daemon.last_total("query_count") == 5, "the first total")
        worker.do("for (let n = 0; n < 50; n += 1) t.incr('query_count'); t.request('GET /', 700)")
        worker.kill()
        wait_until(lambda: daemon.last_total("request_count") == 1, "the last total")
        assert daemon.last_total("query_count") == 55
        (row,) = {tuple(row) for frame in daemon.frames for row in frame.get("histogram", {}).values()}
        assert row == (700_000_000, 0, 0, 1, 0, 0, 0)


@each_node
def test_a_worker_removes_a_counter_file_that_the_daemon_refuses(node: str, nowhere: Place) -> None:
    """A later daemon would count what lines have already reported."""
    with FakeDaemon(nowhere, REFUSES_THE_FILE) as daemon, Worker(node, nowhere, new_id()) as worker:
        wait_until(lambda: daemon.frames and not counter_files(nowhere), "the removal")
        worker.do("t.incr('query_count')")
        wait_until(lambda: daemon.last_total("query_count") == 1, "the total")
        assert counter_files(nowhere) == []


FULL_DISKS = {
    "no file can be made": "fs.openSync = failing(fs.openSync, (path) => String(path).includes('/counters-1-'))",
    "no content can be written": "fs.writeSync = failing(fs.writeSync, (fd, data, start, length) => length > 10_000)",
}


@each_node
@pytest.mark.parametrize("full", FULL_DISKS.values(), ids=FULL_DISKS)
def test_a_full_disk_costs_no_count(node: str, place: Place, full: str) -> None:
    place.serve()
    code = f"""
    const fs = require('node:fs');
    const failing = (call, isFull) => (...all) => {{
      if (isFull(...all)) throw new Error('ENOSPC');
      return call(...all);
    }};
    {full};
    const t = require(process.env.CLIENT).connect();
    for (let n = 0; n < 50; n += 1) t.request('GET /', 1);
    {KILLS_ITSELF}
    """
    with owned(place) as session:
        run_script(node, place, code, BRAKIT_SESSION_ID=session)
        until_shown(place, session, request_count=50, endpoint_count=1)
        assert counter_files(place) == []


# --- a daemon that does not read its socket -------------------------------------------------------------------------


@each_node
def test_a_stopped_daemon_blocks_no_call_and_nothing_is_lost(node: str, home: Place) -> None:
    with owned(home) as session, Worker(node, home, session) as worker:
        worker.do("t.incr('request_count')")
        until_shown(home, session, request_count=1)
        with suspended(home.status()["pid"]):
            worker.do(
                "for (let n = 0; n < 3000; n += 1) { t.mark('insight_count', `text ${n}`); t.incr('query_count') }"
            )
            worker.do("for (let n = 0; n < 3000; n += 1) t.event('cli_invoked', { command: 'install' })")
            worker.do("for (let n = 0; n < 9000; n += 1) t.request(`GET /${n % 40}`, 10)")
        until_shown(home, session, request_count=9001, endpoint_count=40, insight_count=3000, query_count=3000)


@each_node
def test_a_worker_that_begins_while_the_daemon_is_stopped_is_counted_even_if_it_is_killed(
    node: str, home: Place
) -> None:
    with owned(home) as session:
        with suspended(home.status()["pid"]):
            run_script(node, home, COUNTS_AND_DIES, BRAKIT_SESSION_ID=session, KILLED_AT="4999")
        until_shown(home, session, request_count=10_000, query_count=10_000, endpoint_count=1)


@each_node
def test_a_daemon_that_closes_each_connection_is_asked_once_a_second(node: str, nowhere: Place) -> None:
    with FakeDaemon(nowhere, closes=True) as daemon, Worker(node, nowhere, new_id()) as worker:
        wait_until(lambda: len(daemon.received) >= 3, "a third connection")
        assert worker.do(f"performance.now() > {900 * (len(daemon.received) - 1)}") is True


# --- the session is over --------------------------------------------------------------------------------------------


@each_node
def test_a_worker_stops_when_its_session_was_reported(node: str, place: Place, endpoint: Endpoint) -> None:
    place.serve()
    session = place.run("session", "start").stdout.strip()
    with Worker(node, place, session) as worker:
        worker.do("t.incr('request_count')")
        until_shown(place, session, request_count=1)
        place.run("session", "end", session)
        endpoint.wait_for("session")
        assert counter_files(place) == []
        before = refused(place)
        worker.do("t.incr('request_count', 5); t.set({ framework: 'koa' })")
        wait_until(lambda: refused(place) != before, "the refusal")
        wait_until(lambda: worker.do("process.listenerCount('exit')") == 0, "the end of the producer")
        worker.do("t.incr('request_count', 5); t.set({ framework: 'express' })")
    assert endpoint.only_session()["request_count"] == 1


@each_node
def test_a_worker_of_a_reported_session_stops_even_if_the_daemon_was_killed(
    node: str, place: Place, endpoint: Endpoint
) -> None:
    served = place.serve()
    session = place.run("session", "start").stdout.strip()
    with Worker(node, place, session) as worker:
        worker.do("t.incr('request_count')")
        until_shown(place, session, request_count=1)
        place.run("session", "end", session)
        endpoint.wait_for("session")
        end_process(served, signal.SIGKILL)
        wait_until(lambda: worker.do("process.listenerCount('exit')") == 0, "the end of the producer")
        place.serve()
        worker.do("t.incr('request_count', 5)")
    assert place.status()["sessions"] == []
    assert endpoint.only_session()["request_count"] == 1


# --- a worker that starts the daemon --------------------------------------------------------------------------------


@each_node
def test_a_worker_may_start_the_daemon_and_does_not_wait_for_it(node: str, nowhere: Place) -> None:
    session = new_id()
    path = os.pathsep.join((os.path.dirname(sys.executable), nowhere.environ["PATH"]))
    with Worker(node, nowhere, session, {"start": True}, PATH=path, NODE_OPTIONS="--no-warnings") as worker:
        worker.do("t.incr('request_count', 2)")
        wait_until(nowhere.accepts, "a daemon that accepts")
        until_shown(nowhere, session, request_count=2)


RECORDS_ITSELF = """#!/bin/sh
printf '%s\n' "$*" "$(pwd)" "${NODE_OPTIONS-unset}" "${PYTHONPATH-unset}" "$BRAKIT_TELEMETRY_KEY" >> "$RECORD"
"""


@each_node
def test_a_daemon_is_started_once_with_the_settings_but_without_the_hooks_of_the_application(
    node: str, nowhere: Place
) -> None:
    record = os.path.join(nowhere.root, "record")
    make_executable(os.path.join(nowhere.root, "bin", "brakit-sidecar"), RECORDS_ITSELF)
    code = "const t = connect({ start: true }); t.incr('request_count'); t.set({ framework: 'koa' });"
    ran = run_script(
        node, nowhere, code, PATH=f"{nowhere.root}/bin:/usr/bin:/bin", RECORD=record, PYTHONPATH="/nowhere",
        NODE_OPTIONS="--no-warnings", BRAKIT_TELEMETRY_KEY="phc_test",
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    wait_until(lambda: os.path.exists(record) and read(record).endswith("phc_test\n"), "the started command")
    assert read(record).splitlines() == ["start", "/", "unset", "unset", "phc_test"]


@newest_node
def test_the_mode_of_a_directory_that_exists_is_not_changed(node: str, nowhere: Place) -> None:
    os.mkdir(os.path.join(nowhere.root, "shared"), 0o755)
    socket = os.path.join(nowhere.root, "shared", "sidecar.sock")
    run_script(node, nowhere, "connect({ start: true })", PATH="", BRAKIT_SIDECAR_SOCKET=socket)
    assert os.stat(os.path.join(nowhere.root, "shared")).st_mode & 0o777 == 0o755


@newest_node
def test_no_command_of_the_working_directory_is_started(node: str, nowhere: Place) -> None:
    record = os.path.join(nowhere.root, "record")
    make_executable(os.path.join(nowhere.root, "bin", "brakit-sidecar"), RECORDS_ITSELF)
    script = [node, "-e", "require(process.env.CLIENT).connect({ start: true })"]
    environ = {**nowhere.environ, "CLIENT": CLIENT, "PATH": "bin:.", "RECORD": record}
    ran = subprocess.run(script, env=environ, cwd=nowhere.root, timeout=PATIENCE_S, check=False)
    assert ran.returncode == 0
    assert not os.path.exists(record)


@newest_node
def test_a_second_daemon_is_not_started_within_five_seconds(node: str, nowhere: Place) -> None:
    record = os.path.join(nowhere.root, "record")
    make_executable(os.path.join(nowhere.root, "bin", "brakit-sidecar"), RECORDS_ITSELF)
    code = f"""
    const {{ DaemonStarter }} = require({os.path.join(PACKAGE, "lib", "starter.cjs")!r});
    const starter = new DaemonStarter(process.env);
    console.log(starter.start({{ again: false }}), starter.start({{ again: true }}));
    """
    ran = run_script(node, nowhere, code, PATH=f"{nowhere.root}/bin:/usr/bin:/bin", RECORD=record)
    assert ran.stdout == "true false\n"


def make_executable(path: str, content: str) -> None:
    os.makedirs(os.path.dirname(path))
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)
    os.chmod(path, 0o755)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


# --- the end of a producer ------------------------------------------------------------------------------------------

ENDINGS = {
    "returns": ("", "clean"),
    "exits with a code": ("process.exit(3)", "crash"),
    "throws": ("throw new Error('x')", "crash"),
    "rejects": ("Promise.reject(new Error('x'))", "crash"),
    "is killed": (KILLS_ITSELF, "crash"),
    "reports sigterm": ("t.close('sigterm')", "sigterm"),
    "ends after the daemon's answer": ("setTimeout(() => {}, 300)", "clean"),
    "fails after the daemon's answer": ("setTimeout(() => { process.exitCode = 1 }, 300)", "crash"),
}


@newest_node
def test_without_an_owner_the_exit_reason_is_the_workers(node: str, home: Place, remote: Endpoint) -> None:
    sessions = {how: new_id() for how in ENDINGS}
    for how, (code, _reason) in ENDINGS.items():
        run_script(node, home, f"const t = connect(); t.incr('request_count'); {code}", BRAKIT_SESSION_ID=sessions[how])
    found = {how: remote.session_of(session)["exit_reason"] for how, session in sessions.items()}
    assert found == {how: reason for how, (_code, reason) in ENDINGS.items()}


@newest_node
def test_the_exit_reason_is_in_the_counter_file_if_the_socket_is_full(
    node: str, place: Place, endpoint: Endpoint
) -> None:
    session, daemon = new_id(), place.serve(grace_s=0.5)
    with Worker(node, place, session) as worker:
        worker.do("t.incr('request_count', 3)")
        until_shown(place, session, request_count=3)
        with suspended(daemon.pid):
            worker.do("for (let n = 0; n < 3000; n += 1) t.event('cli_invoked', { command: 'install' })")
            assert worker.end() == (0, "")
    found = endpoint.session_of(session)
    assert (found["request_count"], found["exit_reason"]) == (3, "clean")


@each_node
def test_the_exit_reason_is_in_the_counter_file_and_no_line_is_sent(node: str, nowhere: Place) -> None:
    with FakeDaemon(nowhere, {"counter_file": 1}) as daemon:
        worker = Worker(node, nowhere, new_id())
        wait_until(lambda: not counts_by_line(worker, daemon), "the worker's receipt of the answer")
        worker.do("t.incr('query_count', 3)")
        path = worker.counter_file()
        lines = len(daemon.frames)
        assert worker.end() == (0, "")
        assert len(daemon.frames) == lines
    with open(path, "rb") as file:
        snapshot = CounterSnapshot.of(file.read())
    assert snapshot is not None
    assert (snapshot.counts["query_count"], snapshot.end) == (3, "clean")


# --- several processes and threads ----------------------------------------------------------------------------------


@each_node
def test_worker_threads_count_as_producers_of_their_own(node: str, home: Place) -> None:
    with owned(home) as session:
        ran = run_driver(node, home, "threads.cjs", BRAKIT_SESSION_ID=session)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        until_shown(home, session, request_count=1 + 4 * 100, query_count=2 * 4, endpoint_count=4, insight_count=1)


@newest_node
def test_a_thread_reports_its_end_while_its_process_runs_on(node: str, home: Place) -> None:
    with owned(home) as session, start_driver(node, home, "thread.cjs", BRAKIT_SESSION_ID=session) as process:
        until_shown(home, session, query_count=1)
        assert process.stdin is not None
        process.stdin.write("end\n")
        process.stdin.flush()
        wait_until(lambda: producers(home, session)["gone"] == 1, "the end of the thread")
        assert process.poll() is None
        assert process.communicate(timeout=PATIENCE_S) == ("", "")


@each_node
def test_the_workers_of_a_cluster_lose_no_count_if_one_is_killed(node: str, home: Place) -> None:
    with owned(home) as session:
        ran = run_driver(node, home, "cluster.cjs", BRAKIT_SESSION_ID=session)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        until_shown(home, session, request_count=4 * 11, endpoint_count=1)


@pytest.mark.slow
@newest_node
def test_node_and_python_workers_of_one_command_line_are_one_session(
    node: str, place: Place, endpoint: Endpoint
) -> None:
    place.serve(grace_s=PATIENCE_S)  # the session must not end between the workers, however slow they are
    javascript = "require(process.env.CLIENT).connect().incr('request_count', {})"
    python = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', {})"
    commands = [[node, "-e", javascript.format(2)], [sys.executable, "-c", python.format(3)]]
    line = " & ".join(map(shlex.join, commands)) + f"; wait; {shlex.join([node, '-e', javascript.format(5)])}"
    environ = {**place.environ, "CLIENT": CLIENT}
    subprocess.run(["sh", "-c", line], env=environ, start_new_session=True, timeout=PATIENCE_S, check=True)
    place.run("stop")
    (body,) = endpoint.wait_for("session")
    assert body["properties"]["request_count"] == 10
