"""Too many, too slow, too much, and nowhere to write: the sessions of the others stay exact."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.client import counter_file
from brakit_sidecar.core import counter_layout

from tests.harness import PATIENCE_S, Endpoint, Place, Wire, end_process, new_id, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

DESCRIPTORS = 64
MIB = 1024 * 1024
PROCESSES, PRODUCERS = 4, 25  # in each
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds workers by /proc")


@pytest.fixture
def short(place: Place) -> Iterator[Place]:
    """A place whose daemon has few descriptors."""
    with served_short(place):
        yield place


@contextmanager
def served_short(place: Place) -> Iterator[int]:
    """A daemon with few descriptors; its process."""
    command = f'ulimit -n {DESCRIPTORS}; exec "$0" -m brakit_sidecar serve'
    with place.popen("sh", "-c", command, sys.executable) as served:
        try:
            wait_until(place.accepts, "a daemon that accepts")
            yield served.pid
        finally:
            end_process(served)


# --- descriptors -----------------------------------------------------------------------------------------------------

CROWD = """
import os, sys, brakit_sidecar
crowd = [brakit_sidecar.connect() for _ in range(int(sys.argv[1]))]
for t in crowd:
    t.request("GET /", 3)
    t.set(framework="flask")
print("here", flush=True)
for how in sys.stdin:
    for t in crowd:
        t.counter("request_count").inc()
    if how == "die\\n":
        os.kill(os.getpid(), 9)
    print("counted", flush=True)
