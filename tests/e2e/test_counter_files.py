"""Counting in shared memory with a real daemon: exact, whatever happens to workers, threads and daemons."""

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

from tests.e2e.serving import REPOSITORY
from tests.harness import PATIENCE_S, Place, Wire, end_process, new_id, stopped, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from tests.harness import Endpoint

# --- interpreters ---------------------------------------------------------------------------------------------

THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHERS = [version for version in ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.14t") if version != THIS]
_ASKED = """
import brakit_sidecar, sys, sysconfig
print(sys.executable)
print("%d.%d" % sys.version_info[:2] + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""))
"""


def find_python(version: str) -> str | None:
    """An interpreter of that version which imports the worker's side; it needs nothing but its standard library."""
    home = glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python"))
    named = shutil.which(f"python{version}")
    found = [path for path in sorted(home) if f"/{version.rstrip('t')}." in path]
    for path in [*found, *([named] if named else [])]:
        with suppress(OSError, subprocess.TimeoutExpired):
            asked = subprocess.run(
                [path, "-c", _ASKED],
                env={**os.environ, "PYTHONPATH": os.path.join(REPOSITORY, "sidecar"), "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            if asked.returncode == 0 and asked.stdout.splitlines()[1:] == [version]:
                return asked.stdout.splitlines()[0]
    return None


@pytest.fixture(params=[THIS, *OTHERS], scope="module")
def python(request: pytest.FixtureRequest) -> str:
    if request.param == THIS:
        return sys.executable
    found = find_python(request.param)
    if found is None:
        pytest.skip(f"no python{request.param} was found that can import the worker's side")
    return found


# --- sessions, and workers in them ----------------------------------------------------------------------------


class Session:
    """A session of a place, told from outside of it what it has."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.id = new_id()
        self.environ = {
            **place.environ,
            "PYTHONPATH": os.path.join(REPOSITORY, "sidecar"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BRAKIT_SESSION_ID": self.id,
            "BRAKIT_SIDECAR_SOCKET": place.socket_path,
        }

    def start(self, code: str, python: str = sys.executable, *around: str) -> subprocess.Popen[str]:
        """A worker that runs the code; ``around`` is a command that it is given to."""
        return subprocess.Popen([*around, python, "-c", code], env=self.environ, text=True)

    def run(self, code: str, python: str = sys.executable, *around: str) -> int:
        """The exit code of a worker that ran the code to its end."""
        return self.start(code, python, *around).wait(PATIENCE_S)

    def fields(self) -> dict[str, Any]:
        """Its event as it would be sent now; empty where the daemon does not know it."""
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
    """A worker that lives on, and does what it is told when it is told."""

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

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def do(self, line: str) -> None:
        """Returns when it has done it."""
        assert self.process.stdout is not None
        self.tell(line)
        assert self.process.stdout.readline() == "done\n"

    def until(self, **expected: Any) -> None:
        """Returns when the daemon has these fields; the worker makes calls meanwhile that count nothing."""

        def has_come() -> bool:
            self.do("telemetry.set(framework='flask')")
            found = self.session.fields()
            return all(found.get(name) == value for name, value in expected.items())

        wait_until(has_come, f"{expected}")

    def end(self) -> int:
        """Its own end, of having nothing more to do."""
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


@pytest.fixture(scope="module")
def home() -> Iterator[Place]:
    """One place for this file, with a daemon in the foreground."""
    with Place() as place:
        place.serve()
        yield place


@pytest.fixture
def session(home: Place) -> Iterator[Session]:
    """A session that stays open until its test is done."""
    session = Session(home)
    with Wire(home.socket_path).hello(session.id, role="owner") as owner:
        owner.sync()
        yield session
        owner.say(end={"exit_reason": "clean"}).sync()


@pytest.fixture
def place() -> Iterator[Place]:
    """A place without a daemon."""
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


def test_eight_threads_lose_no_count_and_no_duration(session: Session, python: str) -> None:
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


def test_signal_handlers_that_count_while_the_main_thread_counts_lose_nothing(session: Session, python: str) -> None:
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


def test_a_worker_that_is_killed_right_after_its_last_count_has_lost_nothing(session: Session, python: str) -> None:
    assert session.run(KILLED, python) == -signal.SIGKILL
    assert session.counted("request_count", "query_count", "endpoint_count") == (1001, 1, 1)


# --- many processes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fifty_workers_that_are_killed_right_after_their_last_count_have_lost_nothing(session: Session) -> None:
    workers = [session.start(KILLED) for _ in range(50)]
    assert {worker.wait(PATIENCE_S) for worker in workers} == {-signal.SIGKILL}
    assert session.counted("request_count", "query_count", "endpoint_count") == (50 * 1001, 50, 1)


def test_two_hundred_forks_are_counted_exactly(session: Session) -> None:
    assert session.run(FORKS.format(forks=200)) == 0
    assert session.counted("request_count", "endpoint_count") == (2 + 200 * 11, 1)


def test_a_fork_in_a_thread_while_others_count_is_exact(session: Session) -> None:
    assert session.run(_FORK_IN_THREAD) == 0
    assert session.counted("request_count", "query_count") == (4 * 5000 + 20 * 3, 20 * 2 + 4 * 5000)


_FORK_IN_THREAD = """
import os, sys, threading, warnings
import brakit_sidecar

warnings.simplefilter("ignore")  # of forking with threads, which is what this is about
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


def test_a_vfork_and_exec_in_the_middle_of_counting_changes_nothing(session: Session) -> None:
    assert session.run(_SPAWN) == 0
    assert session.counted("request_count", "query_count") == (3 + 3 * 5, 3)


def test_what_was_counted_before_an_exec_counts(session: Session) -> None:
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
subprocess.run(command, check=True, preexec_fn=lambda: None)  # which forks
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

telemetry = brakit_sidecar.connect()  # in the children of spawn: as the module is imported there again
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


def test_tasks_of_asyncio_and_its_threads_lose_nothing(session: Session) -> None:
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


def test_greenlets_lose_nothing(session: Session) -> None:
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

# --- what it costs the worker ---------------------------------------------------------------------------------


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


# --- daemons that come, go, stand still, or know no memory ----------------------------------------------------


def test_what_was_counted_before_any_daemon_ran_arrives_with_the_next_call_once_one_does(place: Place) -> None:
    session = Session(place)
    with Worker(session) as worker:
        worker.do("for _ in range(1000): requests.inc()")
        worker.do("telemetry.incr('query_count', 7); telemetry.request('GET /', 7)")
        place.serve()
        worker.do("for _ in range(1000): requests.inc()")
        worker.until(request_count=2001, query_count=7, avg_duration_ms=7, endpoint_count=1)


def test_a_worker_that_met_no_daemon_leaves_nothing_behind(place: Place) -> None:
    session = Session(place)
    os.makedirs(os.path.dirname(place.socket_path), mode=0o700)
    assert (
        session.run(
            "import brakit_sidecar; t = brakit_sidecar.connect(); t.request('GET /', 7); t.counter('query_count').inc()"
        )
        == 0
    )
    assert os.listdir(os.path.dirname(place.socket_path)) == []


def test_a_daemon_that_is_killed_and_a_new_one_in_its_place_cost_no_count_and_no_duration(place: Place) -> None:
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


def test_a_daemon_that_stands_still_costs_no_count(session: Session) -> None:
    with Wire(session.place.socket_path).hello() as wire:
        pid = wire.ask()[0]["pid"]
    with Worker(session) as worker:
        worker.do("requests.inc()")
        with stopped(pid):
            worker.do("for n in range(100_000): requests.inc()")
            worker.do("for n in range(2000): telemetry.request(f'GET /{n % 5}', 7); telemetry.incr('query_count', 2)")
            worker.do("for n in range(2000): telemetry.mark('insight_count', str(n))")
            with Worker(session) as other:  # one that finds it so
                other.do("for n in range(1000): requests.inc()")
                other.process.kill()
                other.process.wait(PATIENCE_S)
        worker.until(request_count=103_001, query_count=4000, insight_count=2000, avg_duration_ms=7, endpoint_count=5)
        assert worker.end() == 0


def test_a_worker_that_stands_still_at_the_end_is_in_the_event(endpoint: Endpoint) -> None:
    with ExitStack() as stack:
        place = stack.enter_context(Place(endpoint.url))
        place.serve()
        session = Session(place)
        owner = stack.enter_context(Wire(place.socket_path)).hello(session.id, role="owner")
        worker = stack.enter_context(Worker(session))
        worker.do("for n in range(1000): requests.inc()")
        owner.sync()
        with stopped(worker.process.pid):
            owner.say(end={"exit_reason": "clean"})
            found = endpoint.end_of(session.id)
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


class Listening:
    """Keeps what it was told, and drops the memory that came with a hello, as an older daemon would that never heard
    of any. ``answer`` is what it says to whoever connects.
    """

    def __init__(self, place: Place, answer: bytes) -> None:
        os.makedirs(os.path.dirname(place.socket_path), mode=0o700)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(place.socket_path)
        self._listening.listen()
        self._answer = answer
        self._said: list[bytes] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                stream, _ = self._listening.accept()
                with stream:
                    with suppress(BrokenPipeError):  # it has gone already; what it said is still to be read
                        stream.sendall(self._answer)
                    while chunk := stream.recv(65536):
                        with self._lock:
                            self._said.append(chunk)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def frames(self) -> list[dict[str, Any]]:
        with self._lock:
            return [json.loads(line) for line in b"".join(self._said).splitlines(keepends=True) if line.endswith(b"\n")]

    def totals(self) -> dict[str, int]:
        """As it would have them: a running total never goes down."""
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
def listening(place: Place, answer: bytes = b"") -> Iterator[Listening]:
    daemon = Listening(place, answer)
    try:
        yield daemon
    finally:
        daemon.close()


def test_a_daemon_that_knows_no_memory_is_told_the_totals_while_the_worker_lives(place: Place) -> None:
    session = Session(place)
    with listening(place) as daemon, Worker(session) as worker:
        worker.do("for _ in range(100): requests.inc()")

        def is_told() -> bool:
            worker.do("telemetry.request('GET /', 7)")
            return daemon.totals().get("request_count", 0) > 100

        wait_until(is_told, "the totals")
        wait_until(daemon.rows, "the histogram")
        assert worker.end() == 0


@pytest.mark.parametrize("end", ["", "telemetry.close()", "raise SystemExit(0)"])
def test_a_daemon_that_knows_no_memory_is_told_the_totals_at_the_latest_at_the_workers_exit(
    place: Place, end: str
) -> None:
    with listening(place) as daemon:
        assert Session(place).run(_OLD_AND_NEW + end) == 0
        wait_until(lambda: any("end" in frame for frame in daemon.frames()), "the goodbye")
        assert daemon.totals() == {"request_count": 1020, "query_count": 2}
        assert daemon.rows() == [[140_000_000, 20, 0, 0, 0, 0, 0]]


_OLD_AND_NEW = """
import brakit_sidecar
telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
for _ in range(1000): requests.inc()
for _ in range(20): telemetry.request("GET /", 7)
telemetry.incr("query_count", 2)
"""


def test_a_daemon_that_knows_no_memory_and_is_met_only_at_the_workers_exit_is_told_the_totals(place: Place) -> None:
    with Worker(Session(place)) as worker:
        worker.do("for _ in range(100): requests.inc()")
        worker.do("telemetry.request('GET /', 7)")
        with listening(place) as daemon:
            assert worker.end() == 0
            wait_until(lambda: any("end" in frame for frame in daemon.frames()), "the goodbye")
            assert daemon.totals() == {"request_count": 101}
            assert daemon.rows() == [[7_000_000, 1, 0, 0, 0, 0, 0]]


def test_a_daemon_that_took_the_memory_is_told_no_totals(place: Place) -> None:
    session = Session(place)
    with listening(place, b'{"counter_file":1}\n') as daemon, Worker(session) as worker:
        wait_until(daemon.frames, "the hello")
        worker.do("requests.inc(); telemetry.incr('query_count', 2); telemetry.request('GET /', 7)")
        worker.do("telemetry.mark('insight_count', 'the last that is said')")
        assert worker.end() == 0
        wait_until(lambda: any("mark" in frame for frame in daemon.frames()), "the mark")
        assert (daemon.totals(), daemon.rows()) == ({}, [])
