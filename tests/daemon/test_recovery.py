"""Recovery from spoilt files: what cannot be read is lost, and everything else is recovered."""

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

# Runs a daemon that fails to recover the session or the counter file that its argument names.
FAILING = """
import sys
from brakit_sidecar.daemon import start
from brakit_sidecar.daemon.recovery import Recovery

def failing(step):
    def fail(recovery, name, *rest):
        if name == sys.argv[1]:
            raise ArithmeticError(name)
        return step(recovery, name, *rest)
    return fail

Recovery._recover_session = failing(Recovery._recover_session)
Recovery._recover_counter_file = failing(Recovery._recover_counter_file)
start.foreground()
"""

COUNTS = """
import time
import brakit_sidecar
brakit_sidecar.connect().incr("request_count", 3)
time.sleep(600)
"""


class Killed:
    """A place whose daemon was killed during a session of three requests."""

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

    def journal_of(self, session: str) -> str:
        """Return the path of a session's journal."""
        return os.path.join(self.journal, session + ".jsonl")


def request_counts(place: Place) -> dict[str, int]:
    """Return the number of requests of each open session."""
    return {session["id"]: session["fields"]["request_count"] for session in place.status()["sessions"]}


@pytest.fixture
def killed(place: Place) -> Killed:
    return Killed(place)


FIRST = "00000000-0000-4000-8000-000000000000"  # below all other session ids, so its journal is read first


def make_directory(path: str) -> None:
    os.mkdir(path, 0o700)


def make_link_to_itself(path: str) -> None:
    os.symlink(path, path)


def make_pipe(path: str) -> None:
    os.mkfifo(path, 0o600)


def make_deeply_nested_json(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("[" * 100_000 + "\n")


SPOILT = [make_directory, make_link_to_itself, make_pipe, make_deeply_nested_json]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_journal_that_cannot_be_read_costs_no_other_session(killed: Killed, spoil: Callable[[str], None]) -> None:
    spoil(killed.journal_of(FIRST))
    killed.place.serve()
    assert request_counts(killed.place)[killed.session] == 3


@pytest.mark.parametrize("name", ["receipts.jsonl", "receipts.old.jsonl"])
@pytest.mark.parametrize("spoil", [make_directory, make_link_to_itself, make_deeply_nested_json])
def test_receipts_that_cannot_be_read_cost_no_session(killed: Killed, name: str, spoil: Callable[[str], None]) -> None:
    spoil(os.path.join(killed.state, name))
    killed.place.serve()
    assert request_counts(killed.place)[killed.session] == 3


def test_an_unfinished_attempt_is_repeated_if_the_receipts_cannot_be_read(place: Place, endpoint: Endpoint) -> None:
    endpoint.may_answer.clear()
    killed = Killed(place)
    os.mkdir(os.path.join(killed.state, "receipts.jsonl"), 0o700)
    served = place.serve(grace_s=0.5)
    wait_until(lambda: endpoint.requests, "the first attempt")
    end_process(served, signal.SIGKILL)
    endpoint.may_answer.set()
    place.serve()
    bodies = endpoint.wait_for("session", 2)
    assert bodies[0] == bodies[1]


def test_nothing_behind_a_link_is_removed(killed: Killed) -> None:
    elsewhere = os.path.join(killed.place.root, "elsewhere")
    os.rename(killed.journal, elsewhere)
    os.symlink(elsewhere, killed.journal)
    kept = os.path.join(elsewhere, "a-foreign-file")
    with open(kept, "w", encoding="ascii") as file:
        file.write("precious")
    served = killed.place.serve()
    killed.place.status()
    end_process(served)
    killed.place.run("telemetry", "off")
    assert os.path.exists(kept)


@pytest.mark.parametrize("wrong", [{"owner_pid": "1"}, {"owner_pid": [1]}], ids=str)
def test_a_journal_that_begins_with_a_foreign_record_costs_no_other_session(
    killed: Killed, wrong: dict[str, object]
) -> None:
    with open(killed.journal_of(killed.session), encoding="ascii") as file:
        first, opened, *rest = [json.loads(line) for line in file]
    assert "opened" in opened
    with open(killed.journal_of(FIRST), "w", encoding="ascii") as file:
        file.writelines(json.dumps(line) + "\n" for line in [{**first, "of": FIRST}, {**opened, **wrong}, *rest])
    killed.place.serve()
    assert request_counts(killed.place)[killed.session] == 3


def test_a_session_that_cannot_be_recovered_costs_no_other_session(killed: Killed) -> None:
    with open(killed.journal_of(killed.session), encoding="ascii") as file:
        lines = file.read()
    with open(killed.journal_of(FIRST), "w", encoding="ascii") as file:
        file.write(lines.replace(killed.session, FIRST))
    served = killed.place.popen(sys.executable, "-c", FAILING, FIRST)
    try:
        wait_until(killed.place.accepts, "a daemon that accepts")
        assert request_counts(killed.place) == {killed.session: 3}
    finally:
        end_process(served)


@pytest.mark.skipif(sys.platform != "linux", reason="a counter file has a name only on Linux")
def test_a_counter_file_that_cannot_be_recovered_costs_no_other_one(place: Place) -> None:
    served, sessions = place.serve(), (new_id(), new_id())
    workers = [place.popen(sys.executable, "-c", COUNTS, BRAKIT_SESSION_ID=session) for session in sessions]
    wait_until(lambda: request_counts(place) == dict.fromkeys(sessions, 3), "the workers' counts")
    end_process(served, signal.SIGKILL)
    for worker in workers:
        end_process(worker, signal.SIGKILL)
    shutil.rmtree(os.path.join(place.home, ".local", "state", "brakit"))
    failing, left = next(left_behind(place.socket_path, {}))
    lost = left.origin.session
    served = place.popen(sys.executable, "-c", FAILING, failing)
    try:
        wait_until(place.accepts, "a daemon that accepts")
        assert request_counts(place) == {session: 3 for session in sessions if session != lost}
    finally:
        end_process(served)
