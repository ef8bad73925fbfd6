"""Whose end the daemon awaits costs it a descriptor, for as long as a session hangs on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.harness import Place, Wire, end_process, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/fd")

# Says what it is told; that goes by the socket, as counts do not.
WORKER = """
import sys
import brakit_sidecar
telemetry = brakit_sidecar.connect()
for line in sys.stdin:
    telemetry.add("tabs_viewed", line.strip())
    print("said", flush=True)
"""


def awaited_ends(daemon: subprocess.Popen[bytes]) -> int:
    directory, found = f"/proc/{daemon.pid}/fd", 0
    for fd in os.listdir(directory):
        with suppress(FileNotFoundError):  # closed meanwhile
            found += "pidfd" in os.readlink(os.path.join(directory, fd))
    return found


@contextmanager
def worker_of(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], env=place.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        yield worker
        worker.kill()


def say(worker: subprocess.Popen[bytes], tab: str) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{tab}\n".encode())
    worker.stdin.flush()
    assert worker.stdout.readline() == b"said\n"


def test_nobody_owns_a_session_that_is_over(place: Place) -> None:
    daemon, session = place.serve(), new_id()
    with Wire(place.socket_path).hello() as wire:
        wire.ask({"open": {"session": session}})
        wire.ask({"end": {"session": session}})
        wait_until(lambda: not wire.ask()[0]["sessions"], "the session's end")
        assert wire.ask({"open": {"session": session, "owner_pid": os.getpid()}})[0] is None
    assert awaited_ends(daemon) == 0


def test_a_worker_that_came_back_is_watched_no_longer_than_its_session(place: Place) -> None:
    daemon = place.serve()
    with worker_of(place) as worker:
        say(worker, "logs")
        end_process(daemon, signal.SIGKILL)
        daemon = place.serve()
        wait_until(lambda: awaited_ends(daemon) == 1, "that the worker is awaited")
        with Wire(place.socket_path).hello() as wire:

            def is_back() -> bool:
                say(worker, "errors")
                return "errors" in wire.ask()[0]["sessions"][0]["fields"]["tabs_viewed"]

            wait_until(is_back, "the worker")
            (session,) = wire.ask()[0]["sessions"]
            wire.ask({"end": {"session": session["id"]}})
            wait_until(lambda: not wire.ask()[0]["sessions"], "the session's end")
            wait_until(lambda: not awaited_ends(daemon), "that nobody is awaited any more")
        assert worker.poll() is None
