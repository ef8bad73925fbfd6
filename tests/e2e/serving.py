"""A web server as the command of ``run``, in a private directory, and a user's requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.harness import PATIENCE_S, end_process, wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from tests.harness import Endpoint, Place

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCES = os.path.join(REPOSITORY, "sidecar")  # the folder that holds the package

_USERS = (
    "1", "17", "4711", "5f1d7a84b2c9", "DEADBEEFdeadbeef00", "6f9d4c1e-3c56-5b0e-9a55-0b6f3d6a1c7e",
    "6F9D4C1E-3C56-5B0E-9A55-0B6F3D6A1C7E", "k3jd92ms", "A1B2C3D4E5", "2", "3", "99999999999999999999",
)  # fmt: skip

# Requests to both applications: 44 requests to six routes. Eight of them make a query each, and four fail.
SHARED = (
    *(("GET", f"/orders/{order}") for order in range(1, 9)),
    *[("GET", "/broken")] * 4,
    *[("GET", "/slow")] * 4,
    *(("GET", f"/users/{user}") for user in _USERS),
    *[("POST", "/users")] * 6,
    *(("GET", f"/?page={page}") for page in range(10)),
)
SHARED_ROUTES = 6
SHARED_QUERIES = 8
SHARED_ERRORS = 4

# Requests that do not count: for files, for health checks, and between brakit's own processes.
NOT_COUNTED = (
    ("GET", "/logo.svg"),
    ("GET", "/missing.css"),
    ("GET", "/health"),
    ("POST", "/__brakit/api/ingest"),
)


class Ran(NamedTuple):
    """A session that has ended, as seen from the outside and as recorded by its workers."""

    code: int  # the exit code of the whole command
    port: int
    bodies: list[dict[str, Any]]
    recorded: list[dict[str, Any]]  # the lines of tests.e2e.apps.event_recorder in all workers

    def properties(self, event: str) -> dict[str, Any]:
        """Return the properties of the only event with that name."""
        (body,) = (body for body in self.bodies if body["event"] == event)
        properties: dict[str, Any] = body["properties"]
        return properties

    @property
    def session(self) -> dict[str, Any]:
        return self.properties("session")

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The requests that count, as the workers recorded them."""
        return [
            record
            for record in self.recorded
            if record["channel"] == "request:completed"
            and not (record["is_static"] or record["is_health_check"] or record["url"].startswith("/__brakit"))
        ]


RUN = ("-m", "brakit_sidecar", "run", "--", sys.executable)


class Server:
    """A server, started as a Python module with arguments, below ``run`` or by itself. Its log names its port."""

    def __init__(self, place: Place, *command: str, by_itself: bool = False) -> None:
        self._place = place
        self.directory = os.path.join(place.root, "shop")
        os.mkdir(self.directory)
        _make_database(os.path.join(self.directory, "shop.db"))
        with open(os.path.join(self.directory, "touched.py"), "w", encoding="utf-8"):
            pass  # a server that watches files reloads when this file changes
        self._log = os.path.join(place.root, "log")
        self._records = os.path.join(place.root, "records.jsonl")
        environ = {
            "PYTHONPATH": REPOSITORY,
            "EVENT_RECORD_FILE": self._records,
            "POSTHOG_API_KEY": "phc_the_users_own",  # brakit's own telemetry would send with this key
            "BRAKIT_PORT": "none",  # keeps brakit from looking for its Node core
        }
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(() if by_itself else RUN), "-m", *command],
                env={**place.environ, **environ},
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own, as a shell gives to each command
            )
        self.port = self._await_port()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            end_process(self.process)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def request(self, method: str, path: str) -> bytes:
        """Return the answer's body. Uses a new connection, so that any worker may answer."""
        with closing(self.connection()) as connection:
            return answer(connection, method, path)

    def requests_counted(self) -> int:
        """Return the number of requests that the daemon has counted so far."""
        (session,) = self._place.status()["sessions"]
        count: int = session["fields"]["request_count"]
        return count

    def stop(self, endpoint: Endpoint) -> Ran:
        """End the server by SIGTERM, and return the session after all its events have arrived."""
        code = end_process(self.process, signal.SIGTERM)
        endpoint.wait_for("session")
        assert self._place.run("stop").returncode == 0  # the daemon sends the queued events and exits
        with open(self._records, encoding="utf-8") as file:
            recorded = [json.loads(line) for line in file]
        return Ran(code, self.port, endpoint.bodies, recorded)

    def _await_port(self) -> int:
        found: list[str] = []

        def look() -> bool:
            with open(self._log, encoding="utf-8") as log:
                found[:] = re.findall(r"http://127\.0\.0\.1:(\d+)", log.read())
            return bool(found) or self.process.poll() is not None

        wait_until(look, "the server's start")
        assert found, "the server ended before it listened"
        return int(found[0])


def answer(connection: http.client.HTTPConnection, method: str, path: str) -> bytes:
    connection.request(method, path)
    response = connection.getresponse()
    assert response.status < 500 or path == "/broken", f"{method} {path} failed: {response.status}"
    return response.read()


def _make_database(path: str) -> None:
    with closing(sqlite3.connect(path)) as shop, shop:
        shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT)")
        shop.executemany("INSERT INTO orders VALUES (?, ?)", [(order, f"thing {order}") for order in range(1, 9)])
