"""The command ``run``: the user's command runs undisturbed, and its end is the session's exit reason."""

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

from tests.harness import JOIN_THEN, PATIENCE_S, Endpoint, Place, end_process, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = (sys.executable, "-m", "brakit_sidecar", "run")
PYTHON = sys.executable
JOIN = "import brakit_sidecar; brakit_sidecar.connect()\n"


@pytest.fixture
def session(remote: Endpoint) -> Session:
    return Session(remote)


class Session:
    """The only session that a test opens, as its event arrived at the endpoint."""

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


def test_the_exit_reason_of_exit_code_0_is_clean(home: Place, session: Session) -> None:
    assert home.run("run", "--", *JOIN_THEN, "true").returncode == 0
    assert session.exit_reason == "clean"


def test_the_exit_reason_of_any_other_exit_code_is_crash(home: Place, session: Session) -> None:
    assert home.run("run", "--", *JOIN_THEN, "sh", "-c", "exit 3").returncode == 3
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
def test_the_exit_code_of_a_command_that_a_signal_ended_is_128_plus_its_number(
    home: Place, session: Session, number: signal.Signals, reason: str
) -> None:
    killed = home.run("run", "--", *JOIN_THEN, "sh", "-c", f"ulimit -c 0; kill -{int(number)} $$")
    assert killed.returncode == 128 + number
    assert session.exit_reason == reason


# Prints "ready", waits for a signal, prints the name of the signal, and exits with 5.
WAIT_FOR_SIGNAL = """
import os, signal, sys, time
def ended(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")  # print() is not reentrant
    sys.exit(5)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, ended)
print("ready", flush=True)
while True:
    time.sleep(0.05)  # short, because a signal right before the sleep is handled only after it
"""


def start_run(place: Place, code: str = WAIT_FOR_SIGNAL, **environ: str) -> subprocess.Popen[str]:
    """Start ``run`` with a Python program, and wait until the program has printed "ready"."""
    running = subprocess.Popen(
        [*RUN, "--", PYTHON, "-c", JOIN + code], env={**place.environ, **environ}, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    return running


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "sigint"), (signal.SIGTERM, "sigterm"), (signal.SIGHUP, "sighup")]
)
def test_a_signal_to_run_is_forwarded_and_is_the_exit_reason(
    home: Place, session: Session, number: signal.Signals, reason: str
) -> None:
    running = start_run(home)
    running.send_signal(number)
    assert running.communicate(timeout=PATIENCE_S)[0] == f"{number.name}\n"
    assert running.returncode == 5
    assert session.exit_reason == reason


def test_the_signal_is_the_exit_reason_even_if_the_command_exits_with_0(home: Place, session: Session) -> None:
    running = start_run(home, WAIT_FOR_SIGNAL.replace("sys.exit(5)", "sys.exit(0)"))
    running.terminate()
    running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0
    assert session.exit_reason == "sigterm"


class Terminal:
    """A terminal with ``run`` in its foreground. The process of ``run`` is the leader of the terminal's session."""

    def __init__(self, place: Place, code: str) -> None:
        self._keyboard, tty = pty.openpty()
        command = [PYTHON, "-c", _TAKE_TERMINAL, *RUN, "--", PYTHON, "-c", JOIN + code]
        self._running = subprocess.Popen(command, env=place.environ, stdin=tty, stdout=tty, stderr=tty)
        os.close(tty)
        output = b""
        while b"ready\r\n" not in output:
            output += os.read(self._keyboard, 4096)

    def press(self, key: bytes) -> None:
        os.write(self._keyboard, key)

    def close(self) -> None:
        os.close(self._keyboard)

    def code(self) -> int:
        return self._running.wait(PATIENCE_S)


_TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

# Counts the signals of one kind for half a second after the first one, and exits with 40 plus their number.
COUNT_SIGNALS = """
import signal, sys, time
got = []
signal.signal(signal.{name}, lambda number, frame: got.append(number))
print("ready", flush=True)
while not got:
    time.sleep(0.05)
time.sleep(0.5)
sys.exit(40 + len(got))
"""


