"""The demo's application: several workers that count at the same time. One of them kills itself halfway.

Each worker prints its counts to stdout, one JSON object per line.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time

import brakit_sidecar

from ..host import launch

WORKERS = 4
KILLED = 2
REQUESTS = 60
PRINT_EVERY = 20  # requests


def main() -> None:
    """Start the workers and wait for them, as a web server does."""
    worker_main = launch.isolated("from brakit_sidecar.selftest.demo_app import work; work(int(sys.argv[1]))")
    workers = [subprocess.Popen([*worker_main, str(number)]) for number in range(1, WORKERS + 1)]
    for worker in workers:
        worker.wait()


def work(number: int) -> None:
    """Count the requests of one worker."""
    telemetry = brakit_sidecar.connect()
    telemetry.set(framework="flask", brakit_version="0.1.7", setup_succeeded=True)
    telemetry.event("setup_completed", adapters_detected=["sqlalchemy"], setup_duration_ms=10 * number)
    rng = random.Random(number)  # noqa: S311 (the demo shows the same numbers each time)
    counted = {"request_count": 0, "query_count": 0, "error_count": 0}
    for request in range(1, REQUESTS + 1):
        telemetry.request(f"GET /page/{rng.randrange(5)}", duration_ms=rng.lognormvariate(4, 1))
        counted["request_count"] += 1
        telemetry.event("first_request", port=8000)
        for field, chance in (("query_count", 0.7), ("error_count", 0.05)):
            if rng.random() < chance:
                telemetry.incr(field)
                counted[field] += 1
        if number == KILLED and request == REQUESTS // 2 + number:
            _print(number, counted, killed=True, counting=False)
            os.kill(os.getpid(), signal.SIGKILL)
        if request % PRINT_EVERY == 0:
            _print(number, counted, killed=False, counting=request < REQUESTS)
        time.sleep(0.01)


def _print(number: int, counted: dict[str, int], *, killed: bool, counting: bool) -> None:
    line = json.dumps({"worker": number, **counted, "killed": killed, "counting": counting}) + "\n"
    os.write(1, line.encode())  # in one write, because all workers share the pipe; print() may need two writes
