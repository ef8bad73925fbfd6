"""Two users on one machine, of whom neither gets a word into the other's sidecar, nor hears one of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.serving import REPOSITORY
from tests.harness import PATIENCE_S, Place, Wire, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")

SOMEBODY = 54321
WORKER = (
    "from brakit_sidecar import connect; t = connect(start=True); t.incr('request_count', 3);"
    " t.set(framework='flask'); print(1)"
)

# A command of somebody's, who may not be able to read this interpreter's files: so all of it is loaded before.
BECOME = f"""
import argparse, encodings.ascii, os, shutil, sys, anyio._backends._asyncio, platformdirs.unix
import brakit_sidecar.cli.daemon, brakit_sidecar.daemon.app
from brakit_sidecar.cli import main
os.setgroups([]); os.setgid({SOMEBODY}); os.setuid({SOMEBODY})
sys.exit(main())
"""


# --- the daemon is somebody's, and root comes -------------------------------------------------------------


class Somebodys(Place):
    """A place of somebody's, whose doors stand open. Root needs no opening."""

    def __init__(self) -> None:
        super().__init__(PYTHONPATH=REPOSITORY)
        os.chmod(self.root, 0o755)
        for directory in (self.home, self.runtime):
            os.chown(directory, SOMEBODY, SOMEBODY)
        self.daemon = self.popen(sys.executable, "-c", BECOME, "serve", cwd="/")
        wait_until(lambda: self.accepts() or self.daemon.poll() is not None, "a daemon that accepts")
        os.chmod(self.socket_path, 0o666)

    def as_its_owner(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", BECOME, *arguments],
            env=self.environ, cwd="/", capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    def holds_nothing(self) -> bool:
        """Of all who came nobody got further than to be refused."""
        found = json.loads(self.as_its_owner("status", "--json").stdout)
        return list(found["refused"]) == ["foreign_user"] and found["sessions"] == []


@pytest.fixture
def somebodys() -> Iterator[Somebodys]:
    place = Somebodys()
    with place:
        yield place
        assert place.as_its_owner("stop").returncode == 0
        assert place.daemon.wait(PATIENCE_S) == 0


def test_roots_lines_are_refused_by_somebodys_daemon(somebodys: Somebodys) -> None:
    with Wire(somebodys.socket_path).hello(new_id()) as wire:
        assert [said["refused"]["reason"] for said in wire.lines()] == ["foreign_user"]
    assert somebodys.holds_nothing()


def test_roots_worker_and_commands_leave_somebodys_daemon_alone(somebodys: Somebodys) -> None:
    theirs = {"BRAKIT_SIDECAR_SOCKET": somebodys.socket_path, "BRAKIT_SESSION_ID": new_id()}
    with Place() as roots:
        ran = roots.python(WORKER.replace("start=True", ""), **theirs)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")
        assert roots.run("status", **theirs).returncode == 1
    assert somebodys.holds_nothing()


# --- somebody listens where root's daemon would -----------------------------------------------------------


@pytest.fixture
def foreigner() -> Iterator[tuple[Place, socket.socket]]:
    with Place() as place, socket.socket(socket.AF_UNIX) as listening:
        os.mkdir(os.path.dirname(place.socket_path), 0o700)
        listening.bind(place.socket_path)
        os.chown(place.socket_path, SOMEBODY, SOMEBODY)
        os.seteuid(SOMEBODY)  # whoever begins to listen is whom the others see
        try:
            listening.listen()
        finally:
            os.seteuid(0)
        listening.setblocking(False)
        yield place, listening
        os.unlink(place.socket_path)


def heard(listening: socket.socket) -> bytes:
    """By all who came."""
    said = b""
    while True:
        try:
            stream, _ = listening.accept()
        except BlockingIOError:
            return said
        with stream:
            while chunk := stream.recv(65536):
                said += chunk


def test_a_worker_tells_a_daemon_of_another_user_nothing(foreigner: tuple[Place, socket.socket]) -> None:
    place, listening = foreigner
    ran = place.python(WORKER)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")
    assert heard(listening) == b""


def test_run_runs_without_a_daemon_of_another_user(foreigner: tuple[Place, socket.socket]) -> None:
    place, listening = foreigner
    ran = place.run("run", "--", sys.executable, "-c", WORKER)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")
    assert heard(listening) == b""


@pytest.mark.parametrize("command", [("start",), ("serve",), ("session", "start"), ("emit", "cli_invoked")])
def test_commands_say_that_another_user_has_the_socket(
    foreigner: tuple[Place, socket.socket], command: tuple[str, ...]
) -> None:
    place, listening = foreigner
    ran = place.run(*command)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert place.socket_path in ran.stderr
    assert heard(listening) == b""
