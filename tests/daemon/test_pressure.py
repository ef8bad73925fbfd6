"""Floods, slow producers, garbage and failing disks: the counts of all other sessions stay exact."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import counter_layout

from tests.daemon.counting import CountingWorker, fd_of, make_counter_file
from tests.daemon.processes import peak_kib
from tests.harness import PATIENCE_S, Endpoint, Place, Wire, end_process, join_once, new_id, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

DESCRIPTORS = 64
MIB = 1024 * 1024
PROCESSES, PRODUCERS = 4, 25  # producers in each process
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds workers by /proc")


@pytest.fixture
def few_descriptors(place: Place) -> Iterator[Place]:
    """Serve a place with a daemon that has few descriptors."""
    with served_with_few_descriptors(place):
        yield place


@contextmanager
def served_with_few_descriptors(place: Place) -> Iterator[int]:
    """Run a daemon with few descriptors. Yields its pid."""
    command = f'ulimit -n {DESCRIPTORS}; exec "$0" -m brakit_sidecar serve'
    with place.popen("sh", "-c", command, sys.executable) as served:
        try:
            wait_until(place.accepts, "a daemon that accepts")
            yield served.pid
        finally:
            end_process(served)


# --- few descriptors -------------------------------------------------------------------------------------------------

WORKERS = """
import os, sys, brakit_sidecar
workers = [brakit_sidecar.connect() for _ in range(int(sys.argv[1]))]
for t in workers:
    t.request("GET /", 3)
    t.set(framework="flask")
print("connected", flush=True)
for command in sys.stdin:
    for t in workers:
        t.counter("request_count").inc()
    if command == "count and die\\n":
        os.kill(os.getpid(), 9)
    print("counted", flush=True)
"""


class Workers:
    """A hundred workers of one session, in a few processes that count on command."""

    def __init__(self, place: Place, session: str) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKERS, str(PRODUCERS)],
                env={**place.environ, "BRAKIT_SESSION_ID": session},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        self._expect("connected")

    def count(self) -> None:
        self._command("count")
        self._expect("counted")

    def count_and_die(self) -> None:
        self._command("count and die")
        self.exit()

    def exit(self) -> None:
        for process in self._processes:
            process.communicate(timeout=PATIENCE_S)

    def _command(self, line: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()

    def _expect(self, line: str) -> None:
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == line + "\n"


@needs_proc
@pytest.mark.parametrize("end", ["they exit", "they are killed", "they live on"])
def test_the_counts_of_a_hundred_workers_are_exact_with_64_descriptors(
    few_descriptors: Place, endpoint: Endpoint, end: str
) -> None:
    session = new_id()
    with Wire(few_descriptors.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        workers = Workers(few_descriptors, session)
        workers.count()
        wait_until(
            lambda: owner.ask()[0]["sessions"][0]["producers"]["live"] == PROCESSES * PRODUCERS,
            "the workers' connections",
        )
        if end == "they are killed":
            workers.count_and_die()
        else:
            workers.count()
        if end == "they exit":
            workers.exit()
        owner.send(end={"exit_reason": "clean"})
        found = endpoint.session_of(session)
        assert owner.ask()[0]["refused"] == {}
    if end == "they live on":
        workers.exit()
    assert found["request_count"] == 3 * PROCESSES * PRODUCERS
    assert (found["framework"], found["exit_reason"], found["avg_duration_ms"]) == ("flask", "clean", 3)
    assert sorted(os.listdir(os.path.dirname(few_descriptors.socket_path))) == ["sidecar-1.lock", "sidecar-1.sock"]


@needs_proc
def test_the_next_daemon_recovers_a_hundred_workers_with_64_descriptors(place: Place, endpoint: Endpoint) -> None:
    session = new_id()
    served = place.serve()
    workers = Workers(place, session)
    wait_until(
        lambda: place.status()["sessions"][0]["producers"]["live"] == PROCESSES * PRODUCERS, "the workers' connections"
    )
    served.kill()
    served.wait(PATIENCE_S)
    workers.count_and_die()
    with served_with_few_descriptors(place):
        assert endpoint.session_of(session)["request_count"] == 2 * PROCESSES * PRODUCERS


def test_connections_that_send_nothing_do_not_block_other_workers(few_descriptors: Place, endpoint: Endpoint) -> None:
    session = new_id()
    with ExitStack() as stack:
        for _ in range(2 * DESCRIPTORS):
            stack.enter_context(Wire(few_descriptors.socket_path))
        ran = few_descriptors.run(
            "run",
            "--",
            sys.executable,
            "-c",
            "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 3)",
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        with Wire(few_descriptors.socket_path).hello(session) as worker:
            worker.send(incr={"request_count": 4}).sync()
    assert sorted(body["properties"]["request_count"] for body in endpoint.wait_for("session", 2)) == [3, 4]


@needs_proc
def test_all_counter_files_of_pending_hellos_are_read_with_64_descriptors(place: Place, endpoint: Endpoint) -> None:
    """The seal drains all pending connections at once."""
    session, many = new_id(), DESCRIPTORS
    with served_with_few_descriptors(place) as daemon, Wire(place.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        with suspended(daemon), ExitStack() as stack:
            for _ in range(many):
                made = make_counter_file(os.path.dirname(place.socket_path))
                stack.callback(made.close)
                made.cells[counter_layout.COUNTER_CELLS["request_count"]] = 3
                worker = stack.enter_context(CountingWorker(place.socket_path))
                worker.send_hello(session, fd_of(made)).send(end={"exit_reason": "clean"})
            owner.send(end={"exit_reason": "clean"})
        assert endpoint.session_of(session)["request_count"] == 3 * many


FLOOD = """
import socket, sys
while True:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.setblocking(False)
        try:
            stream.connect(sys.argv[1])
        except OSError:
            pass
