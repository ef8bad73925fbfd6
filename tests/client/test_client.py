"""The worker's side, as an application uses it: it counts exactly, never raises and never waits."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import brakit_sidecar
import pytest
from brakit_sidecar.client.producer import Producer
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import (
    _CLEARED,
    PATIENCE_S,
    Endpoint,
    Place,
    Wire,
    end_process,
    new_id,
    suspended,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX = 2**53 - 1


@contextmanager
def inside(place: Place, **settings: str) -> Iterator[None]:
    """Make this process a worker of the place."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _CLEARED:
            patch.delenv(name, raising=False)
        for name, value in {**place.environ, **settings}.items():
            patch.setenv(name, value)
        yield


@contextmanager
def joined(place: Place, session: str, **arguments: Any) -> Iterator[brakit_sidecar.Telemetry]:
    """Make a producer in this process."""
    with inside(place, BRAKIT_SESSION_ID=session):
        telemetry = brakit_sidecar.connect(**arguments)
        try:
            yield telemetry
        finally:
            telemetry.close()


def shown(place: Place, session: str) -> dict[str, Any] | None:
    """Return the session's fields as they would be sent now. Returns None if the daemon has no such session."""
    with Wire(place.socket_path).hello() as wire:
        for found in wire.ask()[0]["sessions"]:
            if found["id"] == session:
                fields: dict[str, Any] = found["fields"]
                return fields
    return None


def refused(place: Place) -> dict[str, int]:
    with Wire(place.socket_path).hello() as wire:
        counted: dict[str, int] = wire.ask()[0]["refused"]
    return counted


def until_shown(place: Place, session: str, telemetry: brakit_sidecar.Telemetry | None = None, **expected: Any) -> None:
    """Wait until the daemon shows the expected fields. Meanwhile the producer makes calls that count nothing."""
    found: dict[str, Any] = {}

    def has_come() -> bool:
        nonlocal found
        if telemetry is not None:
            telemetry.set(framework="flask")
        found = shown(place, session) or {}
        return all(found.get(name) == value for name, value in expected.items())

    try:
        wait_until(has_come)
    except AssertionError:
        assert {name: found.get(name) for name in expected} == expected
        raise


# --- counts arrive -----------------------------------------------------------------------------


def test_everything_that_an_application_reports_is_in_the_session(home: Place) -> None:
    session = new_id()
    with joined(home, session) as telemetry:
        telemetry.set(framework="flask", brakit_version="0.1.7", is_custom_command=True)
        requests = telemetry.counter("request_count")
        for _ in range(10):
            requests.inc()
        requests.inc(5)
        telemetry.incr("query_count", 3)
        telemetry.request("GET /users", duration_ms=12.5)
        telemetry.request("GET /users", 612)
        telemetry.request("POST /users")
        telemetry.add("insight_types", "n1", "slow")
        telemetry.mark("insight_count", "one text", "another", "one text")
        telemetry.event("first_request", port=8000)
        until_shown(
            home, session,
            framework="flask", brakit_version="0.1.7", is_custom_command=True, sdk="python",
            python_version=".".join(map(str, sys.version_info[:3])), node_version=None,
            request_count=18, query_count=3, endpoint_count=1, avg_duration_ms=312,
            slowest_endpoint_bucket="500-1000ms", insight_types=["n1", "slow"], insight_count=2,
        )  # fmt: skip
        fields = shown(home, session)
        assert fields is not None
        assert fields["time_to_first_request_ms"] >= 0


def test_two_counters_of_a_field_are_one(home: Place) -> None:
    session = new_id()
    with joined(home, session) as telemetry:
        first, second = telemetry.counter("error_count"), telemetry.counter("error_count")
        first.inc()
        second.inc(2)
        telemetry.incr("error_count")
        until_shown(home, session, error_count=4)


def test_counts_saturate_at_2_to_the_53(home: Place) -> None:
    session = new_id()
    before = refused(home)
    with joined(home, session) as telemetry:
        requests = telemetry.counter("request_count")
        for _ in range(2048):
            telemetry.incr("request_count", MAX)
        for _ in range(3000):
            requests.inc()
            telemetry.incr("request_count")
            telemetry.request("GET /")
        until_shown(home, session, request_count=MAX)
    assert refused(home) == before


def test_durations_saturate(home: Place) -> None:
    """An application that passes microseconds instead of milliseconds may reach the limit."""
    session = new_id()
    with joined(home, session) as telemetry:
        for _ in range(250_000):
            telemetry.request("GET /", 86_400_000)
        until_shown(home, session, request_count=250_000, slowest_endpoint_bucket=">5000ms")


