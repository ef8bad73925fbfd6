"""All commands except ``run``, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar import __version__

from tests.core import page
from tests.harness import PATIENCE_S, Endpoint, Place, Wire, end_process, join_once, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = [
    (), ("run",), ("start",), ("serve",), ("stop",), ("status",), ("session",), ("session", "start"),
    ("session", "end"), ("emit",), ("telemetry",), ("log",), ("schema",), ("demo",),
]  # fmt: skip
OFF = [{"BRAKIT_TELEMETRY": "false"}, {"DO_NOT_TRACK": "1"}, {"CI": "true"}]


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


# --- the command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_text(command: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "brakit_sidecar", *command, "--help"],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "usage: brakit-sidecar" in ran.stdout


@pytest.mark.parametrize("wrong", [(), ("dance",), ("status", "--loud"), ("session",), ("telemetry", "maybe")])
def test_a_wrong_command_line_exits_with_2(home: Place, wrong: tuple[str, ...]) -> None:
    ran = home.run(*wrong)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr


def test_version_prints_the_version_of_the_package(home: Place) -> None:
    assert home.run("--version").stdout == f"brakit-sidecar {__version__}\n"


# --- start, serve, stop -------------------------------------------------------------------------------


def test_start_prints_socket_pid_and_version(place: Place) -> None:
    started = place.start()
    assert started == {"socket": place.socket_path, "pid": started["pid"], "version": __version__}
    assert stat.S_ISSOCK(os.stat(place.socket_path).st_mode)
    os.kill(started["pid"], 0)
    assert place.start() == started  # the daemon is already running
    assert place.run("start").stdout == place.socket_path + "\n"


def test_only_the_user_may_read_the_files_of_the_daemon(place: Place) -> None:
    place.start()
    place.run("emit", "cli_invoked")
    wait_until(place.receipts, "a receipt")
    for directory, _directories, files in os.walk(place.root):
        if "brakit" in directory:
            assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700, directory
            for name in files:
                assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600, name


@pytest.mark.parametrize("off", OFF)
def test_start_starts_no_daemon_if_telemetry_is_off(off: dict[str, str]) -> None:
    with Place(**off) as place:
        started = place.run("start", "--json")
        assert started.returncode == 0
        assert place.status()["running"] is False
        assert os.listdir(place.runtime) == []


def test_stop_returns_after_the_daemon_has_exited(place: Place) -> None:
    place.start()
    assert place.run("stop").returncode == 0
    assert place.daemon_has_exited()
    assert place.status()["running"] is False


def test_stop_succeeds_if_no_daemon_runs() -> None:
    with Place() as place:
        stopped = place.run("stop")
        assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", "")


def test_stop_ends_every_session_and_sends_its_event(endpoint: Endpoint, place: Place) -> None:
    place.start()
    sessions = [place.run("session", "start").stdout.strip() for _ in range(2)]
    for session in sessions:
        join_once(place.socket_path, session)
    assert place.run("stop").returncode == 0
    expected = {str(uuid.uuid5(uuid.UUID(session), "session")) for session in sessions}
    assert {body["uuid"] for body in endpoint.bodies_of("session")} == expected


def test_serve_listens_at_the_socket_that_start_prints(place: Place) -> None:
    served = place.serve()
    started = place.start()
    assert (started["socket"], started["pid"]) == (place.socket_path, served.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serve_ends_its_sessions_and_exits_at_a_signal(endpoint: Endpoint, place: Place, number: int) -> None:
    served = place.serve()
    session = place.run("session", "start").stdout.strip()
    join_once(place.socket_path, session)
    assert end_process(served, number) == 0
    assert place.daemon_has_exited()
    (body,) = endpoint.bodies_of("session")
    assert body["uuid"] == str(uuid.uuid5(uuid.UUID(session), "session"))


# A sitecustomize module that writes the time of the first import of aiohttp to a file.
RECORD_IMPORT_TIME = """
import os, sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp":
            with open(os.path.join(os.path.dirname(__file__), "loaded-at"), "w") as file:
                file.write(str(time.time()))
