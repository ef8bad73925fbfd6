"""``run``: the command comes first, and how it ended is what the session says."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.host import launch

from tests.harness import PATIENCE_S, Endpoint, Place, end_process, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = (sys.executable, "-m", "brakit_sidecar", "run")
PYTHON = sys.executable


@pytest.fixture
def session(remote: Endpoint) -> Session:
    return Session(remote)


class Session:
    """The one session that a test makes."""

    def __init__(self, remote: Endpoint) -> None:
        self._remote = remote
        self._already = len(remote.bodies_of("session"))

    @property
    def properties(self) -> dict[str, Any]:
        (body,) = self._remote.wait_for("session", self._already + 1)[self._already :]
        properties: dict[str, Any] = body["properties"]
        return properties

    @property
    def exit_reason(self) -> str:
        reason: str = self.properties["exit_reason"]
        return reason


# --- exit codes and reasons ---------------------------------------------------------------------------


def test_code_0_is_clean(home: Place, session: Session) -> None:
    assert home.run("run", "--", "true").returncode == 0
    assert session.exit_reason == "clean"


def test_any_other_code_is_the_commands_and_a_crash(home: Place, session: Session) -> None:
    assert home.run("run", "--", "sh", "-c", "exit 3").returncode == 3
    assert session.exit_reason == "crash"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGINT, "sigint"),
        (signal.SIGTERM, "sigterm"),
        (signal.SIGHUP, "sighup"),
        (signal.SIGKILL, "crash"),
        (signal.SIGABRT, "crash"),
        (signal.SIGUSR1, "crash"),
    ],
)
def test_a_command_that_a_signal_ends_gives_128_and_its_number(
    home: Place, session: Session, number: signal.Signals, reason: str
) -> None:
    assert home.run("run", "--", "sh", "-c", f"ulimit -c 0; kill -{int(number)} $$").returncode == 128 + number
    assert session.exit_reason == reason


# Says "ready", and with which signal it was ended; the code is 5.
PATIENT = """
import os, signal, sys, time
def ended(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")  # it may come amid a print
    sys.exit(5)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, ended)
print("ready", flush=True)
while True:
    time.sleep(0.05)  # short: a signal between the check for it and the sleep would be handled after it
"""


def start_patient(place: Place, code: str = PATIENT, **environ: str) -> subprocess.Popen[str]:
    running = subprocess.Popen(
        [*RUN, "--", PYTHON, "-c", code], env={**place.environ, **environ}, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    return running


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "sigint"), (signal.SIGTERM, "sigterm"), (signal.SIGHUP, "sighup")]
)
def test_a_signal_to_run_is_passed_on_and_named(
    home: Place, session: Session, number: signal.Signals, reason: str
) -> None:
    running = start_patient(home)
    running.send_signal(number)
    assert running.communicate(timeout=PATIENCE_S)[0] == f"{number.name}\n"
    assert running.returncode == 5
    assert session.exit_reason == reason


def test_a_command_that_takes_a_signal_and_ends_with_0_was_ended_by_the_signal(home: Place, session: Session) -> None:
    running = start_patient(home, PATIENT.replace("sys.exit(5)", "sys.exit(0)"))
    running.terminate()
    running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0
    assert session.exit_reason == "sigterm"


class Terminal:
    """With ``run`` as the leader of its session, and in its foreground."""

    def __init__(self, place: Place, code: str) -> None:
        self._keyboard, tty = pty.openpty()
        command = [PYTHON, "-c", _LEAD, *RUN, "--", PYTHON, "-c", code]
        self._running = subprocess.Popen(command, env=place.environ, stdin=tty, stdout=tty, stderr=tty)
        os.close(tty)
        said = b""
        while b"ready\r\n" not in said:
            said += os.read(self._keyboard, 4096)

    def press(self, key: bytes) -> None:
        os.write(self._keyboard, key)

    def close(self) -> None:
        os.close(self._keyboard)

    def code(self) -> int:
        return self._running.wait(PATIENCE_S)


_LEAD = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

# Ends with how many signals of that kind it got, once it got one and there was time for another.
COUNTING = """
import signal, sys, time
got = []
signal.signal(signal.{name}, lambda number, frame: got.append(number))
print("ready", flush=True)
while not got:
    time.sleep(0.05)
