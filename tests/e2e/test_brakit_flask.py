from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.e2e.served_session import ServedSessionTests
from tests.e2e.serving import NOT_COUNTED, SHARED, SHARED_ROUTES, Server
from tests.e2e.users import ask_at_once
from tests.harness import Endpoint, Place, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.e2e.serving import Ran

pytestmark = pytest.mark.slow

WORKERS = 4
# These requests are answered only when each worker handles one of them, so that each worker gets a request.
MEETING = [("GET", f"/meet/{WORKERS}")] * WORKERS


def _serve(*, options: Sequence[str] = (), by_itself: bool = False, kill_one: bool = False) -> Ran:
    """Serve Flask by gunicorn with four workers. It gets 48 requests that count, other requests, and SIGTERM."""
    endpoint = Endpoint()
    gunicorn = ["gunicorn", "--bind", "127.0.0.1:0", "--workers", str(WORKERS), "--timeout", "300", *options]
    with (
        Place(endpoint.url) as place,
        Server(place, *gunicorn, "tests.e2e.apps.flask_app:app", by_itself=by_itself) as server,
    ):
        workers = ask_at_once(server, MEETING, WORKERS)
        ask_at_once(server, SHARED[::2], WORKERS)
        if kill_one:
            _kill(server, int(workers[0]))
        ask_at_once(server, SHARED[1::2] + NOT_COUNTED, WORKERS)
        ran = server.stop(endpoint)
    endpoint.close()
    return ran


def _kill(server: Server, worker: int) -> None:
    """Kill the worker, and return when its successor answers a health check. Health checks do not count."""
    known = {int(pid) for pid in os.listdir(os.path.join(server.directory, "met"))}
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: int(server.request("GET", "/health")) not in known, "a new worker's answer")


@pytest.fixture(scope="class")
def ran(request: pytest.FixtureRequest) -> Ran:
    return _serve(**request.cls.serving)


class TestFlask(ServedSessionTests):
    framework = "flask"
    routes = SHARED_ROUTES + 1
    workers = WORKERS


class TestFlaskLoadedBeforeTheFork(TestFlask):
    serving: ClassVar = {"options": ["--preload"]}


class TestFlaskWithAKilledWorker(TestFlask):
    serving: ClassVar = {"kill_one": True}


class TestFlaskWithoutRun(TestFlask):
    """The workers join one session by their process group, and start the daemon."""

    serving: ClassVar = {"by_itself": True}
    exit_reason = "clean"  # the last worker's own reason, because the session has no owner