def test_a_closed_producer_does_not_count(home: Place, remote: Endpoint) -> None:
    session = home.run("session", "start").stdout.strip()
    with joined(home, session) as telemetry:
        telemetry.incr("request_count")
        telemetry.close(exit_reason="sigterm")
        telemetry.incr("request_count")
        telemetry.close()
    home.run("session", "end", session)
    assert remote.session_of(session)["request_count"] == 1


# --- no call raises ----------------------------------------------------------------------------------


class Hostile(str):
    """A text whose methods all raise."""

    __slots__ = ()

    def _fail(self, *_: object) -> Any:
        raise RuntimeError("hostile")

    __len__ = __getitem__ = __iter__ = encode = split = lower = __str__ = __repr__ = __format__ = _fail  # type: ignore[assignment]


class Worse:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("hostile")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("hostile")

    def __hash__(self) -> int:
        raise RuntimeError("hostile")

    def __repr__(self) -> str:
        raise RuntimeError("hostile")

    __bool__ = __int__ = __float__ = __index__ = __len__ = __hash__


FIELDS = [
    "request_count", "insight_count", "framework", "insight_types", "setup_duration_ms", "is_custom_command", "sdk",
    "first_request", "setup_completed", "session", "os", "nonsense", "Framework", "x" * 100, "a b", "name", "self",
]  # fmt: skip
hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([MAX, MAX + 1, 2**63, 2**64, -(2**70), 10**30, 10**5000]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(FIELDS),
    st.just("\ud800"),
    st.just("x" * 100_000),
    st.binary(max_size=4),
    st.lists(st.sampled_from(["n1", 7, None, "\ud800"]), max_size=3),
    st.just({"a": {1, 2}}),
    st.just(object()),
    st.just(Hostile("request_count")),
    st.just(Hostile("flask")),
    st.builds(Worse),
)
names = st.sampled_from(FIELDS) | hostile
calls = st.one_of(
    st.tuples(st.just("incr"), st.tuples(names) | st.tuples(names, hostile), st.just({})),
    st.tuples(st.just("counter"), st.tuples(names), st.just({})),
    st.tuples(st.just("request"), st.tuples(hostile) | st.tuples(hostile, hostile), st.just({})),
    st.tuples(st.just("set"), st.just(()), st.dictionaries(st.sampled_from(FIELDS), hostile, max_size=3)),
    st.tuples(st.just("add"), st.lists(names, min_size=1, max_size=3).map(tuple), st.just({})),
    st.tuples(st.just("mark"), st.lists(names, min_size=1, max_size=3).map(tuple), st.just({})),
    st.tuples(st.just("event"), st.tuples(names), st.dictionaries(st.sampled_from(FIELDS), hostile, max_size=3)),
)


def call(telemetry: brakit_sidecar.Telemetry, method: str, arguments: tuple[Any, ...], fields: dict[str, Any]) -> None:
    answer = getattr(telemetry, method)(*arguments, **fields)
    if method == "counter":
        answer.inc()
        answer.inc(Worse())
        answer.inc(2)
    else:
        assert answer is None


@pytest.fixture(scope="module")
def abused(home: Place) -> Iterator[tuple[str, brakit_sidecar.Telemetry]]:
    session = new_id()
    with joined(home, session) as telemetry:
        yield session, telemetry


@given(st.lists(calls, max_size=6))
def test_no_call_raises_for_any_arguments(
    abused: tuple[str, brakit_sidecar.Telemetry], arguments: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
) -> None:
    for each in arguments:
        call(abused[1], *each)


def test_a_producer_counts_after_all_these_calls(home: Place, abused: tuple[str, brakit_sidecar.Telemetry]) -> None:
    session, telemetry = abused
    fields = shown(home, session)
    assert fields is not None
    for _ in range(7):
        telemetry.incr("fetch_count")
        telemetry.request("GET /after", 1)
    telemetry.add("tabs_viewed", "logs")
    expected = {"fetch_count": fields["fetch_count"] + 7, "request_count": min(fields["request_count"] + 7, MAX)}
    until_shown(home, session, telemetry, **expected)
    last = shown(home, session)
    assert last is not None
    assert "logs" in last["tabs_viewed"]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(calls, max_size=6))
def test_no_call_raises_without_a_daemon(
    nowhere: Place, arguments: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
) -> None:
    with joined(nowhere, new_id()) as telemetry:
        for each in arguments:
            call(telemetry, *each)


