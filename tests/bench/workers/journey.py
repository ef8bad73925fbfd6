"""A process that reports events of a journey, and says how long each call held it up."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.bench.child import serve_requests

if TYPE_CHECKING:
    from collections.abc import Callable


def main(contestant: str) -> None:
    event = {"event": _event, "popen": _popen}[contestant]()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        took = []
        for _ in range(request["times"]):
            took.append(event())
            time.sleep(request["pause_s"])
        return {"us": median(took) * 1e6}

    serve_requests(answer)


def _event() -> Callable[[], float]:
    import sidecar  # noqa: PLC0415 (the other contestant does without)

    t = sidecar.connect()

    def event() -> float:
        begun = time.perf_counter()
        t.event("cli_invoked", command="install")
        return time.perf_counter() - begun

    return event


def _popen() -> Callable[[], float]:
    """The way brakit's own SDK for Python sends an event, with the least of all children."""

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
