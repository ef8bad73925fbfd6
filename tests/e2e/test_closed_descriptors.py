"""No standard descriptor is ever ours: no text that an application or command prints reaches our files or sockets.

Each program is started with every combination of its standard descriptors closed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests import closed_fds
from tests.closed_fds import PYTHON_PRELUDE, TEXT, Closed, each_combination, sidecar
from tests.harness import Endpoint, Place, Wire, end_process, new_id, wait_until
from tests.node.nodes import newest_node
from tests.node.workers import CLIENT

from .serving import SOURCES
from .test_counter_files import find_python

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

NULL = "/dev/null"


@pytest.fixture
def report_path(home: Place) -> Iterator[str]:
    path = os.path.join(home.root, f"report-{new_id()}")
    yield path
    if os.path.exists(path):
        os.unlink(path)


def read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def reported(home: Place, remote: Endpoint, session: str) -> dict[str, Any]:
    """End the session, and return its event's properties, after a check that the text is nowhere."""
    assert home.run("session", "end", session).returncode == 0
    properties = remote.session_of(session)
    assert closed_fds.files_with_the_text(home) == []
    assert not any(b"passwd" in body for _path, _headers, body in remote.requests)
    assert home.status()["refused"] == {}
    return properties


def opened(home: Place) -> str:
    """Return the id of a new session, which this process owns."""
    return home.run("session", "start", "--owner-pid", str(os.getpid())).stdout.strip()


# --- workers -------------------------------------------------------------------------------------------------------

WORKER = (
    PYTHON_PRELUDE
    + """
before = standard()
import brakit_sidecar
first = brakit_sidecar.connect()
prints()
first.incr("request_count", 3)
first.request("GET /", 5)
child = os.fork()
if child == 0:
    first.incr("query_count", 2)
    prints()
    first.event("first_request", port=8000)
    os._exit(0 if standard() == before else 1)
in_child = os.waitpid(child, 0)[1]
second = brakit_sidecar.connect()
prints()
second.incr("request_count")
second.close()
prints()
first.incr("error_count")
report(before=before, after=standard(), child=in_child, next=os.open("/dev/null", os.O_RDONLY))
"""
)


@pytest.fixture(params=["this Python", "Python 3.9"], scope="module")
def python(request: pytest.FixtureRequest) -> str:
    found = sys.executable if request.param == "this Python" else find_python("3.9")
    if found is None:
        pytest.skip("no python3.9 was found that can import the client")
    return found


