"""The daemon dies, by a real SIGKILL, and the session's event is what it would have been."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from brakit_sidecar.host.process import end_of

from tests.harness import PATIENCE_S, Endpoint, Place, Wire, end_process, new_id, wait_until

pytestmark = pytest.mark.slow

WORKERS = 4
KILLS = 20

# Counts until a file appears, then writes down how much it counted.
COUNTING = """
import os, subprocess, sys, time
import brakit_sidecar
path, number = sys.argv[1:]
if number == "all":
    command = [sys.executable, "-c", os.environ["COUNTING"], path]
    workers = [subprocess.Popen([*command, str(one)]) for one in range(int(os.environ["WORKERS"]))]
    sys.exit(max(worker.wait() for worker in workers))
t = brakit_sidecar.connect()
t.set(framework="flask")
queries = t.counter("query_count")
counted = 0
while not os.path.exists(path + ".stop"):
    t.request(f"GET /{counted % 5}", 1.5)
    queries.inc()
    counted += 1
    if counted == 100:
        t.event("first_request", port=8000)
    time.sleep(0.002)
with open(f"{path}.{number}", "w") as file:
    file.write(str(counted))
"""


def kill_daemon(place: Place) -> None:
    """The one that runs, as soon as one does; returns when it is dead."""
    found: dict[str, Any] = {}

    def runs() -> bool:
        found.update(place.status())
        return bool(found["running"])

    wait_until(runs, "a daemon")
    end = end_of(found["pid"])
    assert end is not None
    os.kill(found["pid"], signal.SIGKILL)
    select.select([end], [], [])
    os.close(end)


def has_session(place: Place) -> str:
    """The id of the one session, as soon as the daemon has it."""
    wait_until(lambda: place.status().get("sessions"), "a session")
    (session,) = place.status()["sessions"]
    session_id: str = session["id"]
    return session_id


def journal_of(place: Place) -> list[str]:
    state = os.path.join(place.home, ".local", "state", "brakit")
    return [name for name in os.listdir(state) if name.startswith("journal")]


def left_in_runtime(place: Place) -> list[str]:
    return sorted(os.listdir(os.path.join(place.runtime, "brakit")))


def test_killed_again_and_again_under_run_it_is_one_exact_event(place: Place, endpoint: Endpoint) -> None:
    path = os.path.join(place.root, "counting")
    command = (sys.executable, "-m", "brakit_sidecar", "run", "--", sys.executable, "-c", COUNTING, path, "all")
    running = place.popen(*command, COUNTING=COUNTING, WORKERS=str(WORKERS))
    session, raw, total = has_session(place), new_id(), 0
    for _ in range(KILLS):
        kill_daemon(place)
        wait_until(place.accepts, "another daemon")
        total += 10
        with Wire(place.socket_path).hello(session, producer=raw) as wire:
            wire.say(total={"error_count": total}).sync()
    with open(path + ".stop", "w", encoding="ascii"):
        pass
    assert running.wait(PATIENCE_S) == 0
    counted = 0
    for worker in range(WORKERS):
        with open(f"{path}.{worker}", encoding="ascii") as file:
            counted += int(file.read())
    found = endpoint.only_session()
    assert (found["request_count"], found["query_count"]) == (counted, counted)
    assert found["error_count"] == total
    assert (found["endpoint_count"], found["framework"], found["exit_reason"]) == (5, "flask", "clean")
    wait_until(place.is_gone, "the last daemon's leaving")
    assert len({str(body) for body in endpoint.named("first_request")}) == 1
    assert len({str(body) for body in endpoint.named("session")}) == 1
    assert left_in_runtime(place) == ["sidecar-1.lock"]
    assert journal_of(place) == []


# --- the workers -----------------------------------------------------------------------------------------------------

# Says what it was told to count on stdout, after each number on stdin.
OBEDIENT = """
import os, signal, sys
import brakit_sidecar
telemetry = brakit_sidecar.connect(start="start" in sys.argv)
counter = telemetry.counter("request_count")
for line in sys.stdin:
    if line == "die\\n":
        os.kill(os.getpid(), signal.SIGKILL)
    how, number = line.split()
    for _ in range(int(number)):
        counter.inc() if how == "inc" else telemetry.request("GET /", 1)
    print(line, end="", flush=True)
