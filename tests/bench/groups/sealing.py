"""How long a session with a thousand producers takes from its owner's end to its event's arrival at the endpoint."""

from __future__ import annotations

import time
from functools import partial

from tests.bench.child import Child
from tests.bench.measuring import Contestant, Effort, Line, Report, Table, interleave
from tests.bench.sessions import OwnedSession, inexact
from tests.harness import PATIENCE_S, Endpoint, Place, wait_until

CROWD = 1000
POLL_S = 0.0005


def run(effort: Effort) -> Report:
    """Measure the end of a session with many producers, and of a session with one producer."""
    crowd = max(2, effort.times(CROWD))
    endpoint = Endpoint()
    wrong: list[str] = []
    try:
        with Place(endpoint.url) as place:
            place.serve()
            many, one = f"{crowd:,} producers", "1 producer"
            killed, living = ", killed before", ", alive without a goodbye"
            contestants = [
                Contestant(f"{name}{end}", partial(_seal_ms, place, endpoint, number, wrong, are_killed=end == killed))
                for name, number in ((many, crowd), (one, 1))
                for end in (killed, living)
            ]
            samples = interleave(
                contestants, max(2, effort.rounds // 2)
            )  # the warm-up also makes the daemon load aiohttp
    finally:
        endpoint.close()
    lines = [line for end in (killed, living) for line in (Line(one + end), Line(many + end, one + end))]
    title = (
        "From the owner's end to the session event's arrival (the daemon waits 500 ms for goodbyes of living workers)"
    )
    return Report([Table(title, "ms", lines, samples)], wrong)


def _seal_ms(place: Place, endpoint: Endpoint, producers: int, wrong: list[str], *, are_killed: bool) -> float:
    already = len(endpoint.bodies_of("session"))
    with OwnedSession(place) as session, Child.worker("crowd", environ=session.environ) as crowd:
        counted: int = crowd.ask(producers=producers)["counted"]
        wait_until(lambda: session.status()["session"]["producers"]["live"] == producers, "each producer's hello")
        if are_killed:
            crowd.kill()
            wait_until(lambda: session.status()["session"]["producers"]["live"] == 0, "each producer's exit")
        begun = time.perf_counter()
        session.end()
        while len(endpoint.requests) <= already and time.perf_counter() < begun + PATIENCE_S:
            time.sleep(POLL_S)
        took = time.perf_counter() - begun
    body = endpoint.wait_for("session", already + 1)[-1]
    wrong += inexact(f"a session of {producers} producers", body["properties"]["request_count"], counted)
    return took * 1e3
