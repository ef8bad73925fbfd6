"""Many producers in one process, each with its own connection and its own counter file."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any

import brakit_sidecar

from tests.bench.child import serve_requests
from tests.harness import wait_until

if TYPE_CHECKING:
    from brakit_sidecar.client.telemetry import Telemetry

COUNTS, ROUTES = 10, 5  # of each producer
BATCH = 64  # producers between two pauses, in which the daemon accepts their connections
PAUSE_S = 0.001


def main() -> None:
    """Connect as many producers as each request asks for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd: list[Telemetry] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        for number in range(request["producers"]):
            crowd.append(_producer())
            if number % BATCH == 0:
                time.sleep(PAUSE_S)
        wait_until(lambda: all(getattr(t, "is_connected", False) for t in crowd), "a connection of each producer")
        return {"counted": len(crowd) * (COUNTS + ROUTES)}

    serve_requests(answer)


def _producer() -> Telemetry:
    t = brakit_sidecar.connect()
    counter = t.counter("request_count")
    for _ in range(COUNTS):
        counter.inc()
    for route in range(ROUTES):
        t.request(f"GET /{route}", duration_ms=12.5)
    return t


if __name__ == "__main__":
    main()
