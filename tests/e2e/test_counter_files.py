"""Workers count in counter files that a real daemon reads. The counts are exact even if processes are killed."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.serving import SOURCES
from tests.harness import PATIENCE_S, Place, Wire, end_process, new_id, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from tests.harness import Endpoint

# --- interpreters ---------------------------------------------------------------------------------------------

THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHERS = [version for version in ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.14t") if version != THIS]
_PRINT_VERSION = """
import brakit_sidecar, sys, sysconfig
print(sys.executable)
print("%d.%d" % sys.version_info[:2] + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""))
"""


def find_python(version: str) -> str | None:
    """Return an interpreter of this version that can import the client. The client needs only the standard library.
    Returns None if no such interpreter is found.
    """
    home = glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python"))
    named = shutil.which(f"python{version}")
    found = [path for path in sorted(home) if f"/{version.rstrip('t')}." in path]
    for path in [*found, *([named] if named else [])]:
        with suppress(OSError, subprocess.TimeoutExpired):
            ran = subprocess.run(
                [path, "-c", _PRINT_VERSION],
                env={**os.environ, "PYTHONPATH": SOURCES, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            if ran.returncode == 0 and ran.stdout.splitlines()[1:] == [version]:
                return ran.stdout.splitlines()[0]
    return None


@pytest.fixture(params=[THIS, *OTHERS], scope="module")
def python(request: pytest.FixtureRequest) -> str:
    if request.param == THIS:
        return sys.executable
    found = find_python(request.param)
    if found is None:
        pytest.skip(f"no python{request.param} was found that can import the client")
    return found


# --- sessions, and workers in them ----------------------------------------------------------------------------


class Session:
    """An open session. It starts workers, and asks the daemon for the session's fields."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.id = new_id()
        self.environ = {
            **place.environ,
            "PYTHONPATH": SOURCES,
            "PYTHONDONTWRITEBYTECODE": "1",
            "BRAKIT_SESSION_ID": self.id,
            "BRAKIT_SIDECAR_SOCKET": place.socket_path,
        }

    def start(self, code: str, python: str = sys.executable, *around: str) -> subprocess.Popen[str]:
        """Start a worker that runs the code. ``around`` is a command that runs the worker, such as strace."""
        return subprocess.Popen([*around, python, "-c", code], env=self.environ, text=True)

    def run(self, code: str, python: str = sys.executable, *around: str) -> int:
        """Run the code in a worker to its end, and return the exit code."""
        return self.start(code, python, *around).wait(PATIENCE_S)

    def fields(self) -> dict[str, Any]:
        """Return the session event's fields as they are now. They are empty if the daemon does not have the session."""
        with Wire(self.place.socket_path).hello() as wire:
            for found in wire.ask()[0]["sessions"]:
                if found["id"] == self.id:
                    fields: dict[str, Any] = found["fields"]
                    return fields
        return {}

    def counted(self, *names: str) -> tuple[Any, ...]:
        fields = self.fields()
        return tuple(fields.get(name) for name in names)


class Worker:
    """A worker that executes lines of Python when the test sends them."""

    _CODE = """
import os, signal, sys
import brakit_sidecar
telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""

    def __init__(self, session: Session) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._CODE],
            env=session.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.session = session

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def do(self, line: str) -> None:
        """Have the worker execute the line. Returns after the worker has executed it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def until(self, **expected: Any) -> None:
        """Return when the daemon has these fields. Meanwhile the worker makes calls that count nothing, so that it
        reconnects.
        """

        def has_fields() -> bool:
            self.do("telemetry.set(framework='flask')")
            found = self.session.fields()
            return all(found.get(name) == value for name, value in expected.items())

        wait_until(has_fields, f"{expected}")

    def end(self) -> int:
        """Close the worker's stdin, so that the worker exits normally. Returns the exit code."""
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


@pytest.fixture(scope="module")
def home() -> Iterator[Place]:
    """Return one place for this file, with a daemon in the foreground and without an endpoint."""
    with Place() as place:
        place.serve()
        yield place


@pytest.fixture
def session(home: Place) -> Iterator[Session]:
    """Return a session that is open until the end of the test."""
    session = Session(home)
    with Wire(home.socket_path).hello(session.id, role="owner") as owner:
        owner.sync()
        yield session
        owner.send(end={"exit_reason": "clean"}).sync()


@pytest.fixture
def place() -> Iterator[Place]:
    """Return a place without a daemon and without an endpoint."""
    with Place() as place:
        yield place


# --- threads, signals and processes, in every Python ----------------------------------------------------------