@pytest.fixture
def nowhere() -> Iterator[Place]:
    """Make a place without a daemon."""
    with Place() as place:
        yield place


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hostile)
def test_connect_never_raises_for_any_sdk(nowhere: Place, sdk: Any) -> None:
    with inside(nowhere, BRAKIT_SESSION_ID=new_id()):
        telemetry = brakit_sidecar.connect(sdk)
        telemetry.incr("request_count")
        telemetry.close(sdk)


@pytest.mark.parametrize(
    "sdk", ["x" * 70_000, "\ud800", b"python", float("nan"), object()], ids=lambda it: repr(it)[:9]
)
def test_a_wrong_sdk_costs_no_count(home: Place, sdk: Any) -> None:
    session = new_id()
    with joined(home, session, sdk=sdk) as telemetry, Wire(home.socket_path).hello(session) as other:
        telemetry.incr("request_count", 3)
        found = next(one for one in other.ask()[0]["sessions"] if one["id"] == session)
    assert (found["fields"]["request_count"], found["fields"]["sdk"]) == (3, "python")


CLOSES_ALL = """
import os
import socket
import brakit_sidecar
telemetry = brakit_sidecar.connect()
telemetry.incr("request_count", 2)
os.closerange(3, 256)
applications = [stream for _ in range(4) for stream in socket.socketpair()]  # reuse the closed numbers
if os.environ["THEN"] == "forks":
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
telemetry.incr("request_count", 3)
telemetry.add("tabs_viewed", "logs")
if os.environ["THEN"] == "closes":
    telemetry.close()
for stream in applications:
    stream.setblocking(False)
    try:
        print(stream.recv(4096))
    except BlockingIOError:
        pass
"""


@pytest.mark.parametrize("then", ["exits", "forks", "closes"])
def test_an_application_may_close_every_descriptor(home: Place, then: str) -> None:
    session = new_id()
    with Wire(home.socket_path).hello(session, role="owner") as owner:
        ran = home.run_python(CLOSES_ALL, BRAKIT_SESSION_ID=session, THEN=then)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")

        def counted() -> tuple[int, list[str]]:
            (fields,) = [found["fields"] for found in owner.ask()[0]["sessions"] if found["id"] == session]
            return fields["request_count"], fields["tabs_viewed"]

        wait_until(lambda: counted() == (5, ["logs"]), "all counts")


@pytest.mark.parametrize("name", ["name", "self", "field", "n"])
def test_a_field_may_have_the_name_of_a_parameter(home: Place, name: str) -> None:
    with joined(home, new_id()) as telemetry:
        telemetry.set(**{name: "flask"})
        telemetry.event("first_request", **{name: 8000})


@pytest.mark.parametrize(
    "settings",
    [
        {"BRAKIT_SESSION_ID": "no uuid"},
        {"BRAKIT_SIDECAR_SOCKET": "/" + "x" * 300},
        {"BRAKIT_SIDECAR_SOCKET": "/dev/null"},
        {"BRAKIT_SIDECAR_SOCKET": "."},
        {"XDG_RUNTIME_DIR": "/dev/null"},
        {"HOME": "/dev/null"},
    ],
)
def test_a_strange_environment_does_not_make_a_call_raise(nowhere: Place, settings: dict[str, str]) -> None:
    with inside(nowhere, **settings):
        telemetry = brakit_sidecar.connect()
        telemetry.request("GET /", 1)
        telemetry.event("first_request", port=1)
        telemetry.close()


# --- a mistake is counted, and affects nothing else -----------------------------------------------------


def test_status_counts_mistakes_by_their_reason(home: Place) -> None:
    before = refused(home)
    session = new_id()
    with joined(home, session) as telemetry:
        telemetry.incr("request_count", 0)
        telemetry.incr("request_count", True)
        telemetry.incr("request_count", 1.5)  # type: ignore[arg-type]
        telemetry.incr("no_such_count")
        telemetry.counter("no_such_count").inc()
        telemetry.set(framework=["flask"], no_such_field="x")
        telemetry.event("no_such_event")
        telemetry.request("GET /", duration_ms=-1)  # the request counts, its duration does not
        telemetry.incr("request_count", 2)
        until_shown(home, session, telemetry, request_count=3, avg_duration_ms=0)
    after = refused(home)
    added = {reason: count - before.get(reason, 0) for reason, count in after.items() if count != before.get(reason)}
    assert added == {"bad_value": 5, "unknown_field": 3, "unknown_event": 1}


