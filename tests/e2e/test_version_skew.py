"""Two versions with different protocols. Each version has its own daemon, which finishes the version's own sessions.
The daemon refuses the other version's lines without any other effect. The next version is a copy of this version with a
higher protocol number.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import PATIENCE_S, Endpoint, Place, end_process, new_id, run_to_end, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

NEXT = (
    "import sys, brakit_sidecar.core.wire as wire; wire.PROTOCOL = 2;"
    " from brakit_sidecar.cli import main; sys.exit(main())"
)
COUNT = (
    "from brakit_sidecar import connect;"
    " t = connect(); t.incr('request_count', 3); t.set(framework='flask'); print('ran')"
)


class NextVersion:
    """The next version's commands in the same place, and its running daemon."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.socket_path = place.socket_path.replace("-1.", "-2.")
        self.daemon = place.popen(sys.executable, "-c", NEXT, "serve")
        wait_until(lambda: os.path.exists(self.socket_path) or self.daemon.poll() is not None, "the next daemon")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_to_end([sys.executable, "-c", NEXT, *arguments], self._place.environ)

    def sessions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)["sessions"]
        return found


@contextmanager
def next_version(place: Place) -> Iterator[NextVersion]:
    later = NextVersion(place)
    try:
        yield later
    finally:
        assert end_process(later.daemon) == 0


def test_the_next_versions_daemon_leaves_open_sessions_to_the_older_daemon(place: Place, endpoint: Endpoint) -> None:
    place.serve()
    worker = subprocess.Popen(
        [sys.executable, "-c", f"{COUNT}\nimport sys\nsys.stdout.flush()\nsys.stdin.read()\nt.incr('query_count')"],
        env={**place.environ, "BRAKIT_SESSION_ID": (session := new_id())},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdout is not None
    worker.stdout.readline()
    with next_version(place) as later:
        assert later.sessions() == []
        worker.communicate("", PATIENCE_S)
        found = endpoint.session_of(session)
    assert (found["request_count"], found["query_count"], found["exit_reason"]) == (3, 1, "clean")
    assert len(endpoint.bodies_of("session")) == 1


def test_each_versions_run_has_a_daemon_and_a_session_of_its_own(place: Place, endpoint: Endpoint) -> None:
    next_worker = NEXT.partition("from")[0] + COUNT
    with next_version(place) as later:
        assert later.run("run", "--", sys.executable, "-c", next_worker).stdout == "ran\n"
        assert place.run("run", "--", sys.executable, "-c", COUNT).stdout == "ran\n"
        assert place.run("run", "--", sys.executable, "-c", COUNT).stdout == "ran\n"
        bodies = endpoint.wait_for("session", 3)
    assert [body["properties"]["request_count"] for body in bodies] == [3, 3, 3]


def test_a_worker_of_another_version_than_run_works_and_counts_nothing(place: Place, endpoint: Endpoint) -> None:
    with next_version(place) as later:
        ran = later.run("run", "--", sys.executable, "-c", COUNT)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ran\n", "")
        wait_until(place.receipts, "the session's receipt")
        assert [(receipt["event"], receipt["reason"]) for receipt in place.receipts()] == [("session", "nobody_joined")]
        assert endpoint.requests == []
        assert json.loads(later.run("status", "--json").stdout)["refused"].keys() == {"bad_hello"}


# --- a server at our socket that is not our daemon ---------------------------------------------------------


@contextmanager
def answering(place: Place, answer: bytes) -> Iterator[list[int]]:
    """Serve the place's socket: each client gets the answer, then EOF. Yields a list with the number of clients."""
    os.mkdir(os.path.dirname(place.socket_path), 0o700)
    clients = [0]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place.socket_path)
        listening.listen(1024)

        def answer_all() -> None:
            with suppress(OSError):  # the socket is closed
                while True:
                    stream, _ = listening.accept()
                    with stream, suppress(OSError):
                        clients[0] += 1
                        stream.recv(65536)
                        stream.sendall(answer)

        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield clients
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
    os.unlink(place.socket_path)


REFUSED = b'{"refused":{"reason":"bad_hello","line":1}}\n'

# A worker that makes calls for two seconds.
BUSY = """
import time, brakit_sidecar
t = brakit_sidecar.connect()
until = time.monotonic() + 2
while time.monotonic() < until:
    t.incr("request_count"); t.mark("insight_count", str(time.monotonic())); t.event("cli_invoked", command="run")
print("ran")
"""


def test_a_refused_worker_does_not_reconnect_with_each_call(place: Place) -> None:
    with answering(place, REFUSED) as clients:
        started = time.monotonic()
        ran = place.run_python(BUSY)
        took_s = time.monotonic() - started
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ran\n", "")
    assert clients[0] <= 3 + 2 * took_s


@pytest.mark.parametrize("answer", [REFUSED, b'{"answer":null}\n', b'{"answer":{"running":true}}\n', b"no JSON\n"])
def test_run_does_not_wait_for_a_server_that_does_not_answer_like_a_daemon(place: Place, answer: bytes) -> None:
    with answering(place, answer):
        ran = place.run("start")
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
        assert "end that process" in ran.stderr
        ran = place.run("status")
        assert (ran.returncode, ran.stderr) == (1, "")
        ran = place.run("run", "--", sys.executable, "-c", COUNT)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ran\n", "")
