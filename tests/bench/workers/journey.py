"""A process that reports journey events, and measures how long each call takes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.bench.child import serve_requests
from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Callable


def main(contestant: str) -> None:
    """Answer requests for one way to report an event."""
    event = {"event": _event, "send": _send, "popen": _popen}[contestant]()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        took = []
        for _ in range(request["times"]):
            took.append(event())
            time.sleep(request["pause_s"])
        return {"us": median(took) * 1e6}

    serve_requests(answer)


def _event() -> Callable[[], float]:
    import brakit_sidecar  # noqa: PLC0415 (the other contestants do not need it)

    t = brakit_sidecar.connect()

    def event() -> float:
        begun = time.perf_counter()
        t.event("cli_invoked", command="install")
        return time.perf_counter() - begun

    return event


def _send() -> Callable[[], float]:
    """Send a line to the daemon by one system call. Every report to a daemon needs at least one."""
    hello = {"protocol": 1, "session": os.environ["BRAKIT_SESSION_ID"], "producer": new_id()}
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(os.environ["BRAKIT_SIDECAR_SOCKET"])
    stream.sendall(json.dumps({"hello": hello}).encode() + b"\n")
    line = b'{"set":{"framework":"flask"}}\n'

    def send() -> float:
        begun = time.perf_counter()
        stream.send(line)
        return time.perf_counter() - begun

    return send


def _popen() -> Callable[[], float]:
    """Start a child process for each event, as brakit's SDK for Python does. The child does nothing."""

    def event() -> float:
        begun = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-c", "pass"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        took = time.perf_counter() - begun
        child.wait()
        return took

    return event


if __name__ == "__main__":
    main(*sys.argv[1:])