def test_the_interrupt_key_signals_the_command_once(home: Place, session: Session) -> None:
    terminal = Terminal(home, COUNT_SIGNALS.format(name="SIGINT"))
    terminal.press(b"\x03")
    assert terminal.code() == 41
    assert session.exit_reason == "sigint"
    terminal.close()


def test_closing_the_terminal_signals_the_command_once(home: Place, session: Session) -> None:
    terminal = Terminal(home, COUNT_SIGNALS.format(name="SIGHUP"))
    terminal.close()
    assert terminal.code() == 41
    assert session.exit_reason == "sighup"


def test_other_signals_are_forwarded_and_are_not_exit_reasons(home: Place, session: Session) -> None:
    running = start_run(home)
    running.send_signal(signal.SIGUSR1)
    assert running.communicate(timeout=PATIENCE_S)[0] == "SIGUSR1\n"
    assert session.exit_reason == "crash"


def test_the_exit_reason_of_a_killed_run_is_crash(home: Place, session: Session) -> None:
    code = "import os, sys, time\nprint('ready', flush=True)\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    running = start_run(home, code)
    assert running.stdout is not None
    command = int(running.stdout.readline())
    running.kill()
    running.wait(PATIENCE_S)
    assert session.exit_reason == "crash"
    os.kill(command, signal.SIGKILL)
    running.stdout.close()


def assert_last_session_crashed(place: Place) -> None:
    """Assert the exit reason of a session that no worker joined, which is in its receipt alone."""
    receipt = place.receipts()[-1]
    assert (receipt["event"], receipt["outcome"], receipt["reason"]) == ("session", "dropped", "nobody_joined")
    assert json.loads(receipt["body"])["properties"]["exit_reason"] == "crash"


def test_the_exit_code_of_a_command_that_is_not_found_is_127(home: Place) -> None:
    ran = home.run("run", "--", "no-such-command-anywhere")
    assert ran.returncode == 127
    assert len(ran.stderr.splitlines()) == 1
    assert "no-such-command-anywhere" in ran.stderr
    assert_last_session_crashed(home)