THREADS = """
import sys, threading
import brakit_sidecar

sys.setswitchinterval(1e-6)
telemetry = brakit_sidecar.connect()
requests, queries = telemetry.counter("request_count"), telemetry.counter("query_count")
together = threading.Barrier(8)

def work():
    together.wait()
    for n in range(20_000):
        requests.inc()
        telemetry.request("GET /", 7)
        queries.inc()
        if n % 100 == 0:
            telemetry.incr("error_count", 2)
            telemetry.incr("fetch_count")
            telemetry.request(f"GET /{n}", 7)

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_no_count_and_no_duration_of_eight_threads_is_lost(session: Session, python: str) -> None:
    assert session.run(THREADS, python) == 0
    assert session.counted("request_count", "query_count", "error_count", "fetch_count") == (
        321_600,
        160_000,
        3200,
        1600,
    )
    assert session.counted("endpoint_count", "avg_duration_ms") == (201, 7)


SIGNALS = """
import signal
import brakit_sidecar

telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
handled = counted = 0

def handler(*_):
    global handled
    handled += 1
    number = handled  # Race: a second signal may interrupt this handler from the next call on
    requests.inc()
    telemetry.request("GET /signal", 7)
    telemetry.incr("query_count", 2)
    telemetry.mark("insight_count", str(number))

signal.signal(signal.SIGVTALRM, handler)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
while handled < 50:
    requests.inc()
    telemetry.request("GET /main", 7)
    telemetry.incr("query_count", 2)
    counted += 1
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
telemetry.incr("fetch_count", counted)
telemetry.incr("error_count", handled)
"""


def test_no_count_is_lost_if_a_signal_handler_counts_while_it_interrupts_a_count(session: Session, python: str) -> None:
    if "3.9" in python:
        pytest.skip("Python 3.9 runs a signal handler before any instruction, so a count may be lost")
    assert session.run(SIGNALS, python) == 0
    fields = session.fields()
    turns = fields["fetch_count"] + fields["error_count"]
    assert (fields["request_count"], fields["query_count"]) == (2 * turns, 2 * turns)
    assert (fields["insight_count"], fields["avg_duration_ms"], fields["endpoint_count"]) == (
        fields["error_count"],
        7,
        2,
    )


FORKS = """
import os
import brakit_sidecar

telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
requests.inc()
for _ in range({forks}):
    child = os.fork()
    if child == 0:
        for _ in range(10):
            requests.inc()
        telemetry.request("GET /fork", 7)
        os._exit(0)
    os.waitpid(child, 0)
requests.inc()
"""


def test_forked_children_count_for_themselves(session: Session, python: str) -> None:
    assert session.run(FORKS.format(forks=10), python) == 0
    assert session.counted("request_count", "endpoint_count") == (2 + 10 * 11, 1)


KILLED = """
import os, signal
import brakit_sidecar

telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
for _ in range(1000):
    requests.inc()
telemetry.request("GET /", 7)
telemetry.incr("query_count")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_count_is_lost_if_a_worker_is_killed_right_after_its_last_count(session: Session, python: str) -> None:
    assert session.run(KILLED, python) == -signal.SIGKILL
    assert session.counted("request_count", "query_count", "endpoint_count") == (1001, 1, 1)


# --- many processes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_count_is_lost_if_fifty_workers_are_killed_right_after_their_last_counts(session: Session) -> None:
    workers = [session.start(KILLED) for _ in range(50)]
    assert {worker.wait(PATIENCE_S) for worker in workers} == {-signal.SIGKILL}
    assert session.counted("request_count", "query_count", "endpoint_count") == (50 * 1001, 50, 1)


def test_the_counts_of_two_hundred_forked_children_are_exact(session: Session) -> None:
    assert session.run(FORKS.format(forks=200)) == 0
    assert session.counted("request_count", "endpoint_count") == (2 + 200 * 11, 1)


def test_counts_are_exact_if_one_thread_forks_while_others_count(session: Session) -> None:
    assert session.run(_FORK_IN_THREAD) == 0
    assert session.counted("request_count", "query_count") == (4 * 5000 + 20 * 3, 20 * 2 + 4 * 5000)