time.sleep(0.5)
sys.exit(40 + len(got))
"""


def test_a_key_that_interrupts_reaches_the_command_once(home: Place, session: Session) -> None:
    terminal = Terminal(home, COUNTING.format(name="SIGINT"))
    terminal.press(b"\x03")
    assert terminal.code() == 41
    assert session.exit_reason == "sigint"
    terminal.close()


def test_a_terminal_that_is_closed_reaches_the_command_once(home: Place, session: Session) -> None:
    terminal = Terminal(home, COUNTING.format(name="SIGHUP"))
    terminal.close()
    assert terminal.code() == 41
    assert session.exit_reason == "sighup"


def test_other_signals_are_passed_on_and_name_nothing(home: Place, session: Session) -> None:
    running = start_patient(home)
    running.send_signal(signal.SIGUSR1)
    assert running.communicate(timeout=PATIENCE_S)[0] == "SIGUSR1\n"
    assert session.exit_reason == "crash"


def test_run_killed_is_a_crash(home: Place, session: Session) -> None:
    stays = "import os, sys, time\nprint('ready', flush=True)\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    running = start_patient(home, stays)
    assert running.stdout is not None
    command = int(running.stdout.readline())
    running.kill()
    running.wait(PATIENCE_S)
    assert session.exit_reason == "crash"
    os.kill(command, signal.SIGKILL)
    running.stdout.close()


def test_a_command_that_is_not_found_is_127(home: Place, session: Session) -> None:
    ran = home.run("run", "--", "no-such-command-anywhere")
    assert ran.returncode == 127
    assert len(ran.stderr.splitlines()) == 1
    assert "no-such-command-anywhere" in ran.stderr
    assert session.exit_reason == "crash"


def test_a_command_that_is_not_executable_is_126(home: Place, session: Session) -> None:
    path = os.path.join(home.root, "plain-file")
    with open(path, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\n")
    assert home.run("run", "--", path).returncode == 126
    assert session.exit_reason == "crash"


# --- transparent --------------------------------------------------------------------------------------


def test_stdin_stdout_and_stderr_are_the_commands(home: Place) -> None:
    ran = subprocess.run(
        [*RUN, "--", "sh", "-c", "cat; echo words >&2"],
        env=home.environ, input=b"in\0and out", capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == (b"in\0and out", b"words\n")


def test_no_descriptor_of_ours_is_handed_down(home: Place) -> None:
    ran = home.run("run", "--", PYTHON, "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])")
    assert ran.stdout == "[0, 1, 2]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_command_has_the_signal_settings_that_run_was_given(home: Place) -> None:
    """Also SIGPIPE's, which Python changes for itself. Those from 32 on are the C library's own."""
    show = "grep -E '^Sig(Blk|Ign)' /proc/self/status"
    direct = subprocess.run(["sh", "-c", show], capture_output=True, text=True, check=True)
    without_us = home.run("run", "--", "sh", "-c", show, CI="1")
    with_us = home.run("run", "--", "sh", "-c", show)
    assert _masks(with_us.stdout) == _masks(without_us.stdout) == _masks(direct.stdout)


def _masks(status: str) -> dict[str, int]:
    lines = (line.split() for line in status.splitlines())
    return {name: int(mask, 16) & 0x7FFFFFFF for name, mask in lines}


def test_the_command_has_session_and_socket_in_its_environment(home: Place) -> None:
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    environ = json.loads(home.run("run", "--", PYTHON, "-c", show, MINE="kept").stdout)
    assert environ["BRAKIT_SIDECAR_SOCKET"] == home.socket_path
    assert len(environ["BRAKIT_SESSION_ID"]) == 36
    assert environ["MINE"] == "kept"
    assert set(environ) - {*home.environ, "MINE", "LC_CTYPE"} == {"BRAKIT_SESSION_ID", "BRAKIT_SIDECAR_SOCKET"}


def test_the_workers_of_the_command_are_its_session(home: Place, session: Session) -> None:
    worker = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 4)"
    home.run("run", "--", "sh", "-c", f'"{PYTHON}" -c "{worker}" & "{PYTHON}" -c "{worker}"; wait')
    assert session.properties["request_count"] == 8


def test_run_in_run_is_a_session_of_its_own(home: Place, remote: Endpoint) -> None:
    already = len(remote.bodies_of("session"))
    home.run("run", "--", *RUN, "--", "true")
    remote.wait_for("session", already + 2)


# --- the command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("--", "echo", "-n", "x"), ("echo", "-n", "x")])
def test_the_dashes_may_be_left_out(home: Place, command: tuple[str, ...]) -> None:
    assert home.run("run", *command).stdout == "x"


def test_only_the_first_dashes_are_ours(home: Place) -> None:
    assert home.run("run", "--", "echo", "--", "x", "--help", "--json").stdout == "-- x --help --json\n"
    assert home.run("run", "echo", "--", "x", "--help").stdout == "-- x --help\n"


@pytest.mark.parametrize("nothing", [(), ("--",)])
def test_no_command_is_a_wrong_command_line(home: Place, nothing: tuple[str, ...]) -> None:
    ran = home.run("run", *nothing)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1


# --- as if we were not there --------------------------------------------------------------------------

SHOW = "import os; print(os.environ.get('BRAKIT_SESSION_ID')); raise SystemExit(7)"


def assert_runs_without_us(place: Place, **environ: str) -> None:
    ran = place.run("run", "--", PYTHON, "-c", SHOW, **environ)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "None\n", "")


@pytest.mark.parametrize(
    "off", [{"BRAKIT_TELEMETRY": "off"}, {"DO_NOT_TRACK": "1"}, {"CI": "1"}, {"NODE_ENV": "production"}]
)
def test_where_telemetry_is_off_the_command_just_runs(off: dict[str, str]) -> None:
    with Place() as place:
        assert_runs_without_us(place, **off)
        assert os.listdir(place.runtime) == []
        assert place.status()["running"] is False


def test_dormant_leaves_no_file() -> None:
    with Place() as place:
        assert_runs_without_us(place, CI="1")
        assert os.listdir(place.home) == []
        assert os.listdir(place.runtime) == []


def test_where_the_runtime_directory_cannot_be_made_the_command_just_runs() -> None:
    with Place() as place:
        with open(os.path.join(place.runtime, "brakit"), "w", encoding="utf-8"):
            pass
        assert_runs_without_us(place)


def test_where_the_config_cannot_be_made_the_command_just_runs() -> None:
    with Place() as place:
        with open(os.path.join(place.home, ".brakit"), "w", encoding="utf-8"):
            pass
        assert_runs_without_us(place)


def test_without_us_not_found_and_not_executable_are_the_same() -> None:
    with Place(CI="1") as place:
        assert place.run("run", "--", "no-such-command-anywhere").returncode == 127
        assert place.run("run", "--", place.root).returncode == 126


def test_without_us_the_command_takes_its_signals_itself() -> None:
    with Place(CI="1") as place:
        running = start_patient(place)
        running.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=PATIENCE_S)[0] == "SIGTERM\n"
        assert running.returncode == 5


def test_a_daemon_that_vanishes_meanwhile_does_not_matter() -> None:
    with Place() as place:
        served = place.serve()
        running = start_patient(place)
        end_process(served, signal.SIGKILL)
        running.terminate()
        running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 5


@contextmanager
def sooner_than_a_start_is_waited_for() -> Iterator[None]:
    began_at = time.monotonic()
    yield
    assert time.monotonic() - began_at < launch.START_TIMEOUT_S


@pytest.mark.slow
def test_a_daemon_that_cannot_come_back_does_not_keep_the_prompt() -> None:
    with Place() as place:
        served = place.serve()
        running = start_patient(place)
        end_process(served, signal.SIGKILL)
        lock = launch.acquire_lock(place.socket_path)  # so that no other can start
        assert lock is not None
        with sooner_than_a_start_is_waited_for():
            running.terminate()
            running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 5
        os.close(lock)


@pytest.mark.slow
def test_a_daemon_that_is_stopped_keeps_neither_the_command_nor_the_prompt() -> None:
    with Place() as place, suspended(place.serve().pid), sooner_than_a_start_is_waited_for():
        assert place.run("run", "--", "true").returncode == 0


# --- and with us --------------------------------------------------------------------------------------


def test_run_starts_the_daemon_and_never_waits_for_the_network(endpoint: Endpoint) -> None:
    endpoint.may_answer.clear()
    with Place(endpoint.url) as place:
        ran = place.run("run", "--", "true")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        endpoint.wait_for("session")
        assert place.receipts() == []  # the endpoint has not answered yet, and run is long gone


def test_run_sends_no_event_of_its_own(endpoint: Endpoint, place: Place) -> None:
    place.run("run", "--", "true")
    endpoint.wait_for("session")
    place.run("stop")
    assert [body["event"] for body in endpoint.bodies] == ["session"]


def test_the_first_session_is_the_first_once(endpoint: Endpoint, place: Place) -> None:
    for count in (1, 2):
        place.run("run", "--", "true")
        endpoint.wait_for("session", count)
    assert [body["properties"]["first_session"] for body in endpoint.bodies_of("session")] == [True, False]


def test_two_runs_at_once_are_two_sessions_of_one_daemon(endpoint: Endpoint, place: Place) -> None:
    worker = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', {})"
    commands = [[*RUN, "--", PYTHON, "-c", worker.format(count)] for count in (3, 5)]
    running = [subprocess.Popen(command, env=place.environ) for command in commands]
    assert [process.wait(PATIENCE_S) for process in running] == [0, 0]
    counts = {body["properties"]["request_count"] for body in endpoint.wait_for("session", 2)}
    assert counts == {3, 5}


def test_a_run_whose_daemon_is_killed_and_comes_again_ends_with_its_word(endpoint: Endpoint, place: Place) -> None:
    """The next daemon knows nothing of the session; what matters is that the command's end stays the command's."""
    served = place.serve()
    running = start_patient(place)
    end_process(served, signal.SIGKILL)
    place.start()
    wait_until(place.accepts)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=PATIENCE_S)[0] == "SIGINT\n"
    assert running.returncode == 5