"""


def test_an_endless_flood_of_connections_does_not_block_a_seal(place: Place, endpoint: Endpoint) -> None:
    place.serve()
    session = new_id()
    with ExitStack() as stack:
        owner = stack.enter_context(Wire(place.socket_path)).hello(session, role="owner")
        owner.send(incr={"request_count": 4}).sync()
        join_once(place.socket_path, session)
        for _ in range(3):
            flood = stack.enter_context(place.popen(sys.executable, "-c", FLOOD, place.socket_path))
            stack.callback(end_process, flood, signal.SIGKILL)
        time.sleep(0.5)  # the flood has begun by now
        owner.send(end={"exit_reason": "clean"})
        assert endpoint.only_session()["request_count"] == 4


@contextmanager
def accepts_fail(pid: int, log: str, error: str) -> Iterator[None]:
    """Let each accept of the process fail inside the context."""
    faults = ["-e", "trace=accept4", "-e", f"inject=accept4:error={error}"]
    tracing = subprocess.Popen(["strace", "-f", "-o", log, "-p", str(pid), *faults], stderr=subprocess.PIPE, text=True)
    assert tracing.stderr is not None
    line = tracing.stderr.readline()
    if "attached" not in line:
        tracing.wait(PATIENCE_S)
        pytest.skip(f"strace may not attach here: {line.strip()}")
    yield
    end_process(tracing)
    tracing.stderr.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("error", ["ENFILE", "ENOBUFS"])
def test_pending_connections_wait_while_accept_fails_and_others_are_served(
    place: Place, endpoint: Endpoint, error: str
) -> None:
    daemon, log = place.serve(), os.path.join(place.root, "strace")
    ending, lasting = new_id(), new_id()
    with Wire(place.socket_path).hello(ending, role="owner") as owner, ExitStack() as pending:
        owner.sync()
        join_once(place.socket_path, ending)
        began = time.monotonic()
        with accepts_fail(daemon.pid, log, error):
            worker = pending.enter_context(Wire(place.socket_path)).hello(lasting).send(incr={"request_count": 3})
            owner.send(end={"exit_reason": "clean"})
            endpoint.session_of(ending)
            owner.sync()
            wait_until(lambda: len(lines_of(log)) >= 5, "another attempt")
            attempts, took_s = len(lines_of(log)), time.monotonic() - began
        worker.sync()
        assert owner.ask()[0]["sessions"][0]["fields"]["request_count"] == 3
    assert attempts <= 10 + 10 * took_s  # a pause follows each attempt; without it there would be thousands


def lines_of(path: str) -> list[str]:
    with open(path, encoding="ascii") as file:
        return file.readlines()


# --- many producers, slow ones and garbage ----------------------------------------------------------------------------


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Let this process have 4096 descriptors. Skips the test if the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"no more than {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_producers_of_a_hundred_sessions_are_counted_at_once(place: Place, endpoint: Endpoint) -> None:
    place.serve()
    with many_descriptors(), ExitStack() as stack:
        owners = {
            session: stack.enter_context(Wire(place.socket_path)).hello(session, role="owner")
            for session in (new_id() for _ in range(100))
        }
        for number, session in enumerate([*owners] * 10):
            worker = stack.enter_context(Wire(place.socket_path)).hello(session)
            worker.send(incr={"request_count": 1 + number % 100}, observe={"9f3a61c2d4e5b607": [12.5]})
            if number % 3:
                worker.send(end={"exit_reason": "clean"}).close()
            if number % 100 == 99:
                owners[session].sync()  # a connect to a full backlog fails, so let the daemon accept
        for owner in owners.values():
            owner.send(end={"exit_reason": "clean"})
        bodies = endpoint.wait_for("session", 100)
    counts = sorted(body["properties"]["request_count"] for body in bodies)
    assert counts == [10 * (1 + number) for number in range(100)]
    assert {body["properties"]["endpoint_count"] for body in bodies} == {1}


def test_no_count_is_lost_beside_slow_producers_unread_answers_and_garbage(place: Place, endpoint: Endpoint) -> None:
    daemon = place.serve()
    session = new_id()
    garbage = [b"\0" * 65_535 + b"\n", b'{"x":1}\n' * 8192, b"[" * 65_535 + b"\n", os.urandom(65_536)]

    def send_often(data: bytes) -> None:
        for _ in range(64):
            with suppress(OSError), Wire(place.socket_path).hello(session=new_id()) as wire:
                wire.write(data)  # the daemon closes the connection after a part of it

    senders = [threading.Thread(target=send_often, args=(data,)) for data in garbage]
    with ExitStack() as stack:
        slow = stack.enter_context(Wire(place.socket_path)).hello(session)
        not_reading = stack.enter_context(Wire(place.socket_path)).hello(session)
        owner = stack.enter_context(Wire(place.socket_path)).hello(session, role="owner")
        owner.sync()
        before_kib = peak_kib(daemon.pid)
        for thread in senders:
            thread.start()
        for byte in b'{"incr":{"request_count":5}}\n':
            slow.write(bytes([byte]))
            not_reading.send(ask="status")
            not_reading.send(incr={"request_count": 1}, junk=1)
        for thread in senders:
            thread.join()
        owner.send(end={"exit_reason": "clean"})
        found = endpoint.session_of(session)
    assert found["request_count"] == 5 + 29
    assert peak_kib(daemon.pid) - before_kib < 64 * 1024


EMPTY_LINES = """
import socket, sys
with socket.socket(socket.AF_UNIX) as stream:
    stream.connect(sys.argv[1])
    stream.sendall(b'{"hello":{"protocol":1}}\\n')
    while True:
        stream.sendall(b"\\n" * 65_536)
