"""An application of four worker processes that report every kind of thing. The tables below hold each worker's reports,
and the test adds them up independently.

    python -m tests.e2e.apps.counting fork|spawn
"""

from __future__ import annotations

import multiprocessing
import sys

import brakit_sidecar

WORKERS = range(4)

# Each tuple has one entry for each worker. The workers' routes overlap: each route is served by at most three workers.
COUNTS = {
    "error_count": (1, 0, 2, 4),
    "query_count": (40, 30, 20, 11),
    "fetch_count": (0, 0, 0, 7),
}
DURATIONS: tuple[dict[str, list[float]], ...] = tuple(
    {
        f"GET /route/{worker + step}": [0.5 * worker + 10 * step + n * (1 + 3 * worker) for n in range(40)]
        for step in range(3)
    }
    for worker in WORKERS
)
UNTIMED = (0, 3, 0, 1)  # requests without a duration
WORDS = {
    "adapters_detected": (["sqlalchemy"], ["sqlalchemy", "asyncpg"], ["prisma"], []),
    "adapters_failed": ([], [], ["mongoose"], []),
    "framework_detection_candidates": (["flask"], ["flask"], ["fastapi", "flask"], ["django"]),
    "insight_types": (["n1", "slow"], ["slow"], ["duplicate"], ["n1"]),
    "rules_triggered": ([], ["exposed-secret"], [], ["exposed-secret", "insecure-cookie"]),
    "tabs_viewed": (["requests"], ["queries", "requests"], [], ["overview"]),
}
MARKS = {
    "insight_count": tuple([f"n1 in /route/{worker + step}" for step in range(3)] for worker in WORKERS),
    "finding_count": tuple([f"secret in file {worker // 2}"] for worker in WORKERS),
}
UNMARKED = {"insight_count": (0, 0, 0, 2), "finding_count": (1, 0, 0, 0)}
TRUTHS = {
    "is_custom_command": (False, True, False, False),
    "explain_used": (False, False, False, True),
    "setup_succeeded": (True, True, False, True),
}
SETUP_MS = (12, 70, 33, 5)
FIRST_REQUEST_MS = (410, 300, 207, 330)
DASHBOARD_MS = (9000, 8000, 8500, 8100)


def work(worker: int, inherited: brakit_sidecar.Telemetry | None) -> None:
    """Report the worker's part of each table."""
    telemetry = inherited or brakit_sidecar.connect()
    telemetry.set(framework="unknown" if worker == 0 else "flask", package_manager="uv", brakit_version="0.1.7")
    telemetry.set(**{field: by_worker[worker] for field, by_worker in TRUTHS.items()})
    telemetry.event("setup_completed", framework="flask", setup_duration_ms=SETUP_MS[worker])
    telemetry.event("first_request", port=8000, time_to_first_request_ms=FIRST_REQUEST_MS[worker])
    for route, durations in DURATIONS[worker].items():
        for duration_ms in durations:
            telemetry.request(route, duration_ms)
    requests = telemetry.counter("request_count")
    for _ in range(UNTIMED[worker]):
        requests.inc()
    for field, by_worker in (COUNTS | UNMARKED).items():
        for _ in range(by_worker[worker]):
            telemetry.incr(field)
    for field, words in WORDS.items():
        telemetry.add(field, *words[worker])
    for field, marks in MARKS.items():
        telemetry.mark(field, *marks[worker])
    telemetry.event("dashboard_viewed", time_to_dashboard_ms=DASHBOARD_MS[worker])
    if worker == 0:  # these two events are sent each time that a worker reports them
        telemetry.event("cli_invoked", command="run", has_package_json=True, cwd_has_node_modules=False)
        telemetry.event("cli_uninstall", instrumentation_removed=True, data_removed=True)


def main(start_method: str) -> None:
    """Run the workers. A forked worker uses its parent's telemetry object, and a spawned worker connects by itself."""
    inherited = brakit_sidecar.connect() if start_method == "fork" else None
    multiprocessing.set_start_method(start_method)
    workers = [multiprocessing.Process(target=work, args=(worker, inherited)) for worker in WORKERS]
    for process in workers:
        process.start()
    for process in workers:
        process.join()


if __name__ == "__main__":
    main(sys.argv[1])
