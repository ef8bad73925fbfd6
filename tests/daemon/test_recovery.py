"""What a dead daemon left behind may be anything by now: what of it is spoilt costs itself, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.daemon.counter_files import left_behind

from tests.harness import Endpoint, Place, Wire, end_process, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

# A daemon that cannot recover what has this in its name.
FAILING = """
import sys
from brakit_sidecar.daemon import recovery, start

def failing(what):
    def fail(daemon, name, *rest):
        if name == sys.argv[1]:
            raise ArithmeticError(name)
        return what(daemon, name, *rest)
    return fail

recovery._recover, recovery._take_in = failing(recovery._recover), failing(recovery._take_in)
start.foreground()
"""

COUNTS = """
import time
import brakit_sidecar
brakit_sidecar.connect().incr("request_count", 3)
time.sleep(600)
"""


class Killed:
    """A place whose daemon was killed amid a session, in which three requests had been counted."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.session = new_id()
        served = place.serve()
        with Wire(place.socket_path).hello(self.session) as wire:
            wire.send(incr={"request_count": 3}).sync()
            end_process(served, signal.SIGKILL)
        self.state = os.path.join(place.home, ".local", "state", "brakit")
        (journal,) = [name for name in os.listdir(self.state) if name.startswith("journal")]
        self.journal = os.path.join(self.state, journal)

    def beside(self, session: str) -> str:
        """The path of another session's journal: below all others, and so read first."""
        return os.path.join(self.journal, session + ".jsonl")


def counted(place: Place) -> dict[str, int]:
    """The requests of each open session."""
    return {session["id"]: session["fields"]["request_count"] for session in place.status()["sessions"]}


@pytest.fixture
def killed(place: Place) -> Killed:
    return Killed(place)


FIRST = "00000000-0000-4000-8000-000000000000"


def a_directory(path: str) -> None:
    os.mkdir(path, 0o700)


def a_loop(path: str) -> None:
    os.symlink(path, path)


def a_pipe(path: str) -> None:
    os.mkfifo(path, 0o600)


def deeply_nested(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("[" * 100_000 + "\n")


SPOILT = [a_directory, a_loop, a_pipe, deeply_nested]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_journal_that_cannot_be_read_is_no_other_sessions_loss(killed: Killed, spoil: Callable[[str], None]) -> None:
    spoil(killed.beside(FIRST))
    killed.place.serve()
    assert counted(killed.place)[killed.session] == 3


@pytest.mark.parametrize("name", ["receipts.jsonl", "receipts.old.jsonl"])
@pytest.mark.parametrize("spoil", [a_directory, a_loop, deeply_nested])
def test_receipts_that_cannot_be_read_are_no_sessions_loss(
    killed: Killed, name: str, spoil: Callable[[str], None]
) -> None:
    spoil(os.path.join(killed.state, name))
    killed.place.serve()
    assert counted(killed.place)[killed.session] == 3


def test_what_was_under_way_is_sent_again_also_where_nobody_can_say_whether_it_was(
    place: Place, endpoint: Endpoint
) -> None:
    endpoint.may_answer.clear()
    killed = Killed(place)
    os.mkdir(os.path.join(killed.state, "receipts.jsonl"), 0o700)
    served = place.serve()
    wait_until(lambda: endpoint.requests, "the first attempt")
    end_process(served, signal.SIGKILL)
    endpoint.may_answer.set()
    place.serve()
    bodies = endpoint.wait_for("session", 2)
    assert bodies[0] == bodies[1]


def test_behind_a_link_nothing_is_ours_to_remove(killed: Killed) -> None:
    elsewhere = os.path.join(killed.place.root, "elsewhere")
    os.rename(killed.journal, elsewhere)
    os.symlink(elsewhere, killed.journal)
    kept = os.path.join(elsewhere, "somebody's")
    with open(kept, "w", encoding="ascii") as file:
        file.write("precious")
    served = killed.place.serve()
    killed.place.status()
    end_process(served)
    killed.place.run("telemetry", "off")
    assert os.path.exists(kept)


@pytest.mark.parametrize("wrong", [{"owner_pid": "1"}, {"owner_pid": [1]}], ids=str)
def test_a_beginning_that_is_none_of_ours_is_no_other_sessions_loss(killed: Killed, wrong: dict[str, object]) -> None:
    with open(killed.beside(killed.session), encoding="ascii") as file:
        first, opened, *rest = [json.loads(line) for line in file]
    assert "opened" in opened
    with open(killed.beside(FIRST), "w", encoding="ascii") as file:
        file.writelines(json.dumps(line) + "\n" for line in [{**first, "of": FIRST}, {**opened, **wrong}, *rest])
    killed.place.serve()
    assert counted(killed.place)[killed.session] == 3


def test_a_session_that_cannot_be_recovered_is_no_other_ones_loss(killed: Killed) -> None:
    with open(killed.beside(killed.session), encoding="ascii") as file:
        lines = file.read()
    with open(killed.beside(FIRST), "w", encoding="ascii") as file:
        file.write(lines.replace(killed.session, FIRST))
    served = killed.place.popen(sys.executable, "-c", FAILING, FIRST)
    try:
        wait_until(killed.place.accepts, "a daemon that accepts")
        assert counted(killed.place) == {killed.session: 3}
    finally:
        end_process(served)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a memory has no name")
def test_a_memory_that_cannot_be_taken_in_is_no_other_ones_loss(place: Place) -> None:
    served, sessions = place.serve(), (new_id(), new_id())
    workers = [place.popen(sys.executable, "-c", COUNTS, BRAKIT_SESSION_ID=session) for session in sessions]
    wait_until(lambda: counted(place) == dict.fromkeys(sessions, 3), "the workers' counts")
    end_process(served, signal.SIGKILL)
    for worker in workers:
        end_process(worker, signal.SIGKILL)
    shutil.rmtree(os.path.join(place.home, ".local", "state", "brakit"))
    failing, memory = next(left_behind(place.socket_path, {}))
    lost = memory.origin.session
    served = place.popen(sys.executable, "-c", FAILING, failing)
    try:
        wait_until(place.accepts, "a daemon that accepts")
        assert counted(place) == {session: 3 for session in sessions if session != lost}
    finally:
        end_process(served)