def environ_of(home: Place, session: str, report: str) -> dict[str, str]:
    return {
        **home.environ,
        "BRAKIT_SESSION_ID": session,
        "BRAKIT_SIDECAR_SOCKET": home.socket_path,
        "REPORT": report,
        "PYTHONPATH": SOURCES,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@each_combination
def test_what_a_python_worker_prints_is_not_counted_and_its_descriptors_stay_closed(
    home: Place, remote: Endpoint, python: str, closed: Closed, report_path: str
) -> None:
    session = opened(home)
    ran = closed_fds.run(closed, [python, "-c", WORKER], environ_of(home, session, report_path))
    assert (ran.returncode, ran.stderr.replace(f"{TEXT}\n", "")) == (0, "")
    found = read(report_path)
    assert [fd for fd in range(3) if found["before"][fd] is None] == list(closed)
    assert (found["after"], found["child"]) == (found["before"], 0)
    assert found["next"] in closed or not closed  # the application gets its lowest number, as without us
    properties = reported(home, remote, session)
    counts = {name: properties[name] for name in ("request_count", "query_count", "error_count", "fetch_count")}
    assert counts == {"request_count": 5, "query_count": 2, "error_count": 1, "fetch_count": 0}


PRINTS_MEANWHILE = (
    PYTHON_PRELUDE
    + """
import threading
import brakit_sidecar
is_over = threading.Event()

def print_all_the_time():
    while not is_over.is_set():
        prints()

threads = [threading.Thread(target=print_all_the_time) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(50):
    t = brakit_sidecar.connect()
    t.incr("request_count")
    t.close()
is_over.set()
for thread in threads:
    thread.join()
"""
)


def test_what_other_threads_print_while_a_worker_connects_is_not_counted(
    home: Place, remote: Endpoint, report_path: str
) -> None:
    session = opened(home)
    environ = environ_of(home, session, report_path)
    assert closed_fds.run((0, 1, 2), [sys.executable, "-c", PRINTS_MEANWHILE], environ).returncode == 0
    properties = reported(home, remote, session)
    assert (properties["request_count"], properties["query_count"]) == (50, 0)


A_THREAD_CLOSES_STDOUT = """
import mmap
map = mmap.mmap
def close_and_map(*arguments):
    os.close(1)
    return map(*arguments)
mmap.mmap = close_and_map
"""
NO_PLACEHOLDER = """
from brakit_sidecar.host import standard_fds
standard_fds.Reserved._open_placeholder = lambda _reserved: None
"""
UNLUCKY = """
import brakit_sidecar
t = brakit_sidecar.connect()
t.incr("request_count", 3)
prints()
report(after=standard())
"""


def test_a_worker_counts_by_lines_if_its_mapping_would_be_a_standard_descriptor(
    home: Place, remote: Endpoint, report_path: str
) -> None:
    session = opened(home)
    code = PYTHON_PRELUDE + A_THREAD_CLOSES_STDOUT + UNLUCKY
    assert closed_fds.run((), [sys.executable, "-c", code], environ_of(home, session, report_path)).returncode == 0
    assert read(report_path)["after"][1] is None
    assert reported(home, remote, session)["request_count"] == 3


def test_a_worker_rather_reports_nothing_than_by_a_standard_descriptor(home: Place, report_path: str) -> None:
    code = PYTHON_PRELUDE + NO_PLACEHOLDER + UNLUCKY
    environ = environ_of(home, new_id(), report_path)
    assert closed_fds.run((0, 1, 2), [sys.executable, "-c", code], environ).returncode == 0
    assert read(report_path) == {"after": [None, None, None]}
    assert closed_fds.files_with_the_text(home) == []


STARTS_A_DAEMON = (
    PYTHON_PRELUDE
    + """
import brakit_sidecar
t = brakit_sidecar.connect(start=True)
t.incr("request_count", 3)
prints()
report(after=standard())
"""
)


def test_a_worker_without_standard_descriptors_starts_a_daemon(endpoint: Endpoint, place: Place) -> None:
    report = os.path.join(place.root, "report")
    environ = {**place.environ, "REPORT": report, "BRAKIT_DEBUG": "1"}
    assert closed_fds.run((0, 1, 2), [sys.executable, "-c", STARTS_A_DAEMON], environ).returncode == 0
    assert read(report) == {"after": [None, None, None]}
    wait_until(place.accepts, "a daemon that accepts")
    wait_until(lambda: place.status()["sessions"], "the worker's session")
    assert closed_fds.standard_of(place.status()["pid"]) == [NULL, NULL, NULL]
    assert place.run("stop").returncode == 0
    assert endpoint.only_session()["request_count"] == 3


NODE_WORKER = f"""
const fs = require('node:fs');
const closed = JSON.parse(process.env.CLOSED);
const standard = () => [0, 1, 2].map((fd) => {{
  try {{ return fs.readlinkSync(`/proc/self/fd/${{fd}}`); }} catch {{ return null; }}
}});
const prints = () => [0, 1, 2].forEach((fd) => {{
  try {{ fs.writeSync(fd, '{TEXT}\\n'.repeat(5)); }} catch {{}}
}});
const {{ connect }} = require(process.env.CLIENT);
closed.forEach((fd) => fs.closeSync(fd));
const before = standard();
const first = connect();
prints();
first.incr('request_count', 3);
first.request('GET /', 5);
const second = connect();
prints();
second.incr('request_count');
setImmediate(() => {{
  prints();
  second.close();
  first.incr('error_count');
  fs.writeFileSync(process.env.REPORT, JSON.stringify({{ before, after: standard() }}));
}});
"""


@newest_node
@each_combination
@pytest.mark.parametrize("by", ["from outside", "by itself"])
def test_what_a_node_worker_prints_is_not_counted(
    home: Place, remote: Endpoint, node: str, closed: Closed, by: str, report_path: str
) -> None:
    session = opened(home)
    by_itself = list(closed) if by == "by itself" else []
    environ = environ_of(home, session, report_path) | {"CLIENT": CLIENT, "CLOSED": json.dumps(by_itself)}
    ran = closed_fds.run(() if by_itself else closed, [node, "-e", NODE_WORKER], environ)
    assert (ran.returncode, ran.stderr.replace(f"{TEXT}\n", "")) == (0, "")
    found = read(report_path)
    assert [fd for fd in range(3) if found["before"][fd] is None] == by_itself
    assert found["after"] == found["before"]
    properties = reported(home, remote, session)
    assert (properties["request_count"], properties["error_count"], properties["query_count"]) == (5, 1, 0)


# --- run -----------------------------------------------------------------------------------------------------------

BELOW_RUN = (
    PYTHON_PRELUDE
    + """
own, run = standard(), standard(os.getppid())
import brakit_sidecar
t = brakit_sidecar.connect()
t.incr("request_count", 3)
prints()
t.set(framework="flask")
print("to stdout")
print("to stderr", file=sys.stderr if sys.stderr else open("/dev/null", "w"))
report(own=own, run=run, session=os.environ.get("BRAKIT_SESSION_ID"))
sys.exit(3)
"""
)


@each_combination
def test_a_command_below_run_has_its_standard_descriptors_and_run_has_placeholders(
    home: Place, remote: Endpoint, closed: Closed, report_path: str
) -> None:
    environ = {**home.environ, "REPORT": report_path}
    ran = closed_fds.run(closed, sidecar("run", "--", sys.executable, "-c", BELOW_RUN), environ)
    assert ran.returncode == 3
    assert ran.stdout.replace(f"{TEXT}\n", "") == ("" if 1 in closed else "to stdout\n")
    assert ran.stderr.replace(f"{TEXT}\n", "") == ("" if 2 in closed else "to stderr\n")
    found = read(report_path)
    assert [fd for fd in range(3) if found["own"][fd] is None] == list(closed)
    assert found["run"] == [NULL if own is None else own for own in found["own"]]
    properties = remote.session_of(found["session"])
    assert (properties["request_count"], properties["query_count"], properties["framework"]) == (3, 0, "flask")
    assert closed_fds.files_with_the_text(home) == []


@each_combination
def test_a_command_below_run_has_its_standard_descriptors_if_telemetry_is_off(
    home: Place, closed: Closed, report_path: str
) -> None:
    environ = {**home.environ, "REPORT": report_path, "CI": "true"}
    ran = closed_fds.run(closed, sidecar("run", "--", sys.executable, "-c", BELOW_RUN), environ)
    assert ran.returncode == 3
    assert [fd for fd in range(3) if read(report_path)["own"][fd] is None] == list(closed)


def test_run_without_standard_descriptors_reports_a_missing_command_by_its_code(home: Place) -> None:
    assert closed_fds.run((0, 1, 2), sidecar("run", "--", "/no/such/command"), home.environ).returncode == 127


# --- commands ------------------------------------------------------------------------------------------------------

# Runs a command, and then reports its standard descriptors.
COMMAND = (
    PYTHON_PRELUDE
    + """
from brakit_sidecar.__main__ import main
try:
    code = main()
except SystemExit as error:  # argparse
    code = error.code
report(after=standard())
sys.exit(code)
"""
)
UNKNOWN = "00000000-0000-4000-8000-000000000000"
COMMANDS = {  # its exit code, and whether it prints to stdout and to stderr
    ("status",): (0, True, False),
    ("start", "--json"): (0, True, False),
    ("serve",): (1, False, True),  # because a daemon is running
    ("emit", "cli_invoked", "command=install"): (0, False, False),
    ("emit", "nothing"): (2, False, True),
    ("session", "start"): (0, True, False),
    ("session", "end", UNKNOWN): (1, False, True),
    ("telemetry",): (0, True, False),
    ("log",): (0, True, False),
    ("schema",): (0, True, False),
    ("run",): (2, False, True),
    ("--help",): (0, True, False),
    ("dance",): (2, False, True),
}


@each_combination
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_fills_its_closed_descriptors_and_works(
    home: Place, closed: Closed, arguments: tuple[str, ...], report_path: str
) -> None:
    code, prints_out, prints_err = COMMANDS[arguments]
    environ = {**home.environ, "REPORT": report_path}
    ran = closed_fds.run(closed, [sys.executable, "-c", COMMAND, *arguments], environ)
    assert ran.returncode == code
    assert "Traceback" not in ran.stderr
    assert (ran.stdout != "") == (prints_out and 1 not in closed)
    assert (ran.stderr != "") == (prints_err and 2 not in closed)
    after = read(report_path)["after"]
    assert None not in after
    assert [after[fd] for fd in closed] == [NULL] * len(closed)


def test_the_module_and_the_console_script_work_without_standard_descriptors(home: Place) -> None:
    script = os.path.join(os.path.dirname(sys.executable), "brakit-sidecar")
    entries = [sidecar(), [script]] if os.path.exists(script) else [sidecar()]
    for entry in entries:
        assert closed_fds.run((0, 1, 2), [*entry, "status"], home.environ).returncode == 0
        assert closed_fds.run((0, 1, 2), [*entry, "status", "--loud"], home.environ).returncode == 2


def test_stop_and_status_work_without_standard_descriptors(place: Place) -> None:
    place.start()
    assert closed_fds.run((0, 1, 2), sidecar("stop"), place.environ).returncode == 0
    assert place.daemon_has_exited()
    assert closed_fds.run((0, 1, 2), sidecar("status"), place.environ).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["demo", "audit"])