def test_the_exit_code_of_a_command_that_is_not_executable_is_126(home: Place) -> None:
    path = os.path.join(home.root, "plain-file")
    with open(path, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\n")
    assert home.run("run", "--", path).returncode == 126
    assert_last_session_crashed(home)


# --- the command's surroundings -----------------------------------------------------------------------


def test_the_command_has_the_stdin_stdout_and_stderr_of_run(home: Place) -> None:
    ran = subprocess.run(
        [*RUN, "--", "sh", "-c", "cat; echo words >&2"],
        env=home.environ, input=b"in\0and out", capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == (b"in\0and out", b"words\n")


def test_the_command_inherits_no_descriptor_of_the_sidecar(home: Place) -> None:
    ran = home.run("run", "--", PYTHON, "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])")
    assert ran.stdout == "[0, 1, 2]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_command_inherits_the_signal_settings_of_run(home: Place) -> None:
    """This includes SIGPIPE, whose setting Python changes for itself. Signals above 31 belong to the C library."""
    show = "grep -E '^Sig(Blk|Ign)' /proc/self/status"
    direct = subprocess.run(["sh", "-c", show], capture_output=True, text=True, check=True)
    with_telemetry_off = home.run("run", "--", "sh", "-c", show, CI="1")
    with_telemetry_on = home.run("run", "--", "sh", "-c", show)
    assert _masks(with_telemetry_on.stdout) == _masks(with_telemetry_off.stdout) == _masks(direct.stdout)


def _masks(status: str) -> dict[str, int]:
    lines = (line.split() for line in status.splitlines())
    return {name: int(mask, 16) & 0x7FFFFFFF for name, mask in lines}


def test_the_command_has_session_and_socket_in_its_environment(home: Place) -> None:
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    environ = json.loads(home.run("run", "--", PYTHON, "-c", show, MINE="kept").stdout)
    assert environ["BRAKIT_SIDECAR_SOCKET"] == home.socket_path
    assert len(environ["BRAKIT_SESSION_ID"]) == 36
    assert environ["MINE"] == "kept"
    added = {"BRAKIT_SESSION_ID", "BRAKIT_SIDECAR_SOCKET", "NODE_OPTIONS", "PYTHONPATH"}
    assert set(environ) - {*home.environ, "MINE", "LC_CTYPE"} == added


def test_the_workers_of_the_command_join_its_session(home: Place, session: Session) -> None:
    worker = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 4)"
    home.run("run", "--", "sh", "-c", f'"{PYTHON}" -c "{worker}" & "{PYTHON}" -c "{worker}"; wait')
    assert session.properties["request_count"] == 8


def test_a_run_inside_a_run_opens_its_own_session(home: Place, remote: Endpoint) -> None:
    already = len(remote.bodies_of("session"))
    home.run("run", "--", *JOIN_THEN, *RUN, "--", *JOIN_THEN, "true")
    remote.wait_for("session", already + 2)


# --- the command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("--", "echo", "-n", "x"), ("echo", "-n", "x")])
def test_the_dashes_may_be_left_out(home: Place, command: tuple[str, ...]) -> None:
    assert home.run("run", *command).stdout == "x"


def test_only_the_first_dashes_belong_to_run(home: Place) -> None:
    assert home.run("run", "--", "echo", "--", "x", "--help", "--json").stdout == "-- x --help --json\n"
    assert home.run("run", "echo", "--", "x", "--help").stdout == "-- x --help\n"


@pytest.mark.parametrize("nothing", [(), ("--",)])
def test_run_without_a_command_exits_with_2(home: Place, nothing: tuple[str, ...]) -> None:
    ran = home.run("run", *nothing)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1


# --- without telemetry --------------------------------------------------------------------------------

SHOW = "import os; print(os.environ.get('BRAKIT_SESSION_ID')); raise SystemExit(7)"


def assert_runs_without_session(place: Place, **environ: str) -> None:
    ran = place.run("run", "--", PYTHON, "-c", SHOW, **environ)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "None\n", "")


@pytest.mark.parametrize(
    "off", [{"BRAKIT_TELEMETRY": "off"}, {"DO_NOT_TRACK": "1"}, {"CI": "1"}, {"NODE_ENV": "production"}]
)
def test_the_command_runs_without_a_session_if_telemetry_is_off(off: dict[str, str]) -> None:
    with Place() as place:
        assert_runs_without_session(place, **off)
        assert os.listdir(place.runtime) == []
        assert place.status()["running"] is False


def test_run_creates_no_file_in_ci() -> None:
    with Place() as place:
        assert_runs_without_session(place, CI="1")
        assert os.listdir(place.home) == []
        assert os.listdir(place.runtime) == []


def test_the_command_runs_if_the_runtime_directory_cannot_be_created() -> None:
    with Place() as place:
        with open(os.path.join(place.runtime, "brakit"), "w", encoding="utf-8"):
            pass
        assert_runs_without_session(place)


def test_the_command_runs_if_the_config_cannot_be_created() -> None:
    with Place() as place:
        with open(os.path.join(place.home, ".brakit"), "w", encoding="utf-8"):
            pass
        assert_runs_without_session(place)


def test_a_command_that_cannot_be_started_has_the_same_exit_code_without_telemetry() -> None:
    with Place(CI="1") as place:
        assert place.run("run", "--", "no-such-command-anywhere").returncode == 127
        assert place.run("run", "--", place.root).returncode == 126


