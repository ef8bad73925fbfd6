"""Real servers reload, replace their workers and get a signal.

Each server makes one session, which has every request and the right exit reason.
"""

from __future__ import annotations

import http.client
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.e2e.serving import Server
from tests.harness import Endpoint, Place, end_process, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

APP = "tests.e2e.apps.plain"
GUNICORN = ("gunicorn", "-b", "127.0.0.1:0", "-w", "2", f"{APP}:wsgi")
UVICORN = ("uvicorn", "--port", "0", f"{APP}:asgi")
FLASK = ("flask", "--app", f"{APP}:flask_app", "run", "--debug", "-p", "0", "--extra-files", "touched.py")


class Visitor:
    """A client of the server. It counts the answers, and keeps the pids of the workers and of their parents."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.answered = 0
        self.unanswered = 0  # requests that were sent whole, so that a worker may have counted them before it ended
        self.processes: set[int] = set()
        self.parents: set[int] = set()
        self._last = 0

    def visit(self, times: int = 1) -> int:
        """Make the requests, and return the pid of the worker that answered last. Waits for the first answer, because a
        server may log its port before it listens.
        """
        if not self.answered:
            self._await(lambda: bool(self._one()))
            times -= 1
        for _ in range(times):
            self._one()
        return self._last

    def _one(self) -> int:
        try:
            answer = self._server.request("GET", "/")
        except ConnectionRefusedError:
            raise
        except (OSError, http.client.HTTPException):
            self.unanswered += 1
            raise
        self._last, parent = map(int, answer.split())
        self.answered += 1
        self.processes.add(self._last)
        self.parents.add(parent)
        return self._last

    def visit_until_another_answers(self, before_each: Callable[[], object] = lambda: None) -> None:
        before = set(self.processes)

        def another_answers() -> bool:
            before_each()
            return self._one() not in before

        self._await(another_answers)

    def _await(self, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            with suppress(OSError, http.client.HTTPException):  # no worker listens at this moment
                return condition()
            return False

        wait_until(holds, "an answer")


def send_sighup(_server: Server, visitor: Visitor) -> None:
    """Send gunicorn's master the signal at which it reloads."""
    (master,) = visitor.parents
    os.kill(master, signal.SIGHUP)
    visitor.visit_until_another_answers()


def touch_file(server: Server, visitor: Visitor) -> None:
    """Before each request, touch the file whose change makes the other servers reload. One change is not enough,
    because a change before the server first reads the file's time has no effect.
    """

    def change() -> None:
        later = time.time() + 10
        os.utime(os.path.join(server.directory, "touched.py"), (later, later))

    visitor.visit_until_another_answers(change)


def wait_for_replacement(_server: Server, visitor: Visitor) -> None:
    """Make requests until the server has replaced a worker by itself."""
    visitor.visit_until_another_answers()


@pytest.mark.parametrize(
    ("command", "reload", "number"),
    [
        (GUNICORN, send_sighup, signal.SIGTERM),
        ((*GUNICORN, "--max-requests", "5"), wait_for_replacement, signal.SIGINT),
        ((*GUNICORN, "-k", "gevent"), send_sighup, signal.SIGTERM),
        ((*UVICORN, "--workers", "2"), None, signal.SIGTERM),
        ((*UVICORN, "--reload"), touch_file, signal.SIGINT),
        (FLASK, touch_file, signal.SIGINT),
    ],
    ids=[
        "gunicorn HUP",
        "gunicorn max-requests",
        "gunicorn gevent",
        "uvicorn workers",
        "uvicorn reload",
        "flask reloader",
    ],
)
def test_a_server_that_reloads_makes_one_session_with_every_request(
    place: Place,
    endpoint: Endpoint,
    command: tuple[str, ...],
    reload: Callable[[Server, Visitor], None] | None,
    number: signal.Signals,
) -> None:
    with Server(place, *command) as server:
        visitor = Visitor(server)
        visitor.visit(20)
        if reload is not None:
            reload(server, visitor)
        visitor.visit(10)
        end_process(server.process, number)
    found = endpoint.only_session()
    assert visitor.answered >= 30
    assert 0 <= found["request_count"] - visitor.answered <= visitor.unanswered
    assert found["exit_reason"] == {signal.SIGTERM: "sigterm", signal.SIGINT: "sigint"}[number]
    assert place.run("stop").returncode == 0
    assert len(endpoint.bodies_of("session")) == 1


def test_no_request_is_lost_if_a_worker_is_killed_and_replaced(place: Place, endpoint: Endpoint) -> None:
    with Server(place, *GUNICORN) as server:
        visitor = Visitor(server)
        os.kill(visitor.visit(10), signal.SIGKILL)
        visitor.visit_until_another_answers()
        end_process(server.process)
    assert endpoint.only_session()["request_count"] == visitor.answered


def test_the_exit_reason_is_crash_if_the_owner_is_killed(place: Place, endpoint: Endpoint) -> None:
    with Server(place, *GUNICORN) as server:
        visitor = Visitor(server)
        visitor.visit(10)
        server.process.kill()
        found = endpoint.only_session()
        for master in visitor.parents:
            os.kill(master, signal.SIGTERM)
    assert (found["request_count"], found["exit_reason"]) == (10, "crash")
