"""Users of a served application: they make requests at once, or to each of its workers in turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from tests.e2e.serving import answer
from tests.harness import wait_until

if TYPE_CHECKING:
    import http.client
    from collections.abc import Sequence

    from tests.e2e.serving import Server

Request = tuple[str, str]  # method and path


def ask_at_once(server: Server, requests: Sequence[Request], users: int) -> list[bytes]:
    """Make the requests by so many users at once, each on a new connection. Returns the answers in order."""
    with ThreadPoolExecutor(users) as pool:
        return list(pool.map(lambda request: server.request(*request), requests))


def ask_in_turn(server: Server, requests: Sequence[Request], workers: int) -> list[int]:
    """Make the requests to each of the workers in turn, on connections that stay open. Returns the workers' pids."""
    with ExitStack() as connections:
        by_worker: dict[int, http.client.HTTPConnection] = {}

        def connect() -> bool:
            """Open a connection, and keep it if it is the first to its worker. Returns whether each worker has one."""
            connection = connections.enter_context(closing(server.connection()))
            with suppress(ConnectionRefusedError):  # uvicorn logs its port before a worker listens
                by_worker.setdefault(int(answer(connection, "GET", "/health")), connection)
            return len(by_worker) == workers

        wait_until(connect, "a connection to each worker")
        pids = list(by_worker)
        for number, (method, path) in enumerate(requests):
            pid = pids[number % workers]
            answer(by_worker[pid], method, path)
            if path == "/broken":  # uvicorn closes the connection after an error
                del by_worker[pid]
                wait_until(connect, "another connection to that worker")
    return pids
