from __future__ import annotations

import os
import signal
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.e2e.facts import ServedFacts
from tests.e2e.serving import NOT_COUNTED, SHARED, SHARED_ROUTES, Server, answer
from tests.harness import Endpoint, Place, wait_until

if TYPE_CHECKING:
    import http.client
    from collections.abc import Sequence

    from tests.e2e.serving import Ran

pytestmark = pytest.mark.slow

WORKERS = 2
RELAYED = (("GET", "/relayed"),) * 4  # each fetches something
ASKED = RELAYED + SHARED


def _serve(*, one_is_killed: bool = False) -> Ran:
    """FastAPI under uvicorn with two workers: 48 requests that count, some that do not, SIGTERM."""
    endpoint = Endpoint()
    uvicorn = ["uvicorn", "--port", "0", "--workers", str(WORKERS), "--timeout-keep-alive", "300"]
    with Place(endpoint.url) as place, Server(place, *uvicorn, "tests.e2e.apps.fastapi_app:app") as server:
        workers = _ask(server, ASKED[::2])
        if one_is_killed:
            # An answer is on its way before brakit has seen the request's end.
            wait_until(lambda: server.requests_counted() == len(ASKED[::2]), "the count of what was asked so far")
            os.kill(workers[0], signal.SIGKILL)
        _ask(server, ASKED[1::2] + NOT_COUNTED)
        ran = server.stop(endpoint)
    endpoint.close()
    return ran


def _ask(server: Server, requests: Sequence[tuple[str, str]]) -> list[int]:
    """Each worker in turn. Returns the workers."""
    with ExitStack() as connections:
        by_worker: dict[int, http.client.HTTPConnection] = {}

        def connect() -> bool:
            """One more connection; it is kept, and with it its worker, where there was none to that worker."""
            connection = connections.enter_context(closing(server.connection()))
            with suppress(ConnectionRefusedError):  # uvicorn says its port before a worker listens to it
                by_worker.setdefault(int(answer(connection, "GET", "/health")), connection)
            return len(by_worker) == WORKERS

        wait_until(connect, "a connection to each worker")
        workers = list(by_worker)
        for number, (method, path) in enumerate(requests):
            worker = workers[number % WORKERS]
            answer(by_worker[worker], method, path)
            if path == "/broken":  # after which uvicorn hangs up
                del by_worker[worker]
                wait_until(connect, "another connection to that worker")
    return workers


@pytest.fixture(scope="class")
def ran(request: pytest.FixtureRequest) -> Ran:
    return _serve(**request.cls.manner)


class TestFastAPI(ServedFacts):
    framework = "fastapi"
    routes = SHARED_ROUTES + 1
    workers = WORKERS

    def test_all_fetches_are_counted(self, ran: Ran) -> None:
        assert ran.session["fetch_count"] == len(RELAYED)

    def test_the_setups_duration_is_brakits_where_the_integration_came_first(self, ran: Ran) -> None:
        assert ran.session["setup_duration_ms"] >= ran.properties("setup_completed")["setup_duration_ms"] > 0


class TestFastAPIWithOneWorkerKilled(TestFastAPI):
    manner: ClassVar = {"one_is_killed": True}
