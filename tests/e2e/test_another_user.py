"""Two users of one machine. A daemon refuses the other user's clients, and clients write nothing to its socket."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.e2e.serving import SOURCES
from tests.harness import PATIENCE_S, Place, Wire, new_id, run_to_end, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

OTHER_UID = 54321
WORKER = (
    "from brakit_sidecar import connect; t = connect(start=True); t.incr('request_count', 3);"
    " t.set(framework='flask'); print(1)"
)

# Runs a command as the other user. All modules are loaded first, because that user may not be able to read their files.
BECOME = f"""
import argparse, encodings.ascii, os, shutil, sys, anyio._backends._asyncio
import brakit_sidecar.cli.daemon, brakit_sidecar.daemon.server
from brakit_sidecar.cli import main
os.setgroups([]); os.setgid({OTHER_UID}); os.setuid({OTHER_UID})
sys.exit(main())
"""


# --- root's clients at the other user's daemon ------------------------------------------------------------


class OthersPlace(Place):
    """A place of the other user, whose directories and socket everybody may open."""

    def __init__(self) -> None:
        super().__init__(PYTHONPATH=SOURCES)
        os.chmod(self.root, 0o755)
        for directory in (self.home, self.runtime):
            os.chown(directory, OTHER_UID, OTHER_UID)
        self.daemon = self.popen(sys.executable, "-c", BECOME, "serve", cwd="/")
        wait_until(lambda: self.accepts() or self.daemon.poll() is not None, "a daemon that accepts")
        os.chmod(self.socket_path, 0o666)

    def run_as_owner(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command as the other user."""
        return run_to_end([sys.executable, "-c", BECOME, *arguments], self.environ, "/")

    def refused_all(self) -> bool:
        """Return whether the daemon has no session, and has refused every connection because of its user."""
        found = json.loads(self.run_as_owner("status", "--json").stdout)
        return list(found["refused"]) == ["foreign_user"] and found["sessions"] == []


@pytest.fixture
def others() -> Iterator[OthersPlace]:
    place = OthersPlace()
    with place:
        yield place
        assert place.run_as_owner("stop").returncode == 0
        assert place.daemon.wait(PATIENCE_S) == 0


def test_roots_lines_are_refused_by_another_users_daemon(others: OthersPlace) -> None:
    with Wire(others.socket_path) as wire:
        # Race: the daemon may refuse and close before the hello is written. That is harmless, because the refusal can
        # still be read.
        with suppress(BrokenPipeError):
            wire.hello(new_id())
        assert [line["refused"]["reason"] for line in wire.lines()] == ["foreign_user"]
    assert others.refused_all()


def test_roots_worker_and_commands_do_not_use_another_users_daemon(others: OthersPlace) -> None:
    theirs = {"BRAKIT_SIDECAR_SOCKET": others.socket_path, "BRAKIT_SESSION_ID": new_id()}
    with Place() as roots:
        ran = roots.run_python(WORKER.replace("start=True", ""), **theirs)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")
        assert roots.run("status", **theirs).returncode == 1
    assert others.refused_all()


# --- the other user listens at the path of root's daemon --------------------------------------------------


@pytest.fixture
def others_socket() -> Iterator[tuple[Place, socket.socket]]:
    with Place() as place, socket.socket(socket.AF_UNIX) as listening:
        os.mkdir(os.path.dirname(place.socket_path), 0o700)
        listening.bind(place.socket_path)
        os.chown(place.socket_path, OTHER_UID, OTHER_UID)
        os.seteuid(OTHER_UID)  # clients see the user that called listen()
        try:
            listening.listen()
        finally:
            os.seteuid(0)
        listening.setblocking(False)
        yield place, listening
        os.unlink(place.socket_path)


def received(listening: socket.socket) -> bytes:
    """Return all bytes from all connections that are pending at the socket."""
    data = b""
    while True:
        try:
            stream, _ = listening.accept()
        except BlockingIOError:
            return data
        with stream:
            while chunk := stream.recv(65536):
                data += chunk


def test_a_worker_writes_nothing_to_a_daemon_of_another_user(others_socket: tuple[Place, socket.socket]) -> None:
    place, listening = others_socket
    ran = place.run_python(WORKER)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")
    assert received(listening) == b""


def test_run_runs_its_command_without_the_daemon_of_another_user(others_socket: tuple[Place, socket.socket]) -> None:
    place, listening = others_socket
    ran = place.run("run", "--", sys.executable, "-c", WORKER)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")
    assert received(listening) == b""


@pytest.mark.parametrize("command", [("start",), ("serve",), ("session", "start"), ("emit", "cli_invoked")])
def test_commands_report_that_another_user_has_the_socket(
    others_socket: tuple[Place, socket.socket], command: tuple[str, ...]
) -> None:
    place, listening = others_socket
    ran = place.run(*command)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert place.socket_path in ran.stderr
    assert received(listening) == b""
