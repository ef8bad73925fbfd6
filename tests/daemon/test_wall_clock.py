"""The wall clock only stamps events: it may be set back and forward while a session runs."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from tests.harness import Endpoint, Place, Wire, end_process, new_id, wait_until

if TYPE_CHECKING:
    import subprocess

# A daemon whose wall clock is off by as many seconds as a file says.
SERVE = """
import datetime, os, sys, time
def off(): return float(open(os.environ["OFF"]).read())
class Set(datetime.datetime):
    @classmethod
    def now(cls, tz=None): return super().now(tz) + datetime.timedelta(seconds=off())
datetime.datetime, real = Set, time.time
time.time = lambda: real() + off()
from brakit_sidecar.cli import main
sys.exit(main(["serve"]))
"""
DAY_S = 86_400


class Clock:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._path = os.path.join(place.root, "off")
        self.set(0)

    def set(self, off_s: float) -> None:
        with open(self._path + ".new", "w", encoding="utf-8") as file:
            file.write(str(off_s))
        os.rename(file.name, self._path)

    def serve(self) -> subprocess.Popen[bytes]:
        served = self._place.popen(sys.executable, "-c", SERVE, OFF=self._path)
        wait_until(lambda: self._place.accepts() or served.poll() is not None, "a daemon that accepts")
        return served


@pytest.fixture
def clock(place: Place) -> Clock:
    return Clock(place)


@pytest.mark.parametrize("off_s", [-400 * DAY_S, 400 * DAY_S], ids=["back", "forward"])
def test_a_clock_that_is_set_amid_a_session_and_its_daemons_changes_no_number(
    place: Place, endpoint: Endpoint, clock: Clock, off_s: float
) -> None:
    session, producer = new_id(), new_id()
    before = datetime.now(timezone.utc)
    served = clock.serve()
    with Wire(place.socket_path).hello(session, producer=producer) as worker:
        worker.send(event={"name": "first_request", "port": 1}, total={"request_count": 3}).sync()
        clock.set(off_s)
        worker.send(total={"request_count": 4}).sync()
        served.kill()  # the next one goes on by the journal
        served.wait()
    served = clock.serve()
    with Wire(place.socket_path).hello(session, role="owner") as owner:
        owner.send(end={"exit_reason": "clean"})
        found = endpoint.session_of(session)
    took = datetime.now(timezone.utc) - before
    assert (found["request_count"], found["exit_reason"]) == (4, "clean")
    assert 1 <= found["session_duration_s"] <= took.total_seconds() + 1
    (stamped,) = [datetime.fromisoformat(body["timestamp"][:-1] + "+00:00") for body in endpoint.bodies_of("session")]
    assert timedelta(0) <= stamped - timedelta(seconds=off_s) - before <= took
    assert end_process(served) == 0
