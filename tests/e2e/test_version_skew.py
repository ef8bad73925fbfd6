"""Of two versions with different protocols each has its daemon, and finishes its sessions; what one of them says to the
other is refused, and costs nobody anything. The other version is this one with another number.
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

from tests.harness import PATIENCE_S, Endpoint, Place, end_process, new_id, wait_until

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


class Nexts:
    """The next version's commands in the same place, with a daemon that runs."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.socket_path = place.socket_path.replace("-1.", "-2.")
        self.daemon = place.popen(sys.executable, "-c", NEXT, "serve")
        wait_until(lambda: os.path.exists(self.socket_path) or self.daemon.poll() is not None, "the next daemon")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", NEXT, *arguments],
            env=self._place.environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    def sessions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)["sessions"]
        return found


@contextmanager
def nexts(place: Place) -> Iterator[Nexts]:
    beside = Nexts(place)
    try:
        yield beside
    finally:
        assert end_process(beside.daemon) == 0


def test_a_next_daemon_leaves_sessions_under_way_to_the_one_before(place: Place, endpoint: Endpoint) -> None:
    place.serve()
    worker = subprocess.Popen(
        [sys.executable, "-c", f"{COUNT}\nimport sys\nsys.stdout.flush()\nsys.stdin.read()\nt.incr('query_count')"],
        env={**place.environ, "BRAKIT_SESSION_ID": (session := new_id())},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdout is not None
    worker.stdout.readline()
    with nexts(place) as beside:
        assert beside.sessions() == []
        worker.communicate("", PATIENCE_S)
        found = endpoint.end_of(session)
    assert (found["request_count"], found["query_count"], found["exit_reason"]) == (3, 1, "clean")
    assert len(endpoint.named("session")) == 1


def test_each_versions_run_has_its_own_daemon_and_its_own_session(place: Place, endpoint: Endpoint) -> None:
    counts_as_the_next = NEXT.partition("from")[0] + COUNT
    with nexts(place) as beside:
        assert beside.run("run", "--", sys.executable, "-c", counts_as_the_next).stdout == "ran\n"
        assert place.run("run", "--", sys.executable, "-c", COUNT).stdout == "ran\n"
        assert place.run("run", "--", sys.executable, "-c", COUNT).stdout == "ran\n"
        bodies = endpoint.wait_for("session", 3)
    assert [body["properties"]["request_count"] for body in bodies] == [3, 3, 3]


def test_a_worker_of_another_version_than_its_run_counts_nothing_and_runs_on(place: Place, endpoint: Endpoint) -> None:
    with nexts(place) as beside:
        ran = beside.run("run", "--", sys.executable, "-c", COUNT)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ran\n", "")
        assert endpoint.only_session()["request_count"] == 0
        assert json.loads(beside.run("status", "--json").stdout)["refused"].keys() == {"bad_hello"}


# --- a daemon of ours in name only -------------------------------------------------------------------------


@contextmanager
def answering(place: Place, answer: bytes) -> Iterator[list[int]]:
    """One that says that to whoever connects, and hangs up. Counts who came."""
    os.mkdir(os.path.dirname(place.socket_path), 0o700)
    came = [0]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place.socket_path)
        listening.listen(1024)

        def answer_all() -> None:
            with suppress(OSError):  # closed
                while True:
                    stream, _ = listening.accept()
                    with stream, suppress(OSError):
                        came[0] += 1
                        stream.recv(65536)
                        stream.sendall(answer)

        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            yield came
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
    os.unlink(place.socket_path)


REFUSED = b'{"refused":{"reason":"bad_hello","line":1}}\n'

# For about two seconds.
BUSY = """
import time, brakit_sidecar
t = brakit_sidecar.connect()
until = time.monotonic() + 2
while time.monotonic() < until:
    t.incr("request_count"); t.mark("insight_count", str(time.monotonic())); t.event("cli_invoked", command="run")
print("ran")
"""


def test_a_worker_that_is_refused_does_not_try_again_with_each_call(place: Place) -> None:
    with answering(place, REFUSED) as came:
        started = time.monotonic()
        ran = place.python(BUSY)
        took_s = time.monotonic() - started
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ran\n", "")
    assert came[0] <= 3 + 2 * took_s


@pytest.mark.parametrize("answer", [REFUSED, b'{"answer":null}\n', b'{"answer":{"running":true}}\n', b"no JSON\n"])
def test_who_answers_otherwise_is_no_daemon_of_ours_and_run_does_not_wait_for_it(place: Place, answer: bytes) -> None:
    with answering(place, answer):
        ran = place.run("start")
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
        assert "end that process" in ran.stderr
        ran = place.run("status")
        assert (ran.returncode, ran.stderr) == (1, "")
        ran = place.run("run", "--", sys.executable, "-c", COUNT)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ran\n", "")