_FORK_IN_THREAD = """
import os, sys, threading, warnings
import brakit_sidecar

warnings.simplefilter("ignore")  # Python warns of a fork beside threads, which is the subject of this test
sys.setswitchinterval(1e-6)
telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")

def count():
    for _ in range(5000):
        requests.inc()
        telemetry.incr("query_count")

def fork():
    for _ in range(20):
        child = os.fork()
        if child == 0:
            requests.inc()
            telemetry.incr("query_count", 2)
            telemetry.request("GET /", 7)
            requests.inc()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

threads = [threading.Thread(target=count) for _ in range(4)] + [threading.Thread(target=fork)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_no_count_is_lost_if_the_worker_starts_programs_between_counts(session: Session) -> None:
    assert session.run(_SPAWN) == 0
    assert session.counted("request_count", "query_count") == (3 + 3 * 5, 3)


def test_counts_from_before_an_exec_are_kept(session: Session) -> None:
    assert session.run(_EXEC) == 0
    assert session.counted("request_count") == (2 + 5,)


_CHILD = (
    "import brakit_sidecar; t = brakit_sidecar.connect(); c = t.counter('request_count'); [c.inc() for _ in range(5)]"
)
_SPAWN = f"""
import os, subprocess, sys
import brakit_sidecar

telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
command = [sys.executable, "-c", {_CHILD!r}]
requests.inc()
subprocess.run(command, check=True)
requests.inc()
telemetry.incr("query_count")
assert os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)[1] == 0
requests.inc()
telemetry.incr("query_count", 2)
subprocess.run(command, check=True, preexec_fn=lambda: None)  # with a preexec_fn, subprocess forks
"""
_EXEC = f"""
import os, sys
import brakit_sidecar

