"""Helpers for tests that kill the daemon: the kill, the files that are left, and a worker that counts on command."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import Any

from brakit_sidecar.host.process import open_exit_fd

from tests.harness import PATIENCE_S, Place, wait_until


def kill_daemon(place: Place) -> None:
    """Kill the daemon as soon as it runs. Returns when the process has exited."""
    found: dict[str, Any] = {}

    def runs() -> bool:
        found.update(place.status())
        return bool(found["running"])

    wait_until(runs, "a daemon")
    end = open_exit_fd(found["pid"])
    assert end is not None
    os.kill(found["pid"], signal.SIGKILL)
    select.select([end], [], [])
    os.close(end)


def open_session(place: Place) -> str:
    """Return the id of the only session as soon as the daemon has it."""
    wait_until(lambda: place.status().get("sessions"), "a session")
    (session,) = place.status()["sessions"]
    session_id: str = session["id"]
    return session_id


def journal_of(place: Place) -> list[str]:
    state = os.path.join(place.home, ".local", "state", "brakit")
    return [name for name in os.listdir(state) if name.startswith("journal")]


def runtime_files(place: Place) -> list[str]:
    return sorted(os.listdir(os.path.join(place.runtime, "brakit")))


# This worker counts as each line of its stdin says, and then writes the line to stdout.
COMMANDED = """
import os, signal, sys
import brakit_sidecar
telemetry = brakit_sidecar.connect(start="start" in sys.argv)
counter = telemetry.counter("request_count")
for line in sys.stdin:
    if line == "die\\n":
        os.kill(os.getpid(), signal.SIGKILL)
    how, number = line.split()
    for _ in range(int(number)):
        counter.inc() if how == "inc" else telemetry.request("GET /", 1)
    print(line, end="", flush=True)
"""


class Worker:
    """A worker that counts as the test commands."""

    def __init__(self, place: Place, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMANDED, *arguments],
            env={**place.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own
        )
        self.counted = 0

    def count(self, number: int, how: str = "inc") -> Worker:
        """Have the worker count in its counter file only, without any system call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{how} {number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{how} {number}\n"
        self.counted += number
        return self

    def requests(self, number: int) -> Worker:
        """Have the worker count by ``request()``, which also reconnects to a daemon."""
        return self.count(number, how="request")

    def die(self) -> None:
        """Have the worker kill itself by SIGKILL."""
        assert self.process.stdin is not None
        self.process.communicate("die\n", timeout=PATIENCE_S)

    def end(self) -> None:
        """Close the worker's stdin, so that the worker exits normally."""
        self.process.communicate(timeout=PATIENCE_S)