"""


def refused_lines(wire: Wire) -> int:
    """Return how many lines the daemon has refused because they were not JSON."""
    status, _ = wire.ask()
    return int(status["refused"].get("bad_json", 0))


def test_another_connection_is_served_between_the_lines_of_a_flood(place: Place) -> None:
    daemon, many = place.serve(), 100_000
    with Wire(place.socket_path).hello() as flooding, Wire(place.socket_path).hello() as other:
        flooding.sync()
        other.sync()
        with suspended(daemon.pid):
            flooding.write(b"\n" * many)
            other.send(ask="status")
        answer = next(line["answer"] for line in other.lines() if "answer" in line)
        assert answer["refused"].get("bad_json", 0) < many / 2
        flooding.sync()
        assert refused_lines(other) == many


def test_an_unfinished_line_that_is_too_long_is_refused_after_the_lines_before_it(place: Place) -> None:
    daemon, many = place.serve(), 10_000
    with Wire(place.socket_path).hello() as flooding:
        flooding.sync()
        with suspended(daemon.pid):
            flooding.write(b"\n" * many + b"x" * 65_536)
        refusals = [(line["refused"]["reason"], line["refused"]["line"]) for line in flooding.lines()]
    assert refusals == [("bad_json", 3), ("oversize", 3 + many)]


def test_a_seal_reads_what_a_flood_has_written_and_not_what_it_writes_later(place: Place) -> None:
    place.serve()
    session = new_id()
    with ExitStack() as stack:
        owner = stack.enter_context(Wire(place.socket_path)).hello(session, role="owner")
        owner.sync()
        other = stack.enter_context(Wire(place.socket_path)).hello()
        flood = stack.enter_context(place.popen(sys.executable, "-c", EMPTY_LINES, place.socket_path))
        stack.callback(end_process, flood, signal.SIGKILL)
        wait_until(lambda: refused_lines(other), "the flood")
        before = refused_lines(other)
        owner.send(end={"exit_reason": "clean"})
        wait_until(lambda: not other.ask()[0]["sessions"], "the seal")
        assert refused_lines(other) - before < MIB  # one byte a line; a socket buffer holds about a fifth of that


# Enough of each that a leak would show. Fewer MiB of short lines, because each line takes time to be refused.
GARBAGE = {
    "no newline": (64, b"x" * MIB),
    "long lines": (64, b'{"' + b"k" * 65_000 + b'":1}\n'),
    "bad lines": (4, b"no JSON at all\n" * 64 * 1024),
    "unknown fields": (8, b'{"incr":{"nonsense":1},"set":{"what":"ever"},"mark":{"who":["knows"]}}\n' * 16 * 1024),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_megabytes_of_garbage_cost_no_count_and_no_memory(place: Place, endpoint: Endpoint, kind: str) -> None:
    mib, chunk = GARBAGE[kind]
    daemon, session, flooding = place.serve(), new_id(), new_id()
    left = iter(range(mib * MIB // len(chunk)))

    def send_all() -> None:
        for _ in left:  # if the daemon closes the connection, connect again
            with suppress(OSError), Wire(place.socket_path).hello(flooding) as wire:
                for _ in left:
                    wire.write(chunk)

    sender = threading.Thread(target=send_all)
    with Wire(place.socket_path).hello(session) as worker:
        worker.sync()
        before_kib = peak_kib(daemon.pid)
        sender.start()
        counts = 0
        while sender.is_alive():
            worker.send(incr={"request_count": 1}).sync()
            counts += 1
        sender.join()
        assert peak_kib(daemon.pid) - before_kib < 20 * 1024
        with Wire(place.socket_path).hello(session, role="owner") as owner:
            owner.send(end={"exit_reason": "clean"})
            assert endpoint.session_of(session)["request_count"] == counts


# --- disks and threads that fail -------------------------------------------------------------------------------------

WORKER = (sys.executable, "-c", "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 3)")


@contextmanager
def mounted(path: str, options: str) -> Iterator[None]:
    """Mount a file system at the path. Skips the test if this user may not mount one."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "none", path]
    mounting = subprocess.run(command, capture_output=True, text=True, check=False) if os.getuid() == 0 else None
    if mounting is None or mounting.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_costs_only_the_receipt(place: Place, endpoint: Endpoint) -> None:
    state = os.path.join(place.home, ".local", "state")
    with mounted(state, "size=64k"):
        with open(os.path.join(state, "full"), "wb", buffering=0) as file:
            while (left := os.statvfs(state).f_bavail) > 1:
                file.write(b"x" * 4096 * (left - 1))
        ran = place.run("run", "--", *WORKER)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert endpoint.only_session()["request_count"] == 3
        assert place.run("stop").returncode == 0