"""


class Crowd:
    """A hundred workers of one session, in a few processes."""

    def __init__(self, place: Place, session: str) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", CROWD, str(PRODUCERS)],
                env={**place.environ, "BRAKIT_SESSION_ID": session},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        self._hear("here")

    def count(self) -> None:
        self._tell("count")
        self._hear("counted")

    def die(self) -> None:
        self._tell("die")
        self.leave()

    def leave(self) -> None:
        for process in self._processes:
            process.communicate(timeout=PATIENCE_S)

    def _tell(self, what: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(what + "\n")
            process.stdin.flush()

    def _hear(self, what: str) -> None:
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == what + "\n"


@needs_proc
@pytest.mark.parametrize("they", ["leave", "die", "live on"])
def test_a_hundred_workers_are_exact_where_the_daemon_has_64_descriptors(
    short: Place, endpoint: Endpoint, they: str
) -> None:
    session = new_id()
    with Wire(short.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        crowd = Crowd(short, session)
        crowd.count()
        wait_until(lambda: owner.ask()[0]["sessions"][0]["producers"]["live"] == PROCESSES * PRODUCERS, "their coming")
        if they == "die":
            crowd.die()
        else:
            crowd.count()
        if they == "leave":
            crowd.leave()
        owner.send(end={"exit_reason": "clean"})
        found = endpoint.session_of(session)
        assert owner.ask()[0]["refused"] == {}
    if they == "live on":
        crowd.leave()
    assert found["request_count"] == 3 * PROCESSES * PRODUCERS
    assert (found["framework"], found["exit_reason"], found["avg_duration_ms"]) == ("flask", "clean", 3)
    assert sorted(os.listdir(os.path.dirname(short.socket_path))) == ["sidecar-1.lock", "sidecar-1.sock"]


@needs_proc
def test_a_next_daemon_with_64_descriptors_finds_all_hundred_again(place: Place, endpoint: Endpoint) -> None:
    session = new_id()
    served = place.serve()
    crowd = Crowd(place, session)
    wait_until(lambda: place.status()["sessions"][0]["producers"]["live"] == PROCESSES * PRODUCERS, "their coming")
    served.kill()
    served.wait(PATIENCE_S)
    crowd.die()
    with served_short(place):
        assert endpoint.session_of(session)["request_count"] == 2 * PROCESSES * PRODUCERS


def test_a_flood_of_connections_that_say_nothing_holds_up_nobody(short: Place, endpoint: Endpoint) -> None:
    session = new_id()
    with ExitStack() as stack:
        for _ in range(2 * DESCRIPTORS):
            stack.enter_context(Wire(short.socket_path))
        ran = short.run(
            "run",
            "--",
            sys.executable,
            "-c",
            "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 3)",
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        with Wire(short.socket_path).hello(session) as worker:
            worker.send(incr={"request_count": 4}).sync()
    assert sorted(body["properties"]["request_count"] for body in endpoint.wait_for("session", 2)) == [3, 4]


@needs_proc
def test_all_memories_that_wait_with_their_hellos_are_taken_where_descriptors_are_short(
    place: Place, endpoint: Endpoint
) -> None:
    """Also by a seal, which takes in all at once."""
    session, many = new_id(), DESCRIPTORS
    with served_short(place) as daemon, Wire(place.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        with suspended(daemon), ExitStack() as stack:
            for _ in range(many):
                made = counter_file.shared(os.path.dirname(place.socket_path))
                assert made is not None
                stack.callback(made.close)
                made.cells[counter_layout.COUNTER_CELLS["request_count"]] = 3
                worker = stack.enter_context(Wire(place.socket_path))
                hello = {
                    "protocol": 1,
                    "session": session,
                    "producer": new_id(),
                    "sdk": "python",
                    "counter_file": counter_layout.VERSION,
                }
                assert made.fd is not None
                socket.send_fds(worker.stream, [json.dumps({"hello": hello}).encode() + b"\n"], [made.fd])
                worker.send(end={"exit_reason": "clean"})
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


def test_a_flood_of_connections_without_an_end_holds_up_no_seal(place: Place, endpoint: Endpoint) -> None:
    place.serve()
    session = new_id()
    with ExitStack() as stack:
        owner = stack.enter_context(Wire(place.socket_path)).hello(session, role="owner")
        owner.send(incr={"request_count": 4}).sync()
        for _ in range(3):
            flood = stack.enter_context(place.popen(sys.executable, "-c", FLOOD, place.socket_path))
            stack.callback(end_process, flood, signal.SIGKILL)
        time.sleep(0.5)  # it is under way
        owner.send(end={"exit_reason": "clean"})
        assert endpoint.only_session()["request_count"] == 4


@contextmanager
def accepts_fail(pid: int, log: str, error: str) -> Iterator[None]:
    """Each accept of the process fails, in here."""
    how = ["-e", "trace=accept4", "-e", f"inject=accept4:error={error}"]
    tracing = subprocess.Popen(["strace", "-f", "-o", log, "-p", str(pid), *how], stderr=subprocess.PIPE, text=True)
    assert tracing.stderr is not None
    said = tracing.stderr.readline()
    if "attached" not in said:
        tracing.wait(PATIENCE_S)
        pytest.skip(f"strace may not attach here: {said.strip()}")
    yield
    end_process(tracing)
    tracing.stderr.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("error", ["ENFILE", "ENOBUFS"])
def test_a_machine_without_files_keeps_who_waits_waiting_and_holds_up_nobody_else(
    place: Place, endpoint: Endpoint, error: str
) -> None:
    daemon, log = place.serve(), os.path.join(place.root, "strace")
    ending, lasting = new_id(), new_id()
    with Wire(place.socket_path).hello(ending, role="owner") as owner, ExitStack() as waiting:
        owner.sync()
        began = time.monotonic()
        with accepts_fail(daemon.pid, log, error):
            worker = waiting.enter_context(Wire(place.socket_path)).hello(lasting).send(incr={"request_count": 3})
            owner.send(end={"exit_reason": "clean"})
            endpoint.session_of(ending)
            owner.sync()
            wait_until(lambda: len(lines_of(log)) >= 5, "another try")
            tries, took_s = len(lines_of(log)), time.monotonic() - began
        worker.sync()
        assert owner.ask()[0]["sessions"][0]["fields"]["request_count"] == 3
    assert tries <= 10 + 10 * took_s  # a pause behind each; a loop without would make thousands


def lines_of(path: str) -> list[str]:
    with open(path, encoding="ascii") as file:
        return file.readlines()


# --- many, slow and loud ---------------------------------------------------------------------------------------------


@contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"no more than {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_producers_of_a_hundred_sessions_at_once(place: Place, endpoint: Endpoint) -> None:
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
                owners[session].sync()  # who connects to a full backlog is turned away
        for owner in owners.values():
            owner.send(end={"exit_reason": "clean"})
        bodies = endpoint.wait_for("session", 100)
    counts = sorted(body["properties"]["request_count"] for body in bodies)
    assert counts == [10 * (1 + number) for number in range(100)]
    assert {body["properties"]["endpoint_count"] for body in bodies} == {1}


def test_who_drips_who_never_reads_and_who_says_garbage_cost_nobody_a_count(place: Place, endpoint: Endpoint) -> None:
    daemon = place.serve()
    session = new_id()
    garbage = [b"\0" * 65_535 + b"\n", b'{"x":1}\n' * 8192, b"[" * 65_535 + b"\n", os.urandom(65_536)]

    def shout(what: bytes) -> None:
        for _ in range(64):
            with suppress(OSError), Wire(place.socket_path).hello(session=new_id()) as wire:
                wire.write(what)  # and is hung up on

    shouting = [threading.Thread(target=shout, args=(what,)) for what in garbage]
    with ExitStack() as stack:
        dripping = stack.enter_context(Wire(place.socket_path)).hello(session)
        deaf = stack.enter_context(Wire(place.socket_path)).hello(session)
        owner = stack.enter_context(Wire(place.socket_path)).hello(session, role="owner")
        owner.sync()
        before_mib = peak_mib(daemon.pid)
        for thread in shouting:
            thread.start()
        for byte in b'{"incr":{"request_count":5}}\n':
            dripping.write(bytes([byte]))
            deaf.send(ask="status")
            deaf.send(incr={"request_count": 1}, junk=1)
        for thread in shouting:
            thread.join()
        owner.send(end={"exit_reason": "clean"})
        found = endpoint.session_of(session)
    assert found["request_count"] == 5 + 29
    assert peak_mib(daemon.pid) - before_mib < 64


EMPTY_LINES = """
import socket, sys
with socket.socket(socket.AF_UNIX) as stream:
    stream.connect(sys.argv[1])
    stream.sendall(b'{"hello":{"protocol":1}}\\n')
    while True:
        stream.sendall(b"\\n" * 65_536)
