"""Consent withdrawn while something runs: nothing counted before or meanwhile arrives, also where it comes back."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.client import counter_file
from brakit_sidecar.core import counter_layout

from tests.harness import PATIENCE_S, Place, Wire, end_process, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Endpoint

# A worker that counts, by memory and by call, whenever it gets a line; it answers each.
WORKER = """
import sys, brakit_sidecar
telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
for line in sys.stdin:
    requests.inc()
    telemetry.request("GET /users", duration_ms=3.0)
    telemetry.event("first_request", port=8000)
    print(flush=True)
"""


# One that counts by memory alone, and so sees after no daemon.
COUNTER = """
import sys, brakit_sidecar
requests = brakit_sidecar.connect().counter("request_count")
for line in sys.stdin:
    requests.inc()
    print(flush=True)
"""


class Worker:
    def __init__(self, place: Place, code: str = WORKER, **environ: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**place.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Worker:
        self.counts()
        return self

    def __exit__(self, *_error: object) -> None:
        self.leaves()

    def counts(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline()

    def counts_after_a_look(self) -> None:
        """What it does at most once a second, it has done."""
        for _ in range(2):
            time.sleep(1.1)
            self.counts()

    def leaves(self) -> None:
        self._process.communicate(timeout=PATIENCE_S)


def off(place: Place) -> None:
    assert place.run("telemetry", "off").returncode == 0


def opted_out_by_another_command(place: Place) -> None:
    """It tells no daemon."""
    assert place.run("run", "true", BRAKIT_TELEMETRY="off").returncode == 0


each_way_out = pytest.mark.parametrize("withdraw", [off, opted_out_by_another_command], ids=lambda way: way.__name__)


def on(place: Place) -> None:
    assert place.run("telemetry", "on").returncode == 0


def say_one_event(place: Place, endpoint: Endpoint) -> None:
    """Everything works: so what did not arrive was not sent."""
    with Wire(place.socket_path).hello() as wire:
        wire.say(event={"name": "cli_invoked"}).sync()
    endpoint.wait_for("cli_invoked")


@each_way_out
def test_what_was_counted_where_no_daemon_ran_is_nobodys(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    place.run("start")
    place.run("stop")  # the config is there
    with Worker(place, BRAKIT_SESSION_ID=new_id()) as worker:
        withdraw(place)
        worker.counts_after_a_look()
        on(place)
        served = place.serve()
        worker.counts_after_a_look()
    say_one_event(place, endpoint)
    end_process(served)
    assert [body["event"] for body in endpoint.bodies] == ["cli_invoked"]


@each_way_out
def test_what_a_memory_alone_says_is_nobodys(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    """No journal says under which id that was: the daemon that died had no session yet."""
    end_process(place.serve(), signal.SIGKILL)
    with Worker(place, COUNTER, BRAKIT_SESSION_ID=new_id()) as worker:
        withdraw(place)
        worker.counts()
        on(place)
        served = place.serve()
        assert place.status()["sessions"] == []
    say_one_event(place, endpoint)
    end_process(served)
    assert [body["event"] for body in endpoint.bodies] == ["cli_invoked"]


@each_way_out
def test_of_a_session_whose_daemon_was_killed_before_nothing_arrives(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    endpoint.may_answer.clear()  # the event is under way, and in the journal
    with Worker(place, BRAKIT_SESSION_ID=new_id()) as worker:
        killed = place.serve()
        worker.counts_after_a_look()
        wait_until(lambda: endpoint.requests, "its first request")
        end_process(killed, signal.SIGKILL)
        before = len(endpoint.requests)
        withdraw(place)
        endpoint.may_answer.set()
        on(place)
        served = place.serve()
        worker.counts_after_a_look()
    say_one_event(place, endpoint)
    end_process(served)
    assert [body["event"] for body in endpoint.bodies[before:]] == ["cli_invoked"]


@each_way_out
def test_of_a_session_that_runs_nothing_arrives_though_consent_comes_back(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    served = place.serve()
    with Worker(place, BRAKIT_SESSION_ID=new_id()) as worker:
        endpoint.wait_for("first_request")
        withdraw(place)
        worker.counts_after_a_look()
        on(place)
        worker.counts_after_a_look()
    end_process(served)
    assert [body["event"] for body in endpoint.bodies] == ["first_request"]


@each_way_out
@pytest.mark.slow
def test_a_second_after_it_nothing_arrives_though_the_endpoint_is_slow(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    endpoint.may_answer.clear()
    served = place.serve()
    with Worker(place, BRAKIT_SESSION_ID=new_id()) as worker, Wire(place.socket_path).hello(new_id()) as wire:
        for _ in range(12):
            wire.say(event={"name": "cli_invoked"})
        wire.sync()
        wait_until(lambda: len(endpoint.requests) >= 4, "those that are under way")
        withdraw(place)
        time.sleep(1)
        arrived = len(endpoint.requests)
        endpoint.may_answer.set()
        worker.counts_after_a_look()
        wire.say(event={"name": "cli_invoked"}).sync()
    end_process(served)
    assert len(endpoint.requests) == arrived
    reasons = {receipt["reason"] for receipt in place.receipts()}
    assert "consent" in reasons
    assert reasons <= {"consent", "timeout"}  # of the first ones, on a slow machine
    assert all(body["distinct_id"] != place.config["anonymousId"] for body in endpoint.bodies)


# --- unreadable for a moment ----------------------------------------------------------------------------


@contextmanager
def half_written(place: Place) -> Iterator[None]:
    """As the Node SDK leaves the config for a moment, which writes it in place."""
    with open(place.config_path, "r+b") as file:
        whole = file.read()
        file.truncate(len(whole) // 2)
        yield
        file.seek(0)
        file.write(whole)


def test_a_worker_that_cannot_read_the_config_tells_nothing_and_asks_again(endpoint: Endpoint, place: Place) -> None:
    served, session = place.serve(), new_id()
    with Worker(place, BRAKIT_SESSION_ID=session) as worker:
        endpoint.wait_for("first_request")
        end_process(served, signal.SIGKILL)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as another, half_written(place):
            os.unlink(place.socket_path)
            another.bind(place.socket_path)
            another.listen()
            another.setblocking(False)
            worker.counts_after_a_look()
            with pytest.raises(BlockingIOError):
                another.accept()
        place.serve()
        worker.counts_after_a_look()
    assert endpoint.end_of(session)["request_count"] == 2 * 5


def test_a_daemon_that_cannot_read_the_config_has_workers_come_again(place: Place) -> None:
    place.serve()
    session, counted = new_id(), counter_file.shared("/tmp")
    assert counted is not None
    assert counted.fd is not None
    hello = {
        "protocol": 1,
        "session": session,
        "producer": new_id(),
        "sdk": "python",
        "counter_file": counter_layout.VERSION,
    }
    line = json.dumps({"hello": hello}).encode() + b"\n"
    with half_written(place):
        with Wire(place.socket_path) as worker:
            socket.send_fds(worker.stream, [line], [counted.fd])
            assert list(worker.lines()) == []
        with Wire(place.socket_path).hello() as command:
            assert list(command.say(ask={"open": {"session": session}}).lines()) == []
        assert place.status()["sessions"] == []
    with Wire(place.socket_path) as worker:
        socket.send_fds(worker.stream, [line], [counted.fd])
        assert next(worker.lines()) == {"counter_file": counter_layout.VERSION}


def test_a_daemon_that_cannot_read_the_config_lets_a_session_that_runs_go_on(endpoint: Endpoint, place: Place) -> None:
    place.serve()
    session = new_id()
    with Wire(place.socket_path).hello(session) as wire:
        wire.say(incr={"request_count": 1}).sync()
        with half_written(place), Wire(place.socket_path).hello() as command:
            assert command.ask("consent")[0] == {"on": False}
        wire.say(incr={"request_count": 1}, end={"exit_reason": "clean"}).sync()
    assert endpoint.end_of(session)["request_count"] == 2


# --- what decided, and who is told ----------------------------------------------------------------------


def test_each_source_is_shown_with_what_it_said_and_an_arrow_points_at_the_one_that_decided() -> None:
    with Place() as place:
        assert place.run("telemetry", "on").returncode == 0
        awake, told = "awake: no production, CI or cloud here", f"telemetry: true ({place.config_path})"
        cases: tuple[tuple[dict[str, str], str, tuple[str, ...]], ...] = (
            ({}, "config", ("not set", awake, "not set", told)),
            ({"BRAKIT_TELEMETRY": "on"}, "BRAKIT_TELEMETRY", ("not set", awake, "on", told)),
            ({"BRAKIT_TELEMETRY": "Off"}, "BRAKIT_TELEMETRY", ("not set", awake, "Off", told)),
            ({"CI": "1", "BRAKIT_TELEMETRY": "on"}, "brakit's guards", ("not set", "CI=1", "on", told)),
            ({"CI": "1", "DO_NOT_TRACK": "1"}, "DO_NOT_TRACK", ("1", "CI=1", "not set", told)),
        )
        for environ, decided, said in cases:
            shown = place.run("telemetry", **environ).stdout.splitlines()[-4:]
            sources = ("DO_NOT_TRACK", "brakit's guards", "BRAKIT_TELEMETRY", "config")
            for line, source, word in zip(shown, sources, said, strict=True):
                assert line == f"{'->' if source == decided else '  '} {source:18} {word}"
        with open(place.config_path, "w", encoding="utf-8") as file:
            file.write("{")
        shown = place.run("telemetry", BRAKIT_TELEMETRY="on").stdout.splitlines()
        assert shown[0].startswith("telemetry is off")
        assert shown[-1].startswith("-> config ")


# --- the notice ---------------------------------------------------------------------------------------


def at_a_terminal(place: Place, *arguments: str, **environ: str) -> str:
    """What a person sees on stderr, which is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "brakit_sidecar", *arguments],
        env={**place.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    assert process.wait(PATIENCE_S) == 0
    seen = b""
    os.set_blocking(ours, False)
    with suppress(OSError):  # nothing more, or the terminal's other end is closed
        while piece := os.read(ours, 4096):
            seen += piece
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


@pytest.fixture
def silent() -> Iterator[Place]:
    with Place() as place:
        yield place


@pytest.mark.parametrize("arguments", [("run", "true"), ("start",)])
def test_a_person_is_told_once_what_is_reported_how_to_see_it_and_how_to_switch_it_off(
    silent: Place, arguments: tuple[str, ...]
) -> None:
    seen = at_a_terminal(silent, *arguments)
    assert len(seen.splitlines()) == 3
    for word in ("anonymous usage statistics", "brakit-sidecar log", "telemetry off", "BRAKIT_TELEMETRY=false"):
        assert word in seen
    assert at_a_terminal(silent, "run", "true") == at_a_terminal(silent, "start") == ""


def test_who_is_no_terminal_is_told_nothing_and_the_person_is_told_later(silent: Place) -> None:
    assert silent.run("run", "true").stderr == ""
    assert at_a_terminal(silent, "run", "true") != ""


OFF: tuple[dict[str, str], ...] = ({"BRAKIT_TELEMETRY": "off"}, {"DO_NOT_TRACK": "1"}, {"CI": "1"})


@pytest.mark.parametrize("environ", OFF, ids=str)
def test_where_telemetry_is_off_nobody_is_told_and_no_file_says_so(silent: Place, environ: dict[str, Any]) -> None:
    assert "statistics" not in at_a_terminal(silent, "run", "true", **environ)
    assert os.listdir(silent.home) == ([] if "CI" in environ else [".brakit"])
    assert "CI" in environ or json.dumps(silent.config["telemetry"]) == "false"