# Runs a daemon with frequent snapshots, whose fsync hangs or whose threads cannot start. Logs each attempt in a file.
FAILING = """
import os, sys, threading, time
from brakit_sidecar.daemon import start
from brakit_sidecar.daemon.config import USUAL

def hang(fd):
    if threading.current_thread() is threading.main_thread():  # a write of the config
        return
    with open(sys.argv[1], "a") as file:
        file.write("fsync\\n")
    time.sleep(3600)

def refuse(thread):
    with open(sys.argv[1], "a") as file:
        file.write("start\\n")
    raise RuntimeError("can't start new thread")

if sys.argv[2] == "disk":
    os.fsync = hang
else:
    threading.Thread.start = refuse
start.foreground(USUAL._replace(snapshot_s=0.05))
"""


@contextmanager
def served_failing(part: str, place: Place) -> Iterator[str]:
    """Run such a daemon. Yields the path of its log."""
    log = os.path.join(place.root, "attempts")
    served = place.popen(sys.executable, "-c", FAILING, log, part)
    try:
        wait_until(place.accepts, "a daemon that accepts")
        yield log
    finally:
        assert end_process(served) == 0


def test_a_hanging_fsync_is_not_repeated_and_does_not_block_the_exit(place: Place) -> None:
    with served_failing("disk", place) as log, Wire(place.socket_path).hello(new_id()) as worker:
        wait_until(lambda: os.path.exists(log), "the first attempt")
        for _ in range(5):  # enough time for several snapshots
            worker.send(incr={"request_count": 1}).sync()
            time.sleep(0.1)
        assert lines_of(log) == ["fsync\n"]