def test_no_text_of_a_mistake_is_sent(nowhere: Place) -> None:
    with Listening(nowhere) as listening:
        with joined(nowhere, new_id()) as telemetry:
            telemetry.incr("Tell-Tale", 1)
            telemetry.event("Tell-Tale", port=1)
            telemetry.set(**{"Tell-Tale": "Tell-Tale"})
            telemetry.request("Tell-Tale", 5)
            telemetry.mark("insight_count", "Tell-Tale")
            telemetry.mark("Tell-Tale", "Tell-Tale")
        assert b"ell-" not in listening.all_bytes()


CLUMSY = {
    "a text with a lone surrogate": lambda t: t.set(framework="\ud800"),
    "a member with a lone surrogate": lambda t: t.add("insight_types", "\ud800"),
    "an event's text with a lone surrogate": lambda t: t.event("setup_completed", framework="\ud800"),
    "a huge number": lambda t: t.set(setup_duration_ms=10**5000),
    "a huge number of an event": lambda t: t.event("first_request", port=10**5000),
    "hundreds of long words": lambda t: [t.add("insight_types", f"{n:03}" + "\u4e2d" * 61) for n in range(300)],
    "hundreds of long texts": lambda t: [t.set(**{f"f{n}": "\x00" * 64}) for n in range(300)],
    "a number instead of a bool": lambda t: t.set(is_custom_command=1),
    "a thousand numbers": lambda t: [t.set(setup_duration_ms=n + 0.5) for n in range(1000)],
    "hundreds of events": lambda t: [t.event("cli_invoked", command="x" * 1000) for _ in range(300)],
}


@pytest.mark.parametrize("clumsy", CLUMSY.values(), ids=CLUMSY)
def test_a_mistake_before_a_daemon_runs_affects_nothing_else(clumsy: Any) -> None:
    """Everything is then sent in one frame, so the bad part is beside the good ones."""
    session = new_id()
    with Place() as place, joined(place, session) as telemetry:
        telemetry.set(brakit_version="0.1.7")
        telemetry.incr("request_count", 3)
        clumsy(telemetry)
        telemetry.mark("insight_count", "one")
        telemetry.set(is_custom_command=True)
        place.serve()
        telemetry.incr("request_count", 2)
        expected = {"request_count": 5, "brakit_version": "0.1.7", "insight_count": 1, "is_custom_command": True}
        until_shown(place, session, telemetry, **expected)


# --- telemetry is off ---------------------------------------------------------------------------


@pytest.mark.parametrize("off", [{"BRAKIT_TELEMETRY": "No"}, {"DO_NOT_TRACK": "1"}, {"CI": "1"}])
@pytest.mark.parametrize("start", [False, True])
def test_the_stand_in_does_nothing_if_telemetry_is_off(nowhere: Place, off: dict[str, str], start: bool) -> None:
    with inside(nowhere, **off):
        telemetry = brakit_sidecar.connect(start=start)
        assert type(telemetry) is brakit_sidecar.Telemetry
        assert type(telemetry.counter("request_count")) is brakit_sidecar.Counter
        telemetry.counter("request_count").inc()
        telemetry.incr("request_count", Worse())  # type: ignore[arg-type]
        telemetry.request("GET /", 1)
        telemetry.set(framework="flask")
        telemetry.add("insight_types", "n1")
        telemetry.mark("insight_count", "text")
        telemetry.event("first_request", port=1)
        telemetry.close()
        assert os.listdir(nowhere.runtime) == []
    if "CI" in off:
        assert os.listdir(nowhere.home) == []
    else:
        assert nowhere.config["telemetry"] is False


def test_a_config_that_opts_out_means_the_stand_in(nowhere: Place) -> None:
    nowhere.run("telemetry", "off")
    with inside(nowhere):
        assert type(brakit_sidecar.connect()) is brakit_sidecar.Telemetry


