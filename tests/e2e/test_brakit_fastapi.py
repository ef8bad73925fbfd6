from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.e2e.served_session import ServedSessionTests
from tests.e2e.serving import NOT_COUNTED, SHARED, SHARED_ROUTES, Server
from tests.e2e.users import ask_in_turn
from tests.harness import Endpoint, Place, wait_until

if TYPE_CHECKING:
    from tests.e2e.serving import Ran

pytestmark = pytest.mark.slow

WORKERS = 2
RELAYED = (("GET", "/relayed"),) * 4  # each request makes a fetch
REQUESTS = RELAYED + SHARED


def _serve(*, kill_one: bool = False) -> Ran:
    """Serve FastAPI by uvicorn with two workers. It gets 48 requests that count, other requests, and SIGTERM."""
    endpoint = Endpoint()
    uvicorn = ["uvicorn", "--port", "0", "--workers", str(WORKERS), "--timeout-keep-alive", "300"]
    with Place(endpoint.url) as place, Server(place, *uvicorn, "tests.e2e.apps.fastapi_app:app") as server:
        workers = ask_in_turn(server, REQUESTS[::2], WORKERS)
        if kill_one:
            # brakit counts a request only after its answer was sent.
            wait_until(lambda: server.requests_counted() == len(REQUESTS[::2]), "the count of the requests so far")
            os.kill(workers[0], signal.SIGKILL)
        ask_in_turn(server, REQUESTS[1::2] + NOT_COUNTED, WORKERS)
        ran = server.stop(endpoint)
    endpoint.close()
    return ran


@pytest.fixture(scope="class")
def ran(request: pytest.FixtureRequest) -> Ran:
    return _serve(**request.cls.serving)


class TestFastAPI(ServedSessionTests):
    framework = "fastapi"
    routes = SHARED_ROUTES + 1
    workers = WORKERS

    def test_all_fetches_are_counted(self, ran: Ran) -> None:
        assert ran.session["fetch_count"] == len(RELAYED)

    def test_the_setup_duration_includes_the_setup_of_brakit_if_the_integration_imports_it(self, ran: Ran) -> None:
        assert ran.session["setup_duration_ms"] >= ran.properties("setup_completed")["setup_duration_ms"] > 0


class TestFastAPIWithAKilledWorker(TestFastAPI):
    serving: ClassVar = {"kill_one": True}
