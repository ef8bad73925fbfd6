"""A process that measures one increment of one contestant, in any number of threads."""

# ruff: noqa: PLC0415 (each contestant loads only its own package)

from __future__ import annotations

import sys
import threading
from time import perf_counter
from timeit import Timer
from typing import TYPE_CHECKING, Any

from tests.bench.child import serve_requests

if TYPE_CHECKING:
    from collections.abc import Callable

CALIBRATION = 2000
MORE = 1.2  # a factor on the calibrated number of calls, because the first calls are slower


def main(contestant: str, *arguments: str) -> None:
    """Answer requests for one contestant."""
    statement, variables = CONTESTANTS[contestant](*arguments)
    # In the timed loop all names are local variables, as in a function that keeps its counter in a variable.
    timer = Timer(statement, "; ".join(f"{name} = _{name}" for name in variables), globals=_underscored(variables))
    counted = 0

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal counted
        if request.get("ask") == "counted":
            return {"counted": counted}
        threads = request["threads"]
        each = max(1, int(MORE * request["seconds"] / _wall_s(timer, threads, CALIBRATION) * CALIBRATION))
        took_s = _wall_s(timer, threads, each)
        counted += threads * (CALIBRATION + each)
        return {"ns": took_s * 1e9 / (threads * each)}

    serve_requests(answer)


def _wall_s(timer: Timer, threads: int, each: int) -> float:
    """Return the time from the start of the first thread to the end of the last thread."""
    if threads == 1:
        return timer.timeit(each)
    begun: list[float] = []
    ended: list[float] = []
    ready = threading.Barrier(threads)

    def count() -> None:
        ready.wait()
        begun.append(perf_counter())
        timer.timeit(each)
        ended.append(perf_counter())

    running = [threading.Thread(target=count) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return max(ended) - min(begun)


def _underscored(variables: dict[str, Any]) -> dict[str, Any]:
    return {f"_{name}": value for name, value in variables.items()}


# --- the contestants: a statement, and the variables in it ------------------------------------------------------


def _dict() -> tuple[str, dict[str, Any]]:
    return "d[k] += 1", {"d": {"request_count": 0}, "k": "request_count"}


def _itertools() -> tuple[str, dict[str, Any]]:
    import itertools

    return "step()", {"step": itertools.count().__next__}


def _inc() -> tuple[str, dict[str, Any]]:
    import brakit_sidecar

    return "counter.inc()", {"counter": brakit_sidecar.connect().counter("request_count")}


def _request() -> tuple[str, dict[str, Any]]:
    import brakit_sidecar

    return 't.request("GET /users", duration_ms=12.5)', {"t": brakit_sidecar.connect()}


def _prometheus() -> tuple[str, dict[str, Any]]:
    """Use multiprocess mode if PROMETHEUS_MULTIPROC_DIR is in the environment."""
    import prometheus_client

    return "counter.inc()", {"counter": prometheus_client.Counter("requests", "Requests")}


def _datadog(socket_path: str) -> tuple[str, dict[str, Any]]:
    from datadog.dogstatsd.base import DogStatsd

    client = DogStatsd(
        socket_path=socket_path, disable_buffering=False, disable_aggregation=False, disable_telemetry=True
    )
    return "client.increment('requests')", {"client": client}


def _opentelemetry() -> tuple[str, dict[str, Any]]:
    """Use a metric reader that is never read, so that the cost of an export is not measured."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    counter = MeterProvider([InMemoryMetricReader()]).get_meter("bench").create_counter("requests")
    return "counter.add(1)", {"counter": counter}


def _statsd(port: str) -> tuple[str, dict[str, Any]]:
    import statsd

    return "client.incr('requests')", {"client": statsd.StatsClient("127.0.0.1", int(port))}


CONTESTANTS: dict[str, Callable[..., tuple[str, dict[str, Any]]]] = {
    "dict": _dict,
    "itertools": _itertools,
    "inc": _inc,
    "request": _request,
    "prometheus": _prometheus,
    "datadog": _datadog,
    "opentelemetry": _opentelemetry,
    "statsd": _statsd,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