sys.meta_path.insert(0, Finder())
"""


def test_aiohttp_is_loaded_while_the_daemon_waits_for_goodbyes(place: Place) -> None:
    """Loading it only afterwards would leave less time for the request before the daemon must exit."""
    with open(os.path.join(place.root, "sitecustomize.py"), "w", encoding="ascii") as file:
        file.write(RECORD_IMPORT_TIME)
    place.environ["PYTHONPATH"] = place.root
    served = place.serve()
    with Wire(place.socket_path).hello(new_id()) as wire:
        wire.sync()
        end_process(served)
    (receipt,) = place.receipts()
    sealed_at = datetime.fromisoformat(json.loads(receipt["body"])["timestamp"].replace("Z", "+00:00"))
    with open(os.path.join(place.root, "loaded-at"), encoding="ascii") as file:
        assert float(file.read()) < sealed_at.timestamp()


def test_serve_fails_with_one_line_if_a_daemon_is_running(home: Place) -> None:
    ran = home.run("serve")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "already running" in one_line(ran.stderr)


@pytest.mark.slow
def test_a_daemon_that_a_command_started_exits_by_itself(endpoint: Endpoint, place: Place) -> None:
    place.start()
    session = place.run("session", "start").stdout.strip()
    join_once(place.socket_path, session)
    place.run("session", "end", session)
    endpoint.wait_for("session")
    wait_until(place.daemon_has_exited, "the daemon's end")
    assert os.listdir(os.path.dirname(place.socket_path)) == ["sidecar-1.lock"]


# --- status -------------------------------------------------------------------------------------------


def test_status_exits_with_1_if_no_daemon_runs() -> None:
    with Place() as place:
        ran = place.run("status", "--json")
        assert ran.returncode == 1
        found = json.loads(ran.stdout)
        assert found == {"running": False, "consent": {"on": True, "why": found["consent"]["why"]}}
        assert found["consent"]["why"]
        in_words = place.run("status")
        assert in_words.returncode == 1
        assert in_words.stdout.startswith("no daemon is running; telemetry is on: ")


def test_status_shows_the_daemon_and_each_session(home: Place) -> None:
    session = new_id()
    with Wire(home.socket_path).hello(session) as worker:
        worker.send(incr={"request_count": 3, "nonsense": 1}).sync()
        ran = home.run("status", "--json")
        in_words = home.run("status")
    assert (ran.returncode, in_words.returncode) == (0, 0)
    found = json.loads(ran.stdout)
    assert found.keys() == {
        "running", "version", "protocol", "pid", "socket", "uptime_s", "sessions", "refused", "delivery", "consent",
        "destination",
    }  # fmt: skip
    assert (found["running"], found["version"], found["protocol"]) == (True, __version__, 1)
    assert found["socket"] == home.socket_path
    assert found["refused"]["unknown_field"] >= 1
    assert found["delivery"].keys() == {"sent", "local", "queued", "dropped"}
    assert found["consent"]["on"] is True
    (shown,) = [shown for shown in found["sessions"] if shown["id"] == session]
    assert shown.keys() == {"id", "age_s", "producers", "fields"}
    assert shown["producers"] == {"live": 1, "gone": 0}
    assert page.broken_promises("session", shown["fields"]) == {}
    assert shown["fields"]["request_count"] == 3
    assert f"brakit-sidecar {__version__} is running (pid {found['pid']}, up " in in_words.stdout
    assert f"session {session} (open for " in in_words.stdout
    assert "  1 worker connected, 0 exited" in in_words.stdout


# --- sessions for a CLI that is not the parent of the application -------------------------------------


def test_a_session_is_open_from_session_start_to_session_end(home: Place, remote: Endpoint) -> None:
    started = json.loads(home.run("session", "start", "--json").stdout)
    assert started == {"session": started["session"], "socket": home.socket_path}
    home.run_python(
        "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 2)",
        BRAKIT_SESSION_ID=started["session"], BRAKIT_SIDECAR_SOCKET=started["socket"],
    )  # fmt: skip
    assert home.run("session", "end", started["session"], "--reason", "sigterm").returncode == 0
    properties = remote.session_of(started["session"])
    assert (properties["request_count"], properties["exit_reason"]) == (2, "sigterm")


def test_the_default_reason_of_session_end_is_clean(home: Place, remote: Endpoint) -> None:
    session = one_line(home.run("session", "start").stdout)
    join_once(home.socket_path, session)
    assert home.run("session", "end", session).returncode == 0
    assert remote.session_of(session)["exit_reason"] == "clean"


def test_a_session_stays_open_after_session_start_has_exited(home: Place) -> None:
    session = one_line(home.run("session", "start").stdout)
    assert session in [shown["id"] for shown in home.status()["sessions"]]
    home.run("session", "end", session)


def test_the_death_of_the_owner_pid_ends_the_session(home: Place, remote: Endpoint) -> None:
    owner = subprocess.Popen(["sleep", "600"])
    session = one_line(home.run("session", "start", "--owner-pid", str(owner.pid)).stdout)
    assert session in [shown["id"] for shown in home.status()["sessions"]]
    join_once(home.socket_path, session)
    end_process(owner, signal.SIGKILL)
    assert remote.session_of(session)["exit_reason"] == "crash"


def dead_process() -> str:
    process = subprocess.Popen(["true"])
    process.wait(PATIENCE_S)
    return str(process.pid)


@pytest.mark.parametrize("pid", ["0", "-1", "1", "1099511627776", dead_process])
def test_session_start_fails_and_opens_no_session_if_the_owner_pid_cannot_own_one(
    home: Place, pid: str | Callable[[], str]
) -> None:
    pid = pid if isinstance(pid, str) else pid()
    before = [shown["id"] for shown in home.status()["sessions"]]
    ran = home.run("session", "start", f"--owner-pid={pid}")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"process {pid} cannot own the session, because " in one_line(ran.stderr)
    assert "give the pid of the CLI" in ran.stderr
    assert [shown["id"] for shown in home.status()["sessions"]] == before


def test_the_daemon_cannot_own_a_session(home: Place) -> None:
    ran = home.run("session", "start", f"--owner-pid={home.status()['pid']}")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "it is the daemon itself" in one_line(ran.stderr)


def test_session_end_fails_with_one_line_if_the_session_is_not_open(home: Place) -> None:
    session = new_id()
    ran = home.run("session", "end", session)
    assert ran.returncode == 1
    assert f"session {session} is not open" in one_line(ran.stderr)


def test_session_end_fails_and_starts_no_daemon_if_none_runs() -> None:
    with Place() as place:
        assert place.run("session", "end", new_id()).returncode == 1
        assert place.status()["running"] is False


@pytest.mark.parametrize("wrong", [("not-an-id",), (new_id(), "--reason", "boredom")])
def test_session_end_exits_with_2_if_the_id_or_the_reason_is_wrong(home: Place, wrong: tuple[str, ...]) -> None:
    ran = home.run("session", "end", *wrong)
    assert ran.returncode == 2
    one_line(ran.stderr)


@pytest.mark.parametrize("off", OFF)
def test_session_start_opens_no_session_if_telemetry_is_off(off: dict[str, str]) -> None:
    with Place(**off) as place:
        ran = place.run("session", "start", "--json")
        assert (ran.returncode, json.loads(ran.stdout)) == (0, {"session": None, "socket": None})
        assert os.listdir(place.runtime) == []


# --- emit ---------------------------------------------------------------------------------------------


def emitted(remote: Endpoint, already: int, name: str = "cli_invoked") -> dict[str, Any]:
    properties: dict[str, Any] = remote.wait_for(name, already + 1)[already]["properties"]
    return properties


def test_emit_reads_values_as_json_and_otherwise_as_text(home: Place, remote: Endpoint) -> None:
    already = len(remote.bodies_of("cli_invoked"))
    ran = home.run("emit", "cli_invoked", "command=install", "has_package_json=true", 'brakit_version="0.10.2"')
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    properties = emitted(remote, already)
    assert (properties["command"], properties["has_package_json"]) == ("install", True)
    assert (properties["brakit_version"], properties["cwd_has_node_modules"]) == ("0.10.2", False)


def test_emit_accepts_the_common_properties(home: Place, remote: Endpoint) -> None:
    already = len(remote.bodies_of("cli_uninstall"))
    common = {"sdk": "node", "brakit_version": "0.10.2", "node_version": "v20.11.0", "python_version": "3.12.1"}
    assert home.run("emit", "cli_uninstall", *(f"{name}={value}" for name, value in common.items())).returncode == 0
    properties = emitted(remote, already, "cli_uninstall")
    assert {name: properties[name] for name in common} == common


def test_emit_starts_a_daemon_if_none_runs(endpoint: Endpoint, place: Place) -> None:
    assert place.run("emit", "cli_invoked").returncode == 0
    endpoint.wait_for("cli_invoked")


def test_emit_in_a_session_adds_to_the_session(home: Place, remote: Endpoint) -> None:
    session = one_line(home.run("session", "start").stdout)
    for _ in range(2):
        assert home.run("emit", "first_request", "port=8000", BRAKIT_SESSION_ID=session).returncode == 0
    join_once(home.socket_path, session)
    home.run("session", "end", session)
    assert remote.session_of(session)["time_to_first_request_ms"] is not None
    expected = str(uuid.uuid5(uuid.UUID(session), "first_request"))
    assert [body["uuid"] for body in remote.bodies_of("first_request")].count(expected) == 1


def test_emit_fails_if_its_session_is_over(home: Place, remote: Endpoint) -> None:
    session = one_line(home.run("session", "start").stdout)
    join_once(home.socket_path, session)
    home.run("session", "end", session)
    remote.session_of(session)
    ran = home.run("emit", "cli_invoked", BRAKIT_SESSION_ID=session)
    assert ran.returncode == 1
    one_line(ran.stderr)


@pytest.mark.parametrize(
    "wrong",
    [
        ("dance",),
        ("session",),
        ("cli_invoked", "colour=blue"),
        ("cli_invoked", "has_package_json=perhaps"),
        ("cli_invoked", "has_package_json=1"),
        ("cli_invoked", "command=7"),
        ("cli_invoked", "os=linux"),
        ("first_request", "port=65536"),
        ("cli_invoked", "command"),
        ("cli_invoked", "=install"),
    ],
    ids=" ".join,
)
def test_emit_of_an_unknown_event_or_field_exits_with_2_and_sends_nothing(wrong: tuple[str, ...]) -> None:
    with Place() as place:
        ran = place.run("emit", *wrong)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert one_line(ran.stderr).startswith("brakit-sidecar: ")
        assert os.listdir(place.runtime) == []  # no daemon was started


@pytest.mark.parametrize("off", OFF)
def test_emit_succeeds_and_does_nothing_if_telemetry_is_off(off: dict[str, str]) -> None:
    with Place(**off) as place:
        ran = place.run("emit", "cli_invoked", "command=install")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert os.listdir(place.runtime) == []
        assert place.receipts() == []


# --- telemetry ----------------------------------------------------------------------------------------


def test_telemetry_shows_the_decision_and_every_source() -> None:
    with Place() as place:
        for arguments in ((), ("status",)):
            shown = place.run("telemetry", *arguments)
            assert shown.returncode == 0
            assert "telemetry is on" in shown.stdout
            for source in ("DO_NOT_TRACK", "BRAKIT_TELEMETRY", place.config_path):
                assert source in shown.stdout
        assert "telemetry is off here: DO_NOT_TRACK" in place.run("telemetry", DO_NOT_TRACK="1").stdout
        assert "GITLAB_CI" in place.run("telemetry", GITLAB_CI="1").stdout


def test_telemetry_off_and_on_change_the_config() -> None:
    with Place() as place:
        switched = place.run("telemetry", "off")
        assert switched.returncode == 0
        assert "telemetry is off: " in switched.stdout
        assert place.config["telemetry"] is False
        assert "telemetry is on" in place.run("telemetry", "on").stdout
        assert place.config["telemetry"] is True


def test_telemetry_off_takes_effect_in_a_running_daemon(endpoint: Endpoint, place: Place) -> None:
    served = place.serve()
    session = new_id()
    with Wire(place.socket_path).hello(session) as worker:
        worker.send(incr={"request_count": 1}).sync()
        place.run("telemetry", "off")
        assert place.status()["consent"]["on"] is False
        worker.send(event={"name": "first_request", "port": 80}).sync()
        assert end_process(served) == 0
    assert endpoint.requests == []
    assert place.receipts() == []


def test_telemetry_off_fails_with_one_line_if_the_config_cannot_be_written() -> None:
    with Place() as place:
        with open(os.path.join(place.home, ".brakit"), "w", encoding="utf-8"):
            pass
        ran = place.run("telemetry", "off")
        assert ran.returncode == 1
        assert ".brakit" in one_line(ran.stderr)


# --- log ----------------------------------------------------------------------------------------------


def test_log_prints_every_receipt_the_oldest_first(endpoint: Endpoint, place: Place) -> None:
    place.start()
    for command in ("install", "uninstall", "mcp"):
        place.run("emit", "cli_invoked", f"command={command}")
        wait_until(lambda: f'"{command}"' in place.run("log").stdout, "its receipt")  # noqa: B023 (called at once)
    for receipt, (_path, _headers, body) in zip(place.receipts(), endpoint.requests, strict=True):
        assert receipt.keys() == {"at", "event", "uuid", "outcome", "reason", "destination", "body"}
        assert receipt["body"].encode() == body
        assert receipt["uuid"] == json.loads(body)["uuid"]
    in_words = place.run("log").stdout
    assert in_words.index('"install"') < in_words.index('"uninstall"') < in_words.index('"mcp"')


def test_log_prints_nothing_before_the_first_event() -> None:
    with Place() as place:
        for arguments in (("log",), ("log", "--json")):
            ran = place.run(*arguments)
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_log_exits_without_an_error_if_its_reader_closes_the_pipe(place: Place) -> None:
    place.start()
    place.run("emit", "cli_invoked")
    wait_until(place.receipts, "a receipt")
    ran = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m brakit_sidecar log | true'],
        env=place.environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert ran.stderr == ""


def test_log_follow_prints_new_receipts_until_it_is_interrupted(place: Place) -> None:
    place.start()
    place.run("emit", "cli_invoked", "command=install")
    wait_until(place.receipts, "a receipt")
    command = [sys.executable, "-m", "brakit_sidecar", "log", "--json", "--follow"]
    with subprocess.Popen(command, env=place.environ, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        place.run("emit", "cli_invoked", "command=mcp")
        second = json.loads(following.stdout.readline())
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE_S) == 130
    commands = [json.loads(receipt["body"])["properties"]["command"] for receipt in (first, second)]
    assert commands == ["install", "mcp"]


# --- schema -------------------------------------------------------------------------------------------


def test_schema_prints_the_events_and_fields_of_the_page(home: Place) -> None:
    plain, as_json = home.run("schema"), home.run("schema", "--json")
    assert plain.stdout == as_json.stdout
    shown = json.loads(as_json.stdout)
    assert shown.keys() == {"events", "fixed"}
    assert shown["fixed"] == page.FIXED
    assert {name: set(event["fields"]) for name, event in shown["events"].items()} == {
        name: set(fields) for name, fields in page.EVENTS.items()
    }
    for event in shown["events"].values():
        assert event["purpose"]
        for field in event["fields"].values():
            assert field.keys() == {"domain", "rule", "purpose"}
            assert all(field.values())


def test_schema_as_markdown_has_a_row_for_every_field(home: Place) -> None:
    tables = home.run("schema", "--markdown").stdout
    for fields in page.EVENTS.values():
        for name in fields:
            assert f"| `{name}` |" in tables


def test_schema_works_without_a_daemon_and_without_consent() -> None:
    with Place(CI="1") as place:
        assert place.run("schema").returncode == 0
        assert os.listdir(place.home) == []


# --- the socket that the environment names ------------------------------------------------------------


def test_commands_connect_to_the_daemon_that_the_environment_names(home: Place) -> None:
    with Place() as elsewhere:
        found = json.loads(elsewhere.run("status", "--json", BRAKIT_SIDECAR_SOCKET=home.socket_path).stdout)
        assert found["socket"] == home.socket_path


def test_a_socket_without_a_listener_counts_as_no_daemon() -> None:
    with Place() as place:
        path = os.path.join(place.root, "s.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
        assert place.run("status", BRAKIT_SIDECAR_SOCKET=path).returncode == 1
        assert place.run("stop", BRAKIT_SIDECAR_SOCKET=path).returncode == 0


@pytest.mark.parametrize("environ", [{}, *OFF], ids=str)
def test_status_and_stop_do_not_connect_to_a_socket_of_a_service_manager(environ: dict[str, str]) -> None:
    with Place() as place, socket.socket(socket.AF_UNIX) as listener:
        os.mkdir(os.path.dirname(place.socket_path), 0o700)
        listener.bind(place.socket_path)
        listener.listen()
        listener.setblocking(False)
        assert place.run("status", **environ).returncode == 1
        assert place.run("stop", **environ).returncode == 0
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert os.listdir(os.path.dirname(place.socket_path)) == [os.path.basename(place.socket_path)]


# --- demo ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_prints_the_bodies_and_leaves_no_files() -> None:
    with Place() as place:
        ran = place.run("demo")
        assert ran.returncode == 0, ran.stderr
        bodies = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
        (session,) = [body["properties"] for body in bodies if body["event"] == "session"]
        assert session["request_count"] > 0
        assert page.broken_promises("session", {k: v for k, v in session.items() if k[0] != "$"}) == {}
        assert os.listdir(place.home) == []
        assert os.listdir(place.runtime) == []


def test_a_question_restarts_the_linger(place: Place) -> None:
    pid = place.start()["pid"]
    for _ in range(10):
        time.sleep(0.5)
        with Wire(place.socket_path).hello() as wire:
            assert wire.ask("identity")[0]["pid"] == pid
