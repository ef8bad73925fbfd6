"""A process that the daemon watches costs a descriptor, and only for as long as a session depends on the process."""

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

# Adds each line of its input to a set field, because set members go over the socket, unlike counts.
WORKER = """
import sys
import brakit_sidecar
telemetry = brakit_sidecar.connect()
for line in sys.stdin:
    telemetry.add("tabs_viewed", line.strip())
    print("added", flush=True)
"""


def watched_processes(daemon: subprocess.Popen[bytes]) -> int:
    directory, found = f"/proc/{daemon.pid}/fd", 0
    for fd in os.listdir(directory):
        with suppress(FileNotFoundError):  # closed since it was listed
            found += "pidfd" in os.readlink(os.path.join(directory, fd))
    return found


@contextmanager
def running_worker(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], env=place.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        yield worker
        worker.kill()


def add_tab(worker: subprocess.Popen[bytes], tab: str) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{tab}\n".encode())
    worker.stdin.flush()
    assert worker.stdout.readline() == b"added\n"


def test_a_session_that_is_over_gets_no_owner(place: Place) -> None:
    daemon, session = place.serve(), new_id()
    with Wire(place.socket_path).hello() as wire:
        wire.ask({"open": {"session": session}})
        wire.ask({"end": {"session": session}})
        wait_until(lambda: not wire.ask()[0]["sessions"], "the session's end")
        assert wire.ask({"open": {"session": session, "owner_pid": os.getpid()}})[0] is None
    assert watched_processes(daemon) == 0


def test_a_worker_that_reconnected_is_watched_no_longer_than_its_session(place: Place) -> None:
    daemon = place.serve()
    with running_worker(place) as worker:
        add_tab(worker, "logs")
        end_process(daemon, signal.SIGKILL)
        daemon = place.serve()
        wait_until(lambda: watched_processes(daemon) == 1, "the watch of the worker")
        with Wire(place.socket_path).hello() as wire:

            def has_reconnected() -> bool:
                add_tab(worker, "errors")
                return "errors" in wire.ask()[0]["sessions"][0]["fields"]["tabs_viewed"]

            wait_until(has_reconnected, "the worker's reconnect")
            (session,) = wire.ask()[0]["sessions"]
            wire.ask({"end": {"session": session["id"]}})
            wait_until(lambda: not wire.ask()[0]["sessions"], "the session's end")
            wait_until(lambda: not watched_processes(daemon), "the end of the watch")
        assert worker.poll() is None