"""


def refused_lines(wire: Wire) -> int:
    status, _ = wire.ask()
    return int(status["refused"].get("bad_json", 0))


def test_others_have_their_turn_amid_the_lines_that_one_has_written(place: Place) -> None:
    daemon, many = place.serve(), 100_000
    with Wire(place.socket_path).hello() as loud, Wire(place.socket_path).hello() as other:
        loud.sync()
        other.sync()
        with suspended(daemon.pid):
            loud.write(b"\n" * many)
            other.send(ask="status")
        answer = next(line["answer"] for line in other.lines() if "answer" in line)
        assert answer["refused"].get("bad_json", 0) < many / 2
        loud.sync()
        assert refused_lines(other) == many


def test_an_unfinished_line_that_is_too_long_is_refused_after_all_that_came_before_it(place: Place) -> None:
    daemon, many = place.serve(), 10_000
    with Wire(place.socket_path).hello() as loud:
        loud.sync()
        with suspended(daemon.pid):
            loud.write(b"\n" * many + b"x" * 65_536)
        refusals = [(said["refused"]["reason"], said["refused"]["line"]) for said in loud.lines()]
    assert refusals == [("bad_json", 3), ("oversize", 3 + many)]


def test_a_seal_takes_in_what_a_flood_had_written_and_not_what_it_goes_on_to_write(place: Place) -> None:
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
        assert refused_lines(other) - before < MIB  # each a byte; a socket holds a fifth of it


# So much of each that it would be seen, were it kept. Of short lines less: each of them is a refusal.
GARBAGE = {
    "no newline": (64, b"x" * MIB),
    "long lines": (64, b'{"' + b"k" * 65_000 + b'":1}\n'),
    "bad lines": (4, b"no JSON at all\n" * 64 * 1024),
    "unknown fields": (8, b'{"incr":{"nonsense":1},"set":{"what":"ever"},"mark":{"who":["knows"]}}\n' * 16 * 1024),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_by_the_megabyte_costs_no_count_and_no_memory(place: Place, endpoint: Endpoint, what: str) -> None:
    mib, chunk = GARBAGE[what]
    daemon, session, loud = place.serve(), new_id(), new_id()
    left = iter(range(mib * MIB // len(chunk)))

    def shout() -> None:
        for _ in left:  # where it is hung up on it comes again
            with suppress(OSError), Wire(place.socket_path).hello(loud) as wire:
                for _ in left:
                    wire.write(chunk)

    shouting = threading.Thread(target=shout)
    with Wire(place.socket_path).hello(session) as worker:
        worker.sync()
        before_mib = peak_mib(daemon.pid)
        shouting.start()
        counts = 0
        while shouting.is_alive():
            worker.send(incr={"request_count": 1}).sync()
            counts += 1
        shouting.join()
        assert peak_mib(daemon.pid) - before_mib < 20
        with Wire(place.socket_path).hello(session, role="owner") as owner:
            owner.send(end={"exit_reason": "clean"})
            assert endpoint.session_of(session)["request_count"] == counts


def peak_mib(pid: int) -> float:
    """0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