def test_the_daemon_works_if_no_thread_can_be_started(place: Place) -> None:
    with served_failing("threads", place) as log, Wire(place.socket_path).hello(new_id()) as worker:
        wait_until(lambda: os.path.exists(log), "the first attempt")
        worker.send(incr={"request_count": 5}).sync()
        wait_until(lambda: len(lines_of(log)) >= 2, "another attempt")
        assert worker.ask()[0]["sessions"][0]["fields"]["request_count"] == 5


def test_a_full_runtime_directory_costs_only_the_counter_file(place: Place, endpoint: Endpoint) -> None:
    with mounted(os.path.join(place.runtime, "brakit"), "size=12k"):
        ran = place.run("run", "--", *WORKER)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert endpoint.only_session()["request_count"] == 3
        assert place.run("stop").returncode == 0


def test_the_command_runs_without_telemetry_in_a_read_only_home(place: Place, endpoint: Endpoint) -> None:
    with mounted(place.home, "ro"):
        ran = place.run("run", "--", *WORKER)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert place.status()["running"] is False
    assert endpoint.requests == []


@pytest.mark.parametrize("home", [None, "", "not/absolute"])
def test_no_file_is_made_in_the_working_directory_for_a_user_without_a_home(place: Place, home: str | None) -> None:
    unshared = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("cannot become a user without an account")
    environ: dict[str, Any] = {name: value for name, value in place.environ.items() if name != "HOME"}
    environ |= {} if home is None else {"HOME": home}
    directory = os.path.join(place.root, "project")
    os.mkdir(directory)
    ran = subprocess.run(
        [*unshared, sys.executable, "-m", "brakit_sidecar", "run", "--", *WORKER],
        env=environ, cwd=directory, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert os.listdir(directory) == []


def test_a_short_directory_is_used_if_there_is_no_runtime_directory(place: Place, endpoint: Endpoint) -> None:
    # All tests share the daemon of this directory, so another test's may be there for some seconds.
    wait_until(lambda: place.run("status", XDG_RUNTIME_DIR="").returncode == 1, "the end of another daemon")
    ran = place.run("run", "--", *WORKER, XDG_RUNTIME_DIR="")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert endpoint.only_session()["request_count"] == 3
    assert place.run("stop", XDG_RUNTIME_DIR="").returncode == 0