telemetry = brakit_sidecar.connect()
telemetry.counter("request_count").inc()
telemetry.request("GET /", 7)
os.execv(sys.executable, [sys.executable, "-c", {_CHILD!r}])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_count_for_themselves(session: Session, method: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "parent.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(_MULTIPROCESSING)
        parent = subprocess.Popen([sys.executable, path, method], env=session.environ)
        assert parent.wait(PATIENCE_S) == 0
    assert session.counted("request_count", "endpoint_count") == (2 + 3 * 6, 1)


_MULTIPROCESSING = """
import multiprocessing, sys
import brakit_sidecar

telemetry = brakit_sidecar.connect()  # a child of spawn imports this module again, and connects by itself
requests = telemetry.counter("request_count")

def child(number):
    for _ in range(5):
        requests.inc()
    telemetry.request("GET /", 7)

if __name__ == "__main__":
    requests.inc()
    context = multiprocessing.get_context(sys.argv[1])
    children = [context.Process(target=child, args=(number,)) for number in range(3)]
    for process in children:
        process.start()
    for process in children:
        process.join()
        assert process.exitcode == 0
    requests.inc()
"""


def test_no_count_of_asyncio_tasks_and_threads_is_lost(session: Session) -> None:
    assert session.run(_ASYNCIO) == 0
    assert session.counted("request_count", "query_count", "avg_duration_ms") == (20_000, 1000, 7)


_ASYNCIO = """
import asyncio
import brakit_sidecar

telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")

def block():
    for _ in range(1000):
        requests.inc()

async def task():
    for _ in range(100):
        telemetry.request("GET /", 7)
        telemetry.incr("query_count")
        await asyncio.sleep(0)

async def main():
    await asyncio.gather(*[task() for _ in range(10)], *[asyncio.to_thread(block) for _ in range(19)])

asyncio.run(main())
"""


def test_no_count_of_greenlets_is_lost(session: Session) -> None:
    assert session.run(_GEVENT) == 0
    assert session.counted("request_count", "query_count", "avg_duration_ms") == (2000, 1000, 7)


_GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, os
import brakit_sidecar

telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")

def work():
    for _ in range(50):
        telemetry.request("GET /", 7)
        telemetry.incr("query_count")
        gevent.sleep(0)
        requests.inc()

gevent.joinall([gevent.spawn(work) for _ in range(10)])
child = os.fork()
if child == 0:
    gevent.joinall([gevent.spawn(work) for _ in range(10)])
    os._exit(0)
os.waitpid(child, 0)
"""

# --- the cost to the worker -----------------------------------------------------------------------------------


def may_trace() -> bool:
    strace = shutil.which("strace")
    if strace is None:
        return False
    return subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


TRACED = """
import os
import brakit_sidecar

telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
requests.inc()
nowhere = os.open(os.devnull, os.O_WRONLY)
os.write(nowhere, b"begin")
for _ in range(100_000):
    requests.inc()
os.write(nowhere, b"end")
"""


def test_a_hundred_thousand_counts_make_no_system_call(session: Session) -> None:
    if not may_trace():
        pytest.skip("there is no strace here, or it may not trace")
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as trace:
        assert session.run(TRACED, sys.executable, "strace", "-f", "-o", trace.name) == 0
        lines = trace.read().splitlines()
    begin, end = (next(n for n, line in enumerate(lines) if f', "{word}"' in line) for word in ("begin", "end"))
    assert lines[begin + 1 : end] == []
    assert session.counted("request_count") == (100_001,)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/task")
def test_a_worker_has_one_thread(session: Session) -> None:
    with Worker(session) as worker:
        worker.do("requests.inc(); telemetry.request('GET /', 7); telemetry.event('first_request', port=1)")
        worker.do("telemetry.set(framework='flask'); telemetry.mark('insight_count', 'x')")
        worker.do("assert len(os.listdir('/proc/self/task')) == 1")


# --- daemons that start, exit, are suspended, or do not support counter files ---------------------------------


def test_counts_from_before_the_first_daemon_arrive_with_the_next_call_after_its_start(place: Place) -> None:
    session = Session(place)
    with Worker(session) as worker:
        worker.do("for _ in range(1000): requests.inc()")
        worker.do("telemetry.incr('query_count', 7); telemetry.request('GET /', 7)")
        place.serve()
        worker.do("for _ in range(1000): requests.inc()")
        worker.until(request_count=2001, query_count=7, avg_duration_ms=7, endpoint_count=1)


def test_a_worker_that_never_had_a_daemon_leaves_no_file(place: Place) -> None:
    session = Session(place)
    os.makedirs(os.path.dirname(place.socket_path), mode=0o700)
    assert (
        session.run(
            "import brakit_sidecar; t = brakit_sidecar.connect(); t.request('GET /', 7); t.counter('query_count').inc()"
        )
        == 0
    )
    assert os.listdir(os.path.dirname(place.socket_path)) == []


def test_no_count_and_no_duration_is_lost_if_the_daemon_is_killed_and_replaced(place: Place) -> None:
    session = Session(place)
    daemon = place.serve()
    with Worker(session) as worker:
        worker.do("for n in range(1000): requests.inc(); telemetry.request(f'GET /{n % 5}', 7)")
        worker.until(request_count=2000)
        for turn in (2, 3):
            end_process(daemon, signal.SIGKILL)
            worker.do("for n in range(500): requests.inc(); telemetry.request(f'GET /{n % 7}', 7)")
            daemon = place.serve()
            worker.do("for n in range(500): requests.inc(); telemetry.request(f'GET /{n % 9}', 7)")
            worker.until(request_count=2000 * turn, avg_duration_ms=7, endpoint_count=9)
        worker.do("requests.inc()")
        worker.process.kill()
        worker.process.wait(PATIENCE_S)
        wait_until(lambda: session.counted("request_count") == (6001,), "the last count")


def test_no_count_is_lost_while_the_daemon_is_suspended(session: Session) -> None:
    with Wire(session.place.socket_path).hello() as wire:
        pid = wire.ask()[0]["pid"]
    with Worker(session) as worker:
        worker.do("requests.inc()")
        with suspended(pid):
            worker.do("for n in range(100_000): requests.inc()")
            worker.do("for n in range(2000): telemetry.request(f'GET /{n % 5}', 7); telemetry.incr('query_count', 2)")
            worker.do("for n in range(2000): telemetry.mark('insight_count', str(n))")
            with Worker(session) as other:  # a worker that starts while the daemon is suspended
                other.do("for n in range(1000): requests.inc()")
                other.process.kill()
                other.process.wait(PATIENCE_S)
        worker.until(request_count=103_001, query_count=4000, insight_count=2000, avg_duration_ms=7, endpoint_count=5)
        assert worker.end() == 0


def test_the_counts_of_a_suspended_worker_are_in_the_event(endpoint: Endpoint) -> None:
    with ExitStack() as stack:
        place = stack.enter_context(Place(endpoint.url))
        place.serve()
        session = Session(place)
        owner = stack.enter_context(Wire(place.socket_path)).hello(session.id, role="owner")
        worker = stack.enter_context(Worker(session))
        worker.do("for n in range(1000): requests.inc()")
        owner.sync()
        with suspended(worker.process.pid):
            owner.send(end={"exit_reason": "clean"})
            found = endpoint.session_of(session.id)
        assert worker.end() == 0
    assert (found["request_count"], found["exit_reason"]) == (1000, "clean")


def test_a_worker_with_a_default_sigpipe_survives_its_daemon(place: Place) -> None:
    session = Session(place)
    daemon = place.serve()
    with Worker(session) as worker:
        worker.do("signal.signal(signal.SIGPIPE, signal.SIG_DFL)")
        worker.do("requests.inc(); telemetry.event('first_request', port=1)")
        end_process(daemon, signal.SIGKILL)
        worker.do("for n in range(100): requests.inc(); telemetry.mark('insight_count', str(n))")
        worker.do(
            "telemetry.event('dashboard_viewed'); telemetry.set(framework='flask'); telemetry.incr('query_count', 2)"
        )
        assert worker.end() == 0


class OldDaemon:
    """A daemon that does not support counter files. It keeps the lines that it reads, drops the descriptor of a hello,
    and writes ``answer`` to each client.
    """

    def __init__(self, place: Place, answer: bytes) -> None:
        os.makedirs(os.path.dirname(place.socket_path), mode=0o700)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(place.socket_path)
        self._listening.listen()
        self._answer = answer
        self._received: list[bytes] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # the socket is closed
            while True:
                stream, _ = self._listening.accept()
                with stream:
                    with suppress(BrokenPipeError):  # the worker has exited; its lines can still be read
                        stream.sendall(self._answer)
                    while chunk := stream.recv(65536):
                        with self._lock:
                            self._received.append(chunk)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def frames(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                json.loads(line) for line in b"".join(self._received).splitlines(keepends=True) if line.endswith(b"\n")
            ]

    def totals(self) -> dict[str, int]:
        """Return the totals by field. Takes a field's largest total, because a running total never decreases."""
        totals: dict[str, int] = {}
        for frame in self.frames():
            for field, total in frame.get("total", {}).items():
                totals[field] = max(total, totals.get(field, 0))
        return totals

    def rows(self) -> list[list[int]]:
        rows: dict[str, list[int]] = {}
        for frame in self.frames():
            for route, row in frame.get("histogram", {}).items():
                rows[route] = [*map(max, row, rows.get(route, row))]
        return [row for row in rows.values() if any(row)]


@contextmanager
def old_daemon(place: Place, answer: bytes = b"") -> Iterator[OldDaemon]:
    daemon = OldDaemon(place, answer)
    try:
        yield daemon
    finally:
        daemon.close()


def test_a_daemon_without_counter_files_gets_the_totals_while_the_worker_lives(place: Place) -> None:
    session = Session(place)
    with old_daemon(place) as daemon, Worker(session) as worker:
        worker.do("for _ in range(100): requests.inc()")

        def has_totals() -> bool:
            worker.do("telemetry.request('GET /', 7)")
            return daemon.totals().get("request_count", 0) > 100

        wait_until(has_totals, "the totals")
        wait_until(daemon.rows, "the histogram")
        assert worker.end() == 0


@pytest.mark.parametrize("end", ["", "telemetry.close()", "raise SystemExit(0)"])
def test_a_daemon_without_counter_files_has_all_totals_by_the_workers_exit(place: Place, end: str) -> None:
    with old_daemon(place) as daemon:
        assert Session(place).run(_COUNTING + end) == 0
        wait_until(lambda: any("end" in frame for frame in daemon.frames()), "the end line")
        assert daemon.totals() == {"request_count": 1020, "query_count": 2}
        assert daemon.rows() == [[140_000_000, 20, 0, 0, 0, 0, 0]]


_COUNTING = """
import brakit_sidecar
telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
for _ in range(1000): requests.inc()
for _ in range(20): telemetry.request("GET /", 7)
telemetry.incr("query_count", 2)
"""


def test_a_daemon_without_counter_files_that_starts_before_the_workers_exit_gets_the_totals(place: Place) -> None:
    with Worker(Session(place)) as worker:
        worker.do("for _ in range(100): requests.inc()")
        worker.do("telemetry.request('GET /', 7)")
        with old_daemon(place) as daemon:
            assert worker.end() == 0
            wait_until(lambda: any("end" in frame for frame in daemon.frames()), "the end line")
            assert daemon.totals() == {"request_count": 101}
            assert daemon.rows() == [[7_000_000, 1, 0, 0, 0, 0, 0]]


def test_a_daemon_that_acknowledged_the_counter_file_gets_no_totals(place: Place) -> None:
    session = Session(place)
    with old_daemon(place, b'{"counter_file":1}\n') as daemon, Worker(session) as worker:
        wait_until(daemon.frames, "the hello")
        worker.do("requests.inc(); telemetry.incr('query_count', 2); telemetry.request('GET /', 7)")
        worker.do("telemetry.mark('insight_count', 'the last line')")
        assert worker.end() == 0
        wait_until(lambda: any("mark" in frame for frame in daemon.frames()), "the mark")
        assert (daemon.totals(), daemon.rows()) == ({}, [])
