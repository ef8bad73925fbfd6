"""The daemon is killed by SIGKILL between the end of a session and its receipt, or before any session. Each event
arrives once, and no session is opened a second time.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.crashing import Worker, journal_of, kill_daemon, open_session, runtime_files
from tests.harness import JOIN_THEN, Endpoint, Place, Wire, end_process, new_id, wait_until

pytestmark = pytest.mark.slow


def test_an_event_whose_attempt_was_interrupted_is_sent_again_byte_for_byte(place: Place, endpoint: Endpoint) -> None:
    endpoint.may_answer.clear()
    assert place.run("run", "--", *JOIN_THEN, "true").returncode == 0
    wait_until(lambda: endpoint.requests, "the first attempt")
    kill_daemon(place)
    endpoint.may_answer.set()
    place.serve()
    wait_until(place.receipts, "the receipt")
    (receipt,) = place.receipts()
    assert receipt["outcome"] == "sent"
    assert [body.decode() for _path, _headers, body in endpoint.requests] == [receipt["body"]] * 2


def test_an_event_with_a_receipt_is_not_sent_again(place: Place, endpoint: Endpoint) -> None:
    served = place.serve()
    assert place.run("emit", "cli_invoked", "command=run").returncode == 0
    assert place.run("run", "--", *JOIN_THEN, "true").returncode == 0
    endpoint.wait_for("session")
    wait_until(lambda: len(place.receipts()) == 2, "the receipts")
    end_process(served, signal.SIGKILL)
    place.serve()
    assert place.run("stop").returncode == 0
    assert len(endpoint.requests) == len(place.receipts()) == 2


def test_an_event_without_a_session_survives_the_kill(place: Place, endpoint: Endpoint) -> None:
    endpoint.may_answer.clear()
    assert place.run("emit", "cli_invoked", "command=run").returncode == 0
    kill_daemon(place)
    endpoint.may_answer.set()
    place.serve()
    endpoint.wait_for("cli_invoked")
    wait_until(lambda: journal_of(place) == [], "the end of the journal")


def test_after_a_power_cut_the_next_start_finishes_the_session(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    with Wire(place.socket_path).hello(session) as wire:
        wire.send(incr={"request_count": 3}).sync()
        end_process(served, signal.SIGKILL)
    (journal,) = journal_of(place)
    path = os.path.join(place.home, ".local", "state", "brakit", journal, session + ".jsonl")
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    with open(path, encoding="utf-8") as file:
        written = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(written.replace(boot, new_id()))
    place.start()
    found = endpoint.session_of(session)
    assert (found["request_count"], found["exit_reason"]) == (3, "crash")


def test_an_empty_journal_is_removed_by_the_next_daemon(place: Place) -> None:
    """A daemon leaves an empty directory if it is killed between the removal of the last file and of the directory."""
    served = place.serve()
    with Wire(place.socket_path).hello(new_id()) as wire:
        wire.sync()
        end_process(served, signal.SIGKILL)
    (journal,) = journal_of(place)
    path = os.path.join(place.home, ".local", "state", "brakit", journal)
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    place.serve()
    wait_until(lambda: journal_of(place) == [], "the end of the journal")


def test_the_next_daemon_sends_nothing_after_an_opt_out_that_followed_the_kill(
    place: Place, endpoint: Endpoint
) -> None:
    served, session = place.serve(), new_id()
    with Wire(place.socket_path).hello(session) as wire:
        wire.send(incr={"request_count": 3}).sync()
        end_process(served, signal.SIGKILL)
    assert place.run("telemetry", "off").returncode == 0
    assert journal_of(place) == []
    assert place.run("telemetry", "on").returncode == 0
    place.serve()
    assert place.status()["sessions"] == []
    assert place.run("stop").returncode == 0
    assert endpoint.requests == []


# --- sessions that have ended ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["session", "group"])
def test_a_worker_that_outlives_its_session_opens_no_second_session(place: Place, endpoint: Endpoint, by: str) -> None:
    place.serve()
    worker = Worker(place, **({"BRAKIT_SESSION_ID": new_id()} if by == "session" else {})).count(5)
    open_session(place)
    assert place.run("stop").returncode == 0
    place.serve()
    worker.count(2).end()
    assert place.run("stop").returncode == 0
    assert [body["properties"]["request_count"] for body in endpoint.bodies_of("session")] == [5]


# --- without the CLI -------------------------------------------------------------------------------------------------


def test_a_worker_that_may_start_daemons_replaces_a_killed_daemon(place: Place, endpoint: Endpoint) -> None:
    worker = Worker(place, "start").count(5)
    session = open_session(place)
    kill_daemon(place)

    def is_replaced() -> bool:
        worker.requests(1)
        return place.accepts()

    wait_until(is_replaced, "another daemon")
    assert open_session(place) == session
    worker.end()
    found = endpoint.session_of(session)
    assert (found["request_count"], found["exit_reason"]) == (worker.counted, "clean")


def test_the_first_daemon_finds_counts_from_before_its_start_without_a_call_of_the_worker(
    place: Place, endpoint: Endpoint
) -> None:
    worker = Worker(place, "start").count(5)
    open_session(place)
    worker.die()
    assert endpoint.only_session()["request_count"] == 5


def test_a_worker_that_may_not_start_daemons_leaves_no_file() -> None:
    with Place() as place:
        Worker(place).count(5).die()
        assert os.listdir(place.runtime) == []
        place.start()
        assert place.run("stop").returncode == 0
        Worker(place).count(5).die()
        assert runtime_files(place) == ["sidecar-1.lock"]


def test_a_counter_file_does_not_reopen_a_session_whose_event_is_frozen(place: Place, endpoint: Endpoint) -> None:
    """A daemon leaves the counter file if it is killed after it froze the event and before it removed the file."""
    endpoint.may_answer.clear()
    served, session = place.serve(grace_s=0.5), new_id()
    worker = Worker(place, BRAKIT_SESSION_ID=session).count(5)
    open_session(place)
    (name,) = [name for name in runtime_files(place) if name.startswith("counters-")]
    path = os.path.join(place.runtime, "brakit", name)
    with open(path, "rb") as file:
        counted = file.read()
    worker.end()
    wait_until(lambda: endpoint.requests, "the first attempt")
    end_process(served, signal.SIGKILL)
    with open(path, "wb") as file:
        file.write(counted)
    endpoint.may_answer.set()
    place.serve()
    wait_until(place.receipts, "the receipt")
    assert place.status()["sessions"] == []
    assert place.run("stop").returncode == 0
    assert len({str(body) for body in endpoint.bodies_of("session")}) == 1