def test_demo_and_audit_succeed_without_standard_descriptors(place: Place, command: str) -> None:
    assert closed_fds.run((0, 1, 2), sidecar(command), place.environ).returncode == 0


# --- the daemon ----------------------------------------------------------------------------------------------------

COUNTS = PYTHON_PRELUDE + 'import brakit_sidecar\nt = brakit_sidecar.connect()\nprints()\nt.incr("request_count", 3)\n'


def counted_by(place: Place, endpoint: Endpoint, closed: Closed) -> int:
    """Return what the daemon reports of a session with one worker, which counts three requests."""
    session = new_id()
    with Wire(place.socket_path).hello(session, role="owner") as owner:
        environ = {**place.environ, "BRAKIT_SESSION_ID": session}
        assert closed_fds.run(closed, [sys.executable, "-c", COUNTS], environ).returncode == 0
        owner.send(end={"exit_reason": "clean"}).sync()
    count: int = endpoint.session_of(session)["request_count"]
    return count


@each_combination
def test_a_daemon_that_start_starts_has_open_standard_descriptors(
    endpoint: Endpoint, place: Place, closed: Closed
) -> None:
    # With BRAKIT_DEBUG, the daemon has the stderr of the command, which may be closed.
    log = os.path.join(place.root, "log")
    with open(log, "wb") as stderr:
        started = subprocess.run(
            closed_fds.command(closed, sidecar("start")),
            env={**place.environ, "BRAKIT_DEBUG": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            check=False,
        )
    assert started.returncode == 0
    assert closed_fds.standard_of(place.status()["pid"]) == [NULL, NULL, NULL if 2 in closed else log]
    assert counted_by(place, endpoint, closed) == 3
    assert closed_fds.files_with_the_text(place) == []


@each_combination
def test_serve_has_open_standard_descriptors(endpoint: Endpoint, place: Place, closed: Closed) -> None:
    served = subprocess.Popen(closed_fds.command(closed, sidecar("serve")), env=place.environ, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: place.accepts() or served.poll() is not None, "a daemon that accepts")
        own = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
        assert closed_fds.standard_of(served.pid) == [NULL, *(NULL if fd in closed else own[fd] for fd in (1, 2))]
        assert counted_by(place, endpoint, closed) == 3
    finally:
        assert end_process(served) == 0
    assert closed_fds.files_with_the_text(place) == []