# --- nowhere to write ------------------------------------------------------------------------------------------------

WORKER = (sys.executable, "-c", "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 3)")


@contextmanager
def mounted(path: str, options: str) -> Iterator[None]:
    """A file system of its own there; skipped where only root of the machine may mount one."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "none", path]
    mounting = subprocess.run(command, capture_output=True, text=True, check=False) if os.getuid() == 0 else None
    if mounting is None or mounting.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_costs_the_receipt_and_nothing_else(place: Place, endpoint: Endpoint) -> None:
    state = os.path.join(place.home, ".local", "state")
    with mounted(state, "size=64k"):
        with open(os.path.join(state, "full"), "wb", buffering=0) as file:
            while (left := os.statvfs(state).f_bavail) > 1:
                file.write(b"x" * 4096 * (left - 1))
        ran = place.run("run", "--", *WORKER)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert endpoint.only_session()["request_count"] == 3
        assert place.run("stop").returncode == 0


# A daemon that takes a snapshot at once, and has its disk, or its threads, from the test.
WITHOUT = """
import os, sys, threading, time
from brakit_sidecar.daemon import app, start

def hang(fd):
    if threading.current_thread() is threading.main_thread():  # the config's
        return
    with open(sys.argv[1], "a") as file:
        file.write("fsync\\n")
    time.sleep(3600)

def refuse(thread):
    with open(sys.argv[1], "a") as file:
        file.write("start\\n")
    raise RuntimeError("can't start new thread")

app.SNAPSHOT_S = 0.05
if sys.argv[2] == "disk":
    os.fsync = hang
else:
    threading.Thread.start = refuse
start.foreground()
"""


@contextmanager
def served_without(what: str, place: Place) -> Iterator[str]:
    """Such a daemon; where it writes down each try."""
    log = os.path.join(place.root, "tries")
    served = place.popen(sys.executable, "-c", WITHOUT, log, what)
    try:
        wait_until(place.accepts, "a daemon that accepts")
        yield log
    finally:
        assert end_process(served) == 0


def test_a_disk_that_hangs_is_not_asked_again_and_keeps_no_daemon(place: Place) -> None:
    with served_without("disk", place) as log, Wire(place.socket_path).hello(new_id()) as worker:
        wait_until(lambda: os.path.exists(log), "the first try")
        for _ in range(5):  # of them several are in snapshots of their own
            worker.send(incr={"request_count": 1}).sync()
            time.sleep(0.1)
        assert lines_of(log) == ["fsync\n"]


def test_where_no_thread_can_be_started_the_daemon_goes_on(place: Place) -> None:
    with served_without("threads", place) as log, Wire(place.socket_path).hello(new_id()) as worker:
        wait_until(lambda: os.path.exists(log), "the first try")
        worker.send(incr={"request_count": 5}).sync()
        wait_until(lambda: len(lines_of(log)) >= 2, "another try")
        assert worker.ask()[0]["sessions"][0]["fields"]["request_count"] == 5


def test_a_full_runtime_directory_costs_no_more_than_the_memory(place: Place, endpoint: Endpoint) -> None:
    with mounted(os.path.join(place.runtime, "brakit"), "size=12k"):
        ran = place.run("run", "--", *WORKER)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert endpoint.only_session()["request_count"] == 3
        assert place.run("stop").returncode == 0


def test_in_a_home_that_cannot_be_written_the_command_just_runs(place: Place, endpoint: Endpoint) -> None:
    with mounted(place.home, "ro"):
        ran = place.run("run", "--", *WORKER)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert place.status()["running"] is False
    assert endpoint.requests == []


@pytest.mark.parametrize("home", [None, "", "not/absolute"])
def test_a_user_without_a_home_gets_no_file_in_the_working_directory(place: Place, home: str | None) -> None:
    unshared = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshared, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("cannot become a user whom nobody knows")
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


def test_without_a_runtime_directory_a_short_one_serves(place: Place, endpoint: Endpoint) -> None:
    ran = place.run("run", "--", *WORKER, XDG_RUNTIME_DIR="")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert endpoint.only_session()["request_count"] == 3
    assert place.run("stop", XDG_RUNTIME_DIR="").returncode == 0
