"""A web server as the command of ``run``, in a directory of its own, and a user's requests to it."""

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

# What both applications are asked: 44 requests to six routes, eight of which make one query each, and four an error.
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

# Asked too, and no requests to the application: files, health checks, and what brakit's processes tell each other.
NOT_COUNTED = (
    ("GET", "/logo.svg"),
    ("GET", "/missing.css"),
    ("GET", "/health"),
    ("POST", "/__brakit/api/ingest"),
)


class Ran(NamedTuple):
    """What is to be seen of a session after its end."""

    code: int  # of the command line
    port: int
    bodies: list[dict[str, Any]]
    witnessed: list[dict[str, Any]]  # by the application's own processes

    def properties(self, event: str) -> dict[str, Any]:
        """Of the one event of that name."""
        (body,) = (body for body in self.bodies if body["event"] == event)
        properties: dict[str, Any] = body["properties"]
        return properties

    @property
    def session(self) -> dict[str, Any]:
        return self.properties("session")

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Those that count, as the workers saw them."""
        return [
            seen
            for seen in self.witnessed
            if seen["channel"] == "request:completed"
            and not (seen["is_static"] or seen["is_health_check"] or seen["url"].startswith("/__brakit"))
        ]


RUN = ("-m", "brakit_sidecar", "run", "--", sys.executable)


class Server:
    """A module of a server with its arguments, as the command of ``run`` or by itself. It says its port in its log."""

    def __init__(self, place: Place, *command: str, by_itself: bool = False) -> None:
        self._place = place
        self.directory = os.path.join(place.root, "shop")
        os.mkdir(self.directory)
        _stock(os.path.join(self.directory, "shop.db"))
        with open(os.path.join(self.directory, "touched.py"), "w", encoding="utf-8"):
            pass  # at whose change a server reloads, where it watches files
        self._log = os.path.join(place.root, "log")
        self._witness = os.path.join(place.root, "witness.jsonl")
        environ = {
            "PYTHONPATH": REPOSITORY,
            "WITNESS_FILE": self._witness,
            "POSTHOG_API_KEY": "phc_the_users_own",  # with which brakit's own telemetry would send
            "BRAKIT_PORT": "none",  # brakit looks for its Node core no further than here
        }
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(() if by_itself else RUN), "-m", *command],
                env={**place.environ, **environ},
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as a shell gives each command line a process group of its own
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
        """The answer's body. By a connection of its own, so that any worker may be the one that answers."""
        with closing(self.connection()) as connection:
            return answer(connection, method, path)

    def requests_counted(self) -> int:
        """By the daemon, so far."""
        (session,) = self._place.status()["sessions"]
        count: int = session["fields"]["request_count"]
        return count

    def stop(self, endpoint: Endpoint) -> Ran:
        """SIGTERM; returns when all that is to come has come."""
        code = end_process(self.process, signal.SIGTERM)
        endpoint.wait_for("session")
        assert self._place.run("stop").returncode == 0  # it sends what is left, and is gone
        with open(self._witness, encoding="utf-8") as file:
            witnessed = [json.loads(line) for line in file]
        return Ran(code, self.port, endpoint.bodies, witnessed)

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


def _stock(path: str) -> None:
    with closing(sqlite3.connect(path)) as shop, shop:
        shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT)")
        shop.executemany("INSERT INTO orders VALUES (?, ?)", [(order, f"thing {order}") for order in range(1, 9)])