def test_the_command_receives_signals_directly_without_telemetry() -> None:
    with Place(CI="1") as place:
        running = start_run(place)
        running.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=PATIENCE_S)[0] == "SIGTERM\n"
        assert running.returncode == 5


def test_the_command_keeps_its_exit_code_if_the_daemon_is_killed() -> None:
    with Place() as place:
        served = place.serve()
        running = start_run(place)
        end_process(served, signal.SIGKILL)
        running.terminate()
        running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 5


@contextmanager
def shorter_than_the_start_timeout() -> Iterator[None]:
    """Assert that the block takes less time than ``run`` would wait for the start of a daemon."""
    began_at = time.monotonic()
    yield
    assert time.monotonic() - began_at < launch.START_TIMEOUT_S


@pytest.mark.slow
def test_run_returns_soon_after_the_command_if_no_daemon_can_be_started() -> None:
    with Place() as place:
        served = place.serve()
        running = start_run(place)
        end_process(served, signal.SIGKILL)
        lock = launch.acquire_lock(place.socket_path)  # no other daemon can start while the lock is held
        assert lock is not None
        with shorter_than_the_start_timeout():
            running.terminate()
            running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 5
        os.close(lock)


@pytest.mark.slow
def test_a_stopped_daemon_delays_neither_the_command_nor_the_return_of_run() -> None:
    with Place() as place, suspended(place.serve().pid), shorter_than_the_start_timeout():
        assert place.run("run", "--", "true").returncode == 0


# --- with telemetry -----------------------------------------------------------------------------------


def test_run_does_not_wait_for_the_network(endpoint: Endpoint) -> None:
    endpoint.may_answer.clear()
    with Place(endpoint.url) as place:
        ran = place.run("run", "--", *JOIN_THEN, "true")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        endpoint.wait_for("session")
        assert place.receipts() == []  # run has exited, although the endpoint has not answered yet


def test_run_sends_no_event_of_its_own(endpoint: Endpoint, place: Place) -> None:
    place.run("run", "--", *JOIN_THEN, "true")
    endpoint.wait_for("session")
    place.run("stop")
    assert [body["event"] for body in endpoint.bodies] == ["session"]


def test_a_session_that_nobody_joined_is_dropped_and_is_not_the_first_session(endpoint: Endpoint, place: Place) -> None:
    assert place.run("run", "--", "true").returncode == 0
    wait_until(place.receipts, "the receipt")
    ((event, outcome, reason),) = [(r["event"], r["outcome"], r["reason"]) for r in place.receipts()]
    assert (event, outcome, reason) == ("session", "dropped", "nobody_joined")
    place.run("run", "--", *JOIN_THEN, "true")
    (body,) = endpoint.wait_for("session")
    assert body["properties"]["first_session"] is True


def test_first_session_is_true_only_for_the_first_session(endpoint: Endpoint, place: Place) -> None:
    for count in (1, 2):
        place.run("run", "--", *JOIN_THEN, "true")
        endpoint.wait_for("session", count)
    assert [body["properties"]["first_session"] for body in endpoint.bodies_of("session")] == [True, False]


def test_two_runs_at_once_are_two_sessions_of_one_daemon(endpoint: Endpoint, place: Place) -> None:
    worker = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', {})"
    commands = [[*RUN, "--", PYTHON, "-c", worker.format(count)] for count in (3, 5)]
    running = [subprocess.Popen(command, env=place.environ) for command in commands]
    assert [process.wait(PATIENCE_S) for process in running] == [0, 0]
    counts = {body["properties"]["request_count"] for body in endpoint.wait_for("session", 2)}
    assert counts == {3, 5}


def test_the_command_keeps_its_exit_code_if_another_daemon_replaces_a_killed_one(
    endpoint: Endpoint, place: Place
) -> None:
    served = place.serve()
    running = start_run(place)
    end_process(served, signal.SIGKILL)
    place.start()
    wait_until(place.accepts)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=PATIENCE_S)[0] == "SIGINT\n"
    assert running.returncode == 5