def test_an_opt_out_does_not_wait_for_the_lock_of_the_config(nowhere: Place) -> None:
    """The process with the lock may be stopped. The next worker writes the opt-out."""
    connects = "import brakit_sidecar; brakit_sidecar.connect()"
    os.makedirs(os.path.dirname(nowhere.config_path), mode=0o700)
    locked = os.open(os.path.dirname(nowhere.config_path), os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    assert nowhere.run_python(connects, BRAKIT_TELEMETRY="off").returncode == 0
    assert not os.path.exists(nowhere.config_path)
    os.close(locked)
    nowhere.run_python(connects, BRAKIT_TELEMETRY="off")
    assert nowhere.config["telemetry"] is False


def test_a_process_below_the_daemon_does_not_count(nowhere: Place) -> None:
    with inside(nowhere, BRAKIT_SIDECAR_DAEMON="1"):
        assert type(brakit_sidecar.connect(start=True)) is brakit_sidecar.Telemetry


# --- what a worker loads ------------------------------------------------------------------------------

LIGHT = """
import sys, threading
spawned, spawns = [], {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec"}
sys.addaudithook(lambda event, _: spawned.append(event) if event in spawns else None)
before = set(sys.modules)
import brakit_sidecar

def loaded():
    names = {name.partition(".")[0] for name in set(sys.modules) - before}
    heavy = names & {"asyncio", "anyio", "aiohttp", "orjson", "ssl"}
    return sorted(heavy | (names - sys.stdlib_module_names - {"brakit_sidecar"}))

print(loaded())
t = brakit_sidecar.connect(start=START)
c = t.counter("request_count"); c.inc(); c.inc(3)
t.set(framework="flask"); t.incr("query_count"); t.request("GET /", 1.5); t.add("insight_types", "n1")
t.mark("insight_count", "x"); t.event("first_request", port=1); t.incr("nonsense", None)
t.close()
print(type(t).__name__, loaded(), threading.active_count(), spawned)
"""
CONNECTS = LIGHT.replace("START", "False")
STARTS_A_DAEMON = LIGHT.replace("START", "True")


@pytest.mark.parametrize("membership", [{"BRAKIT_SESSION_ID": new_id()}, {}], ids=["session", "process group"])
def test_a_worker_loads_nothing_heavy_and_starts_no_thread_and_no_process(
    home: Place, membership: dict[str, str]
) -> None:
    ran = home.run_python(CONNECTS, **membership)
    assert (ran.stdout, ran.stderr) == ("[]\nProducer [] 1 []\n", "")


def test_a_worker_that_starts_a_daemon_loads_nothing_heavy_and_starts_no_thread(nowhere: Place) -> None:
    ran = nowhere.run_python(STARTS_A_DAEMON)
    assert (ran.stdout.splitlines()[0], ran.stderr) == ("[]", "")
    assert re.fullmatch(r"Producer \[\] 1 \['subprocess.Popen'.*\]", ran.stdout.splitlines()[1])


def test_a_stand_in_loads_nothing_heavy(nowhere: Place) -> None:
    assert nowhere.run_python(CONNECTS, CI="1").stdout == "[]\nTelemetry [] 1 []\n"


# --- hashes -----------------------------------------------------------------------------------


class Listening:
    """Listens at the daemon's path, and keeps the bytes that producers send and their counter files."""

    def __init__(self, place: Place) -> None:
        os.makedirs(os.path.dirname(place.socket_path), mode=0o700)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(place.socket_path)
        self._listener.listen()

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def accept(self) -> tuple[bytes, CounterSnapshot | None]:
        """Return the bytes that the next producer sends until it closes, and the snapshot of its counter file."""
        received, snapshot = b"", None
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(PATIENCE_S)
            while True:
                chunk, fds, _flags, _address = socket.recv_fds(connection, 65536, 1)
                for fd in fds:
                    snapshot = CounterSnapshot.of(os.pread(fd, counter_layout.SIZE, 0))
                    os.close(fd)
                if not chunk:
                    return received, snapshot
                received += chunk

    def all_bytes(self) -> bytes:
        return self.accept()[0]


def ids_sent_in(place: Place, listening: Listening, session: str) -> tuple[str, str]:
    """Return the ids that a producer sends for one mark and one route."""
    with joined(place, session) as telemetry:
        telemetry.mark("insight_count", "SELECT * FROM users")
        telemetry.request("GET /users", 1)
    received, snapshot = listening.accept()
    assert b"SELECT" not in received
    assert b"/users" not in received
    frames = [json.loads(line) for line in received.splitlines()]
    (mark,) = [frame["mark"]["insight_count"][0] for frame in frames if "mark" in frame]
    routes = [route for frame in frames if "histogram" in frame for route in frame["histogram"]]
    if snapshot is not None and not routes:
        routes = list(snapshot.rows)
    return mark, routes[0] if routes else ""


def test_a_text_has_another_id_in_another_session(nowhere: Place) -> None:
    with Listening(nowhere) as listening:
        session = new_id()
        first = ids_sent_in(nowhere, listening, session)
        again = ids_sent_in(nowhere, listening, session)
        other = ids_sent_in(nowhere, listening, new_id())
    assert first == again
    assert first[0] != other[0]
    assert re.fullmatch("[0-9a-f]{16}", first[0])


# --- daemons that start, exit and stop ------------------------------------------------------------


def test_a_new_daemon_gets_all_state_again() -> None:
    session = new_id()
    with Place() as place:
        served = place.serve()
        with joined(place, session) as telemetry:
            telemetry.set(brakit_version="0.1.7")
            telemetry.add("insight_types", "n1")
            telemetry.mark("insight_count", "one")
            telemetry.request("GET /users", 300)
            telemetry.incr("query_count", 4)
            until_shown(place, session, query_count=4)
            end_process(served, 9)
            telemetry.incr("query_count", 2)
            telemetry.add("insight_types", "slow")
            place.serve()
            expected = {
                "query_count": 6, "request_count": 1, "brakit_version": "0.1.7", "insight_types": ["n1", "slow"],
                "insight_count": 1, "endpoint_count": 1, "avg_duration_ms": 300,
            }  # fmt: skip
            until_shown(place, session, telemetry, **expected)


def test_an_application_that_prints_into_the_counter_file_adds_no_count() -> None:
    session = new_id()
    with Place() as place:
        served = place.serve()
        with joined(place, session) as telemetry:
            telemetry.incr("request_count", 3)
            until_shown(place, session, request_count=3)
            end_process(served, 9)
            assert isinstance(telemetry, Producer)
            assert telemetry._link is not None
            assert telemetry._link.unsent.counter_file.fd is not None
            os.write(telemetry._link.unsent.counter_file.fd, b"passwd: a text of the application, " * 3)
            place.serve()

            def has_stopped() -> bool:
                telemetry.set(framework="flask")
                return telemetry._closed

            wait_until(has_stopped, "the end of counting")
            fields = shown(place, session) or {}
            # The daemon may have been killed before it journaled what it had read.
            assert fields.get("request_count", 0) in (0, 3)
            assert [fields.get(name, 0) for name in ("query_count", "error_count", "endpoint_count")] == [0, 0, 0]


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread"])
def test_an_event_that_a_session_has_once_is_sent_once_even_if_the_daemon_is_killed(
    place: Place, endpoint: Endpoint, is_read: bool
) -> None:
    session, served = new_id(), place.serve()
    with joined(place, session) as telemetry:
        telemetry.incr("request_count")
        until_shown(place, session, request_count=1)
        if not is_read:
            served.send_signal(signal.SIGSTOP)
        telemetry.event("first_request", port=8000)
        if is_read:
            wait_until(place.receipts, "the receipt")  # a daemon killed before it repeats the same bytes
        end_process(served, signal.SIGKILL)
        place.serve()
        until_shown(place, session, telemetry, framework="flask")
        telemetry.set(package_manager="uv")  # is sent after the repeated state
        until_shown(place, session, telemetry, package_manager="uv")
    assert place.run("stop").returncode == 0
    (event,) = endpoint.bodies_of("first_request")
    assert event["properties"]["port"] == 8000
    took = endpoint.session_of(session)["time_to_first_request_ms"]
    assert event["properties"]["time_to_first_request_ms"] == took


def test_a_worker_that_only_counts_notices_a_new_daemon() -> None:
    session = new_id()
    with Place() as place:
        served = place.serve()
        with joined(place, session) as telemetry:
            telemetry.request("GET /users", 5)
            began = time.monotonic()
            while time.monotonic() < began + 2.5:  # several checks for the daemon, each of which finds it
                telemetry.request("GET /users", 5)
                time.sleep(0.05)
            end_process(served, 9)
            place.serve()
            until_counting = time.monotonic() + PATIENCE_S
            while shown(place, session) is None and time.monotonic() < until_counting:
                telemetry.request("GET /users", 5)
            fields = shown(place, session)
            assert fields is not None
            assert fields["request_count"] > 2  # more than the requests after the restart


def test_counts_from_before_any_daemon_ran_are_not_lost(nowhere: Place) -> None:
    session = new_id()
    with joined(nowhere, session) as telemetry:
        for _ in range(100):
            telemetry.request("GET /users", 5)
        telemetry.event("first_request", port=8000)
        nowhere.serve()
        until_shown(nowhere, session, telemetry, request_count=100, endpoint_count=1)
        fields = shown(nowhere, session)
        assert fields is not None
        assert fields["time_to_first_request_ms"] is not None


def test_a_stopped_daemon_blocks_no_call_and_no_count_is_lost(home: Place) -> None:
    session = new_id()
    with joined(home, session) as telemetry:
        telemetry.incr("request_count")
        until_shown(home, session, request_count=1)
        began = time.monotonic()
        with suspended(home.status()["pid"]):
            requests = telemetry.counter("request_count")
            for number in range(20_000):
                requests.inc()
                telemetry.request(f"GET /{number % 40}", 10)
            for number in range(3000):
                telemetry.mark("insight_count", f"text {number}")
                telemetry.event("cli_invoked", command="install")
                telemetry.incr("query_count", 2)
        assert time.monotonic() - began < PATIENCE_S  # no call waited
        until_shown(
            home, session, telemetry, request_count=40_001, endpoint_count=40, insight_count=3000, query_count=6000
        )


def test_connecting_to_a_stopped_daemon_does_not_block(home: Place) -> None:
    session = new_id()
    with ExitStack() as stack:
        with suspended(home.status()["pid"]):
            producers = [stack.enter_context(joined(home, session)) for _ in range(50)]
            for telemetry in producers:
                telemetry.incr("request_count", 2)
        until_shown(home, session, request_count=100)


# --- processes and threads ----------------------------------------------------------------------------


def test_a_worker_killed_at_any_instant_loses_no_count(home: Place) -> None:
    code = (
        "import os, signal, brakit_sidecar; t = brakit_sidecar.connect(); c = t.counter('request_count')\n"
        "for n in range(1000):\n"
        "  c.inc(); t.incr('query_count'); t.request('GET /', 1)\n"
        "  if n == {}: os.kill(os.getpid(), signal.SIGKILL)"
    )
    session = new_id()
    with Wire(home.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        killed_at = [0, 1, 17, 500]
        for at in killed_at:
            assert home.run_python(code.format(at), BRAKIT_SESSION_ID=session).returncode == -9
        turns = sum(at + 1 for at in killed_at)
        until_shown(home, session, request_count=2 * turns, query_count=turns, endpoint_count=1)
        owner.send(end={"exit_reason": "clean"}).sync()


def test_a_forked_child_counts_as_a_producer_of_its_own(home: Place) -> None:
    code = (
        "import os, brakit_sidecar; t = brakit_sidecar.connect(); c = t.counter('request_count')\n"
        "c.inc(10); t.mark('insight_count', 'x')\n"
        "children = []\n"
        "for _ in range(3):\n"
        "  pid = os.fork()\n"
        "  if pid == 0:\n"
        "    c.inc(); t.incr('request_count', 4); t.request('GET /', 1); t.mark('insight_count', 'x')\n"
        "    os._exit(0)\n"
        "  children.append(pid)\n"
        "c.inc(100)\n"
        "for pid in children: os.waitpid(pid, 0)"
    )  # fmt: skip
    session = new_id()
    with Wire(home.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        ran = home.run_python(code, BRAKIT_SESSION_ID=session)
        assert (ran.returncode, ran.stderr) == (0, "")
        until_shown(home, session, request_count=110 + 3 * 6, endpoint_count=1, insight_count=1)
        owner.send(end={"exit_reason": "clean"}).sync()


def test_threads_lose_no_count(home: Place) -> None:
    session = new_id()
    before = sys.getswitchinterval()
    with joined(home, session) as telemetry:

        def work(number: int) -> None:
            requests = telemetry.counter("request_count")
            for turn in range(2000):
                requests.inc()
                telemetry.incr("query_count", 2)
                telemetry.request(f"GET /{number}/{turn % 5}", 1)
                if turn % 100 == 0:
                    telemetry.mark("insight_count", f"{number} {turn}")

        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)
        until_shown(
            home, session, telemetry, request_count=24_000, query_count=24_000, endpoint_count=30, insight_count=120
        )


# --- without a session in the environment -------------------------------------------------------------


def run_command_line(place: Place, command: str) -> None:
    """Run a shell's command line in a process group of its own, as an interactive shell does."""
    ran = subprocess.run(
        ["sh", "-c", command], env=place.environ, start_new_session=True, timeout=PATIENCE_S, check=False
    )
    assert ran.returncode == 0


@pytest.mark.slow
def test_the_workers_of_one_command_line_are_one_session(endpoint: Endpoint, place: Place) -> None:
    worker = f"{sys.executable} -c \"import brakit_sidecar; brakit_sidecar.connect().incr('request_count', %d)\""
    place.serve()
    run_command_line(place, f"{worker % 2} & {worker % 3} & wait; {worker % 5}")
    run_command_line(place, f"{worker % 7} & {worker % 11}; wait")
    sessions = endpoint.wait_for("session", 2)
    assert sorted(body["properties"]["request_count"] for body in sessions) == [10, 18]


def test_a_worker_may_start_the_daemon_and_does_not_wait_for_it(nowhere: Place) -> None:
    session = new_id()
    with joined(nowhere, session, start=True) as telemetry:
        telemetry.incr("request_count", 2)
        wait_until(nowhere.accepts, "a daemon that accepts")
        until_shown(nowhere, session, telemetry, request_count=2)


def test_no_daemon_is_started_for_a_socket_at_another_path(nowhere: Place) -> None:
    directory = os.path.join(nowhere.root, "shared")
    os.mkdir(directory)
    os.chmod(directory, 0o755)
    code = "import brakit_sidecar; brakit_sidecar.connect(start=True).incr('request_count')"
    nowhere.run_python(code, BRAKIT_SIDECAR_SOCKET=os.path.join(directory, "s"))
    assert os.stat(directory).st_mode & 0o777 == 0o755
    assert os.listdir(directory) == []


# --- the end of a producer ------------------------------------------------------------------------------

PRINTS_WHAT_IT_SENT_AT_EXIT = """
import atexit, time
from brakit_sidecar.client.channel import Channel
sent = []
atexit.register(lambda: print(sent))  # runs after the producer's own handler, which is registered later
import brakit_sidecar
telemetry = brakit_sidecar.connect()
telemetry.incr("request_count", 3)
while not telemetry._link._is_file_accepted:
    telemetry._link.look_at = 0.0
    telemetry.set(framework="flask")
    time.sleep(0.01)  # each turn repeats the counts, and without a pause they fill the socket of a busy daemon
send = Channel.send
Channel.send = lambda channel, line: sent.append(line) or send(channel, line)
"""


def test_the_exit_reason_is_written_to_the_counter_file_and_no_line_is_sent(place: Place, endpoint: Endpoint) -> None:
    place.serve(grace_s=0.5)
    session = new_id()
    worker = place.run_python(PRINTS_WHAT_IT_SENT_AT_EXIT, BRAKIT_SESSION_ID=session)
    assert (worker.stdout, worker.stderr) == ("[]\n", "")
    found = endpoint.session_of(session)
    assert (found["request_count"], found["exit_reason"]) == (3, "clean")


FILLS_THE_SOCKET_BEFORE_ITS_EXIT = """
import sys
import brakit_sidecar
telemetry = brakit_sidecar.connect()
telemetry.incr("request_count", 3)
print("counted", flush=True)
sys.stdin.readline()
while telemetry._link._channel.is_ready():
    telemetry.event("cli_invoked", command="install")
"""


def test_the_exit_reason_is_in_the_counter_file_if_the_socket_is_full(place: Place, endpoint: Endpoint) -> None:
    session, daemon = new_id(), place.serve(grace_s=0.5)
    with subprocess.Popen(
        [sys.executable, "-c", FILLS_THE_SOCKET_BEFORE_ITS_EXIT],
        env={**place.environ, "BRAKIT_SESSION_ID": session},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        wait_until(lambda: place.status()["sessions"], "the worker")
        with suspended(daemon.pid):
            worker.communicate(b"\n", timeout=PATIENCE_S)
    found = endpoint.session_of(session)
    assert (found["request_count"], found["exit_reason"]) == (3, "clean")


ENDINGS = {
    "returns": ("pass", "clean"),
    "exits with a code": ("raise SystemExit(3)", "clean"),
    "raises": ("raise RuntimeError", "crash"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", "crash"),
    "exits without handlers": ("import os; os._exit(0)", "crash"),
    "reports sigterm": ("t.close('sigterm')", "sigterm"),
}


@pytest.fixture(scope="module")
def endings(home: Place, remote: Endpoint) -> dict[str, str]:
    """Return the exit reason of a session of one worker, by how it ended. All sessions wait for the grace together."""
    sessions = {}
    for how, (code, _reason) in ENDINGS.items():
        sessions[how] = new_id()
        home.run_python(
            f"import brakit_sidecar; t = brakit_sidecar.connect(); t.incr('request_count'); {code}",
            BRAKIT_SESSION_ID=sessions[how],
        )
    return {how: remote.session_of(session)["exit_reason"] for how, session in sessions.items()}


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDINGS)
def test_without_an_owner_the_exit_reason_is_the_workers(endings: dict[str, str], how: str) -> None:
    assert endings[how] == ENDINGS[how][1]
