"""Node below ``brakit-sidecar run``: a program starts as without us, whatever NODE_OPTIONS and our files are like."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import run_to_end
from tests.node.application import Application, Project, major
from tests.node.nodes import each_node, newest_node

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Endpoint, Place

RUN = (sys.executable, "-m", "brakit_sidecar", "run", "--")
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not on PATH")
PRINTS = "console.log('started', globalThis.users ?? 0); process.exitCode = 3"


@pytest.fixture(scope="module")
def served(home: Place) -> Place:
    """Return a place whose daemon runs, so that a ``run`` need not start one."""
    return home


@pytest.fixture
def directory(tmp_path: Path) -> str:
    (tmp_path / "app.cjs").write_text(PRINTS)
    (tmp_path / "users.cjs").write_text("globalThis.users = (globalThis.users ?? 0) + 1")
    (tmp_path / "of the user.cjs").write_text("globalThis.users = (globalThis.users ?? 0) + 1")
    (tmp_path / "users.mjs").write_text("import './users.cjs'")
    return str(tmp_path)


def environ_with(node: str, place: Place, directory: str, **environ: str) -> dict[str, str]:
    """Return the place's environment, with that Node as ``node`` on PATH."""
    bin_directory = os.path.join(directory, "bin")
    os.makedirs(bin_directory, exist_ok=True)
    os.symlink(node, os.path.join(bin_directory, "node"))
    # Node 20 prints a warning with its pid if it runs with a permission flag.
    return {
        **place.environ,
        "PATH": bin_directory + os.pathsep + os.environ["PATH"],
        "NODE_NO_WARNINGS": "1",
        **environ,
    }


def ran(place: Place, directory: str, node: str, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command with and without ``run``. Returns what it did with ``run``, which must be the same."""
    below = environ_with(node, place, directory, **environ)
    without = run_to_end(command, below, directory)
    with_run = run_to_end([*RUN, *command], below, directory)
    expected = without.returncode, without.stdout, without.stderr
    assert (with_run.returncode, with_run.stdout, with_run.stderr) == expected
    return with_run


@each_node
@pytest.mark.parametrize(
    ("options", "users"),
    [
        ("", 0),
        ("--no-warnings", 0),
        ('--title "a b"', 0),
        ("--require ./users.cjs", 1),
        ("--require=./users.cjs", 1),
        ('--require "./of the user.cjs"', 1),
        ("--require ./users.cjs --require './of the user.cjs'".replace("'", '"'), 2),
        ("--import ./users.mjs", 1),
    ],
)
def test_a_program_starts_whatever_node_options_the_user_has(
    served: Place, directory: str, node: str, options: str, users: int
) -> None:
    started = ran(served, directory, node, "node", "app.cjs", NODE_OPTIONS=options)
    assert (started.returncode, started.stdout) == (3, f"started {users}\n")


@each_node
def test_a_program_starts_if_the_path_of_the_preload_file_has_special_characters(
    served: Place, directory: str, node: str, tmp_path: Path
) -> None:
    state = tmp_path / 'a state\\of "mine"'
    state.mkdir(0o700)
    started = ran(served, directory, node, "node", "app.cjs", XDG_STATE_HOME=str(state))
    assert started.stdout == "started 0\n"
    assert list(state.glob("brakit/preload-*/node/brakit.cjs"))


@each_node
@pytest.mark.parametrize("place", ["the command", "package.json", "NODE_OPTIONS"])
def test_a_program_with_a_permission_flag_starts(served: Place, directory: str, node: str, place: str) -> None:
    if major(node) < 20:
        pytest.skip("Node 18 has no permission flag")
    flag = "--experimental-permission" if major(node) < 23 else "--permission"
    allowed = [flag, f"--allow-fs-read={directory}", "app.cjs"]
    if place == "the command":
        started = ran(served, directory, node, "node", *allowed)
    elif place == "NODE_OPTIONS":
        started = ran(served, directory, node, "node", *allowed[1:], NODE_OPTIONS=flag)
    elif shutil.which("npm") is None:
        pytest.skip("npm is not on PATH")
    else:
        with open(os.path.join(directory, "package.json"), "w", encoding="utf-8") as file:
            json.dump({"scripts": {"dev": f"node {' '.join(allowed)}"}}, file)
        started = ran(served, directory, node, "npm", "run", "--silent", "dev")
    assert started.stdout == "started 0\n"


@each_node
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells `run` that a file was removed")
def test_a_program_starts_after_the_preload_files_were_removed(served: Place, directory: str, node: str) -> None:
    remove = (
        'set -- $NODE_OPTIONS; rm -rf "$(dirname "$(dirname "$2")")" 2>/dev/null; '
        'until [ -e "$2" ]; do sleep 0.01; done; exec node app.cjs'
    )
    environ = environ_with(node, served, directory)
    started = run_to_end([*RUN, "sh", "-c", remove], environ, directory)
    assert (started.returncode, started.stdout, started.stderr) == (3, "started 0\n", "")


@newest_node
@pytest.mark.parametrize("script", ["exit 1", "echo v16.20.2"])
def test_a_node_without_import_is_left_alone_if_it_has_a_require(
    served: Place, directory: str, tmp_path: Path, node: str, script: str
) -> None:
    """A stand-in tells an old version, as far as it is asked for, and refuses what that version refuses."""
    old = tmp_path / "old"
    old.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && {script}\n'
        'case "$NODE_OPTIONS" in *--import*) echo "--import is not allowed in NODE_OPTIONS"; exit 9 ;; esac\n'
        f'exec {node} "$@"\n'
    )
    old.chmod(0o755)
    started = ran(served, directory, str(old), "node", "app.cjs", NODE_OPTIONS="--require ./users.cjs")
    assert started.stdout == "started 1\n"


# --- an application --------------------------------------------------------------------------------------------------


@pytest.fixture
def project() -> Iterator[Project]:
    with Project() as project:
        yield project


@each_node
@pytest.mark.parametrize(
    "command",
    [pytest.param(("npm", "run", "--silent", "dev"), marks=needs_npm), ("node", "http.mjs")],
    ids=" ".join,
)
@pytest.mark.parametrize("options", ["", "--require ./users.cjs"], ids=["alone", "beside a --require"])
def test_an_unmodified_application_is_counted_below_run(
    place: Place, endpoint: Endpoint, project: Project, node: str, command: tuple[str, ...], options: str
) -> None:
    children = project.path("children")
    project.write("users.cjs", "")
    environ = environ_with(node, place, project.directory, STANDIN_CHILDREN=children, NODE_OPTIONS=options)
    with Application([*RUN, *command], project.directory, environ) as application:
        application.get("/users/1", 7)
        assert application.stop() == 0
    session = endpoint.only_session()
    assert (session["request_count"], session["query_count"], session["exit_reason"]) == (7, 7, "clean")
    assert (session["sdk"], session["setup_succeeded"]) == ("node", True)
    assert not os.path.exists(children)


@needs_npm
@each_node
def test_tools_below_run_join_nothing(place: Place, endpoint: Endpoint, node: str, directory: str) -> None:
    environ = environ_with(node, place, directory)
    for command in (("node", "-e", "0"), ("npm", "--version"), ("npx", "--version")):
        assert run_to_end([*RUN, *command], environ, directory).returncode == 0
    reasons = [(receipt["outcome"], receipt["reason"]) for receipt in place.receipts()]
    assert reasons == [("dropped", "nobody_joined")] * 3
    assert endpoint.bodies == []