"""


class Worker:
    """Counts what it is told to."""

    def __init__(self, place: Place, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OBEDIENT, *arguments],
            env={**place.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own
        )
        self.counted = 0

    def counts(self, number: int, how: str = "inc") -> Worker:
        """Without a word to the daemon."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{how} {number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{how} {number}\n"
        self.counted += number
        return self

    def requests(self, number: int) -> Worker:
        """By a call that sees after the daemon, now and then."""
        return self.counts(number, how="request")

    def dies(self) -> None:
        assert self.process.stdin is not None
        self.process.communicate("die\n", timeout=PATIENCE_S)

    def ends(self) -> None:
        self.process.communicate(timeout=PATIENCE_S)


def test_a_worker_that_counted_and_died_while_no_daemon_ran_is_counted(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    worker = Worker(place, BRAKIT_SESSION_ID=session).counts(5)
    has_session(place)
    end_process(served, signal.SIGKILL)
    worker.counts(7).dies()
    place.serve()
    found = endpoint.end_of(session)
    assert (found["request_count"], found["exit_reason"]) == (12, "crash")


def test_a_worker_that_lives_and_says_nothing_is_waited_for(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    worker = Worker(place, BRAKIT_SESSION_ID=session).counts(5)
    has_session(place)
    end_process(served, signal.SIGKILL)
    place.serve()
    worker.counts(7)
    (found,) = place.status()["sessions"]
    assert found["producers"] == {"live": 1, "gone": 0}
    assert found["fields"]["request_count"] == 12
    time.sleep(6)  # longer than the grace that a session without producers has
    worker.counts(1).ends()
    ended = endpoint.end_of(session)
    assert (ended["request_count"], ended["exit_reason"]) == (13, "clean")


def test_a_process_that_owns_the_session_is_watched_again(place: Place, endpoint: Endpoint) -> None:
    served = place.serve()
    owner = place.popen("sleep", "600")
    session = place.run("session", "start", "--owner-pid", str(owner.pid)).stdout.strip()
    end_process(served, signal.SIGKILL)
    place.serve()
    assert [open_one["id"] for open_one in place.status()["sessions"]] == [session]
    end_process(owner, signal.SIGKILL)
    assert endpoint.end_of(session)["exit_reason"] == "crash"


# --- the owner -------------------------------------------------------------------------------------------------------


def test_a_command_whose_daemon_dies_with_it_has_its_own_ends_name(place: Place, endpoint: Endpoint) -> None:
    pid = place.start()["pid"]
    assert place.run("run", "--", "sh", "-c", f"kill -9 {pid}").returncode == 0
    assert endpoint.only_session()["exit_reason"] == "clean"


def test_an_owner_killed_beside_its_daemon_is_a_crash(place: Place, endpoint: Endpoint) -> None:
    running = place.popen(sys.executable, "-m", "brakit_sidecar", "run", "--", "sleep", "1")
    has_session(place)
    running.kill()
    kill_daemon(place)
    running.wait(PATIENCE_S)
    place.serve()
    assert endpoint.only_session()["exit_reason"] == "crash"


def test_a_daemon_that_was_told_to_stop_is_not_brought_back(place: Place) -> None:
    running = place.popen(sys.executable, "-m", "brakit_sidecar", "run", "--", "sleep", "3")
    has_session(place)
    assert place.run("stop").returncode == 0
    assert running.wait(PATIENCE_S) == 0
    assert place.is_gone()
    assert [receipt["event"] for receipt in place.receipts()] == ["session"]


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_what_was_under_way_is_sent_again_byte_for_byte(place: Place, endpoint: Endpoint) -> None:
    endpoint.may_answer.clear()
    assert place.run("run", "--", "true").returncode == 0
    wait_until(lambda: endpoint.requests, "the first attempt")
    kill_daemon(place)
    endpoint.may_answer.set()
    place.serve()
    wait_until(place.receipts, "the receipt")
    (receipt,) = place.receipts()
    assert receipt["outcome"] == "sent"
    assert [body.decode() for _path, _headers, body in endpoint.requests] == [receipt["body"]] * 2


def test_what_has_its_receipt_is_not_sent_again(place: Place, endpoint: Endpoint) -> None:
    served = place.serve()
    assert place.run("emit", "cli_invoked", "command=run").returncode == 0
    assert place.run("run", "--", "true").returncode == 0
    endpoint.wait_for("session")
    wait_until(lambda: len(place.receipts()) == 2, "the receipts")
    end_process(served, signal.SIGKILL)
    place.serve()
    assert place.run("stop").returncode == 0
    assert len(endpoint.requests) == len(place.receipts()) == 2


def test_an_event_without_a_session_survives_too(place: Place, endpoint: Endpoint) -> None:
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
        wire.say(incr={"request_count": 3}).sync()
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
    found = endpoint.end_of(session)
    assert (found["request_count"], found["exit_reason"]) == (3, "crash")


def test_a_journal_in_which_nothing_is_left_is_removed_by_the_next_daemon(place: Place) -> None:
    """As it is where a daemon is killed between removing its last file and the directory."""
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


def test_an_opt_out_in_between_leaves_nothing_to_finish(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    with Wire(place.socket_path).hello(session) as wire:
        wire.say(incr={"request_count": 3}).sync()
        end_process(served, signal.SIGKILL)
    assert place.run("telemetry", "off").returncode == 0
    assert journal_of(place) == []
    assert place.run("telemetry", "on").returncode == 0
    place.serve()
    assert place.status()["sessions"] == []
    assert place.run("stop").returncode == 0
    assert endpoint.requests == []


# --- sessions that are over ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["session", "group"])
def test_a_worker_that_outlives_its_session_opens_no_second_one(place: Place, endpoint: Endpoint, by: str) -> None:
    place.serve()
    worker = Worker(place, **({"BRAKIT_SESSION_ID": new_id()} if by == "session" else {})).counts(5)
    has_session(place)
    assert place.run("stop").returncode == 0
    place.serve()
    worker.counts(2).ends()
    assert place.run("stop").returncode == 0
    assert [body["properties"]["request_count"] for body in endpoint.named("session")] == [5]


# --- without the CLI -------------------------------------------------------------------------------------------------


def test_a_worker_that_starts_daemons_brings_back_one_that_died(place: Place, endpoint: Endpoint) -> None:
    worker = Worker(place, "start").counts(5)
    session = has_session(place)
    kill_daemon(place)

    def is_back() -> bool:
        worker.requests(1)
        return place.accepts()

    wait_until(is_back, "another daemon")
    assert has_session(place) == session
    worker.ends()
    found = endpoint.end_of(session)
    assert (found["request_count"], found["exit_reason"]) == (worker.counted, "clean")


def test_what_was_counted_before_the_first_daemon_is_found_without_a_word(place: Place, endpoint: Endpoint) -> None:
    worker = Worker(place, "start").counts(5)
    has_session(place)
    worker.dies()
    assert endpoint.only_session()["request_count"] == 5


def test_a_worker_that_may_expect_no_daemon_leaves_nothing_behind() -> None:
    with Place() as place:
        Worker(place).counts(5).dies()
        assert os.listdir(place.runtime) == []
        place.start()
        assert place.run("stop").returncode == 0
        Worker(place).counts(5).dies()
        assert left_in_runtime(place) == ["sidecar-1.lock"]


def test_a_session_whose_event_was_frozen_is_not_opened_again_by_a_memory(place: Place, endpoint: Endpoint) -> None:
    """As it is where a daemon is killed between freezing the event and letting go of the memories."""
    endpoint.may_answer.clear()
    served, session = place.serve(), new_id()
    worker = Worker(place, BRAKIT_SESSION_ID=session).counts(5)
    has_session(place)
    (memory,) = [name for name in left_in_runtime(place) if name.startswith("counters-")]
    path = os.path.join(place.runtime, "brakit", memory)
    with open(path, "rb") as file:
        counted = file.read()
    worker.ends()
    wait_until(lambda: endpoint.requests, "the first attempt")
    end_process(served, signal.SIGKILL)
    with open(path, "wb") as file:
        file.write(counted)
    endpoint.may_answer.set()
    place.serve()
    wait_until(place.receipts, "the receipt")
    assert place.status()["sessions"] == []
    assert place.run("stop").returncode == 0
    assert len({str(body) for body in endpoint.named("session")}) == 1
