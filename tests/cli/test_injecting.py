"""How ``run`` lets applications join: the command's environment, and the line at a terminal."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.cli import injecting
from brakit_sidecar.core.version import __version__

from tests.harness import PATIENCE_S, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Place

PRINT_ENVIRONMENT = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"
JOIN_AND_COUNT = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 3)"


def environ_below_run(place: Place, *options: str, **environ: str) -> dict[str, str]:
    """Return the environment of a command below ``run``."""
    ran = place.run("run", *options, "--", sys.executable, "-c", PRINT_ENVIRONMENT, **environ)
    assert (ran.returncode, ran.stderr) == (0, "")
    found: dict[str, str] = json.loads(ran.stdout)
    return found


def test_the_command_loads_the_preload_files_from_the_state_directory(place: Place) -> None:
    found = environ_below_run(place)
    state = os.path.join(place.home, ".local", "state", "brakit", f"preload-{__version__}-")
    assert found["NODE_OPTIONS"].startswith(f"--require {state}")
    assert found["PYTHONPATH"].startswith(state)
    assert os.path.isfile(found["NODE_OPTIONS"].removeprefix("--require "))


@pytest.mark.parametrize(("option", "variable"), [("--no-inject", "1"), ("", "0"), ("", "false"), ("", "off")])
def test_the_environment_stays_as_it_is_if_the_user_wants_that(place: Place, option: str, variable: str) -> None:
    options = [option] if option else []
    found = environ_below_run(place, *options, BRAKIT_SIDECAR_INJECT=variable, NODE_OPTIONS="--no-warnings")
    assert found["NODE_OPTIONS"] == "--no-warnings"
    assert "PYTHONPATH" not in found
    assert "BRAKIT_SESSION_ID" in found
    assert not [name for name in os.listdir(os.path.join(place.home, ".local/state/brakit")) if "preload" in name]


def test_the_environment_stays_as_it_is_while_telemetry_is_off(place: Place) -> None:
    found = environ_below_run(place, BRAKIT_TELEMETRY="false")
    assert not {"NODE_OPTIONS", "PYTHONPATH", "BRAKIT_SESSION_ID"} & found.keys()


def test_the_command_runs_without_preload_files_if_they_cannot_be_written(place: Place) -> None:
    entry = environ_below_run(place)["NODE_OPTIONS"].removeprefix("--require ")
    copy = os.path.dirname(os.path.dirname(entry))
    shutil.rmtree(copy)
    with open(copy, "w", encoding="utf-8"):
        pass  # a file is at the path of the directory
    assert "NODE_OPTIONS" not in environ_below_run(place)


def test_a_run_below_a_run_adds_nothing(place: Place) -> None:
    inner = [sys.executable, "-m", "brakit_sidecar", "run", "--", sys.executable, "-c", PRINT_ENVIRONMENT]
    ran = place.run("run", "--", *inner)
    found = json.loads(ran.stdout)
    assert found["NODE_OPTIONS"].count("brakit.cjs") == 1
    assert ":" not in found["PYTHONPATH"]


def test_a_removed_preload_file_is_there_again_before_the_command_ends(place: Place) -> None:
    code = """
import os, shutil, time
path = os.environ["NODE_OPTIONS"].partition(" ")[2]
for _ in range(3):
    shutil.rmtree(os.path.dirname(path), ignore_errors=True)
    deadline = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.001)
    print(os.path.exists(path))
"""
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process that a file was removed")
    ran = place.run("run", "--", sys.executable, "-c", code)
    assert ran.stdout.split() == ["True"] * 3


# --- the surroundings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [".", ".."])
def test_plug_n_play_is_found_here_and_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    inside = tmp_path / "packages"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert not injecting._has_plug_n_play()
    (inside / where / ".pnp.cjs").write_text("")
    assert injecting._has_plug_n_play()


def test_the_text_of_package_json_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert injecting._package_json() == ""
    (tmp_path / "package.json").write_text('{"scripts": {}}')
    assert injecting._package_json() == '{"scripts": {}}'


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo v22.11.0", (22, 11, 0)),
        ("echo what", None),
        ("exit 1", None),
        ('[ -z "$NODE_OPTIONS" ] && echo v18.0.0', (18, 0, 0)),
    ],
)
def test_the_version_of_node_is_what_it_prints(tmp_path: Path, script: str, version: tuple[int, ...] | None) -> None:
    node = tmp_path / "node"
    node.write_text(f"#!/bin/sh\n{script}\n")
    node.chmod(0o755)
    environ = {"PATH": str(tmp_path), "NODE_OPTIONS": "--require /missing.cjs"}
    assert injecting._node_version(environ, ["npm"]) == version


def test_a_command_that_is_a_node_is_asked_for_its_version(tmp_path: Path) -> None:
    for name, version in (("first", "v22.11.0"), ("other", "v16.20.2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "node").write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / name / "node").chmod(0o755)
    environ = {"PATH": str(tmp_path / "first")}
    assert injecting._node_version(environ, [str(tmp_path / "other" / "node"), "a.js"]) == (16, 20, 2)


def test_there_is_no_version_without_a_node(tmp_path: Path) -> None:
    assert injecting._node_version({"PATH": str(tmp_path)}, ["npm"]) is None


# --- the line at a terminal ------------------------------------------------------------------------------------------


def run_at_terminal(place: Place, *command: str) -> str:
    """Run a command below ``run`` with a terminal as stderr. Returns the last line there."""
    ours, tty = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "brakit_sidecar", "run", "--", *command],
        env=place.environ,
        stdout=subprocess.DEVNULL,
        stderr=tty,
    ) as running:
        os.close(tty)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux reports the end of a terminal as an error
                break
            if not piece:
                break
            shown += piece
        os.close(ours)
        running.wait(PATIENCE_S)
    return shown.decode().splitlines()[-1]


def test_a_terminal_shows_what_was_counted_and_what_became_of_it(place: Place) -> None:
    last = run_at_terminal(place, sys.executable, "-c", JOIN_AND_COUNT)
    assert last.startswith("brakit-sidecar: 3 requests from 1 worker; the event ")
    assert last.endswith("; `brakit-sidecar log` shows it")


def test_a_terminal_shows_that_no_worker_joined(place: Place) -> None:
    assert run_at_terminal(place, "true").startswith("brakit-sidecar: nothing was counted, because no process imported")


def test_nothing_is_shown_if_stderr_is_not_a_terminal(place: Place) -> None:
    ran = run_to_end([sys.executable, "-m", "brakit_sidecar", "run", "--", "true"], place.environ)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_nothing_is_added_if_the_command_cannot_be_started(place: Place) -> None:
    assert run_at_terminal(place, "no-such-command") == (
        "brakit-sidecar: cannot run no-such-command: No such file or directory"
    )


def test_a_terminal_shows_that_the_daemon_does_not_answer(place: Place) -> None:
    daemon = place.start()["pid"]
    stop = f"import os, signal; os.kill({daemon}, signal.SIGSTOP)"
    try:
        assert "the daemon does not tell" in run_at_terminal(place, sys.executable, "-c", stop)
    finally:
        os.kill(daemon, signal.SIGCONT)
