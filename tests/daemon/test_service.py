"""The service over real files, with an intake, a delivery and a process watcher that record their calls."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_layout import COUNTER_CELLS
from brakit_sidecar.core.destination import NOWHERE
from brakit_sidecar.core.frames import Hello
from brakit_sidecar.core.outbox import Outcome, Reason, Verdict
from brakit_sidecar.core.protocol import Ended, Joined, TryLater
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.core.schema import JOURNEY
from brakit_sidecar.core.session import session as session_module
from brakit_sidecar.core.session.effects import WatchOwner, WatchWorker
from brakit_sidecar.core.session.replay import replay
from brakit_sidecar.core.session.session import COMPACT_AFTER, Session
from brakit_sidecar.core.session.worker import Phase
from brakit_sidecar.daemon import journal as journal_module
from brakit_sidecar.host import process

from tests.daemon.in_process import OWNER, SESSION, Daemon
from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from brakit_sidecar.client import counter_file


names_counter_files = pytest.mark.skipif(sys.platform != "linux", reason="counter files have names on Linux only")


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


# --- hello --------------------------------------------------------------------------------------------


def test_a_hello_is_journaled_and_wakes_the_main_loop(daemon: Daemon) -> None:
    member = daemon.join()
    assert [record["joined"] for record in daemon.journaled() if "joined" in record] == [member.producer]
    assert daemon.wakes


def test_a_session_has_the_destination_of_the_hello_that_opened_it(daemon: Daemon) -> None:
    daemon.service.hello(Hello(SESSION, None, new_id(), "python", False, destination=NOWHERE), None, 0)
    daemon.join()
    assert daemon.session.terms.destination == NOWHERE
    daemon.seal()
    assert [verdict.reason for _event, verdict in daemon.delivery.unsent] == [Reason.OTHER_SETTINGS]


def test_the_session_of_a_hello_without_a_destination_has_the_daemons(daemon: Daemon) -> None:
    daemon.join()
    assert daemon.session.terms.destination == daemon.destination.digest


def test_a_worker_that_read_another_config_keeps_its_session_on_this_machine(daemon: Daemon) -> None:
    stamp = daemon.consent.last_stamp
    daemon.service.hello(Hello(SESSION, None, new_id(), "python", False, stamp=stamp), None, 0)
    assert daemon.session.kept_local is None
    daemon.service.hello(Hello(SESSION, None, new_id(), "python", False, stamp=stamp - 1), None, 0)
    assert daemon.session.kept_local is Reason.CONFIG_CHANGED


def test_a_change_of_the_config_keeps_every_later_event_of_an_open_session_local(daemon: Daemon) -> None:
    member = daemon.join()
    daemon.opt(in_=False)
    daemon.opt(in_=True)
    daemon.send(member, event={"name": "first_request", "port": 8000})
    daemon.seal()
    assert daemon.sent() == []
    kept = Verdict(Outcome.LOCAL, Reason.CONFIG_CHANGED)
    assert [(event.name, verdict) for event, verdict in daemon.delivery.unsent] == [
        ("first_request", kept), ("session", kept),
    ]  # fmt: skip


def test_a_change_that_a_look_has_found_is_journaled_and_stays(daemon: Daemon) -> None:
    daemon.join()
    stamp = daemon.config.stat()
    os.utime(daemon.config)
    daemon.service.look_at_config()
    daemon.service.look_at_config()
    assert [record for record in daemon.journaled() if "kept_local" in record] == [{"kept_local": "config_changed"}]
    assert daemon.config.stat().st_ctime_ns != stamp.st_ctime_ns


@pytest.mark.parametrize("spoil", [lambda config: config.write_text("{"), lambda config: config.parent.chmod(0o770)])
def test_a_config_that_is_not_believed_keeps_open_sessions_on_this_machine(
    daemon: Daemon, spoil: Callable[[Path], object]
) -> None:
    daemon.join()
    spoil(daemon.config)
    daemon.service.look_at_config()
    assert daemon.session.kept_local is Reason.CONFIG_CHANGED


def test_the_session_after_a_change_of_the_config_is_sent(daemon: Daemon) -> None:
    os.utime(daemon.config)
    daemon.join()
    daemon.seal()
    assert [body["event"] for body in daemon.sent()] == ["session"]


def test_a_withdrawal_counts_the_events_that_are_not_sent_for_it(daemon: Daemon) -> None:
    daemon.send(daemon.join(), event={"name": "first_request", "port": 8000})
    daemon.hello(session=new_id(), is_owner=True)  # nobody joined this session, so it makes no event
    assert daemon.service.withdraw() == 2


def test_a_hello_that_names_no_session_joins_none(daemon: Daemon) -> None:
    assert daemon.hello(session=None) == Joined(None)
    assert not daemon.table.open


def test_a_counter_file_of_a_connection_without_a_session_is_closed(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    assert made.fd is not None
    before = len(os.listdir("/dev/fd"))
    assert daemon.hello(session=None, counter_fd=made.fd) == Joined(None)
    assert len(os.listdir("/dev/fd")) == before
    assert not made.is_retired


def test_an_accepted_counter_file_counts_for_the_session(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    member = daemon.join(counter_fd=made.fd)
    made.cells[COUNTER_CELLS["request_count"]] = 7
    daemon.service.read_counters(daemon.session)
    assert daemon.session.totals.total("request_count") == 7
    assert daemon.service.may_evict(member)


def test_the_counts_of_a_producers_first_counter_file_survive_its_second(daemon: Daemon) -> None:
    first, second, producer = daemon.make_counter_file(), daemon.make_counter_file(), new_id()
    daemon.join(producer, first.fd)
    first.cells[COUNTER_CELLS["request_count"]] = 7
    daemon.join(producer, second.fd)
    assert daemon.session.totals.total("request_count") == 7


def test_a_hello_is_accepted_even_if_its_descriptor_is_not_a_counter_file(daemon: Daemon) -> None:
    with open(os.devnull, "rb") as null:
        outcome = daemon.hello(counter_fd=null.fileno())
    assert isinstance(outcome, Joined)
    assert outcome.member is not None
    assert (outcome.takes_counter_file, outcome.refused) == (False, Refusal.BAD_COUNTER_FILE)


def test_the_counter_file_of_a_worker_that_joins_an_ended_session_is_retired(daemon: Daemon) -> None:
    daemon.join()
    daemon.seal()
    made = daemon.make_counter_file()
    assert daemon.hello(counter_fd=made.fd) == Ended()
    assert made.is_retired


def test_a_worker_whose_counter_file_was_retired_joins_no_session(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    made.retire()
    assert daemon.hello(counter_fd=made.fd) == Ended()
    assert not daemon.table.open


def test_a_producer_beyond_the_bound_is_refused_and_its_counter_file_is_retired(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = daemon.join()
    monkeypatch.setattr(session_module, "MAX_PRODUCERS", 1)
    made = daemon.make_counter_file()
    assert daemon.hello(counter_fd=made.fd) == Ended(Refusal.TOO_MANY)
    assert made.is_retired
    assert daemon.join(member.producer).worker is member.worker
    assert [*daemon.session.workers] == [member.producer]


def test_no_session_is_joined_if_telemetry_is_off(daemon: Daemon) -> None:
    daemon.opt(in_=False)
    assert daemon.hello() == Ended()
    assert not daemon.table.open


def test_a_client_tries_later_if_the_config_cannot_be_read(daemon: Daemon) -> None:
    daemon.config.write_text("{")
    made = daemon.make_counter_file()
    assert daemon.hello(counter_fd=made.fd) == TryLater()
    assert not made.is_retired
    assert daemon.service.ask(None, {"open": {"session": SESSION}}) == TryLater()


def test_a_stopping_daemon_accepts_hellos_only_to_open_sessions(daemon: Daemon) -> None:
    daemon.join()
    daemon.service.is_stopping = True
    assert isinstance(daemon.hello(), Joined)
    assert daemon.hello(session=new_id()) == TryLater()
    assert daemon.service.ask(None, {"open": {"session": new_id()}}) == TryLater()


# --- lines --------------------------------------------------------------------------------------------


def test_a_line_applies_to_the_session_of_its_connection(daemon: Daemon) -> None:
    member = daemon.join()
    assert daemon.send(member, incr={"request_count": 3}) == []
    assert daemon.session.totals.total("request_count") == 3


def test_increments_are_counted_only_while_the_session_is_open(daemon: Daemon) -> None:
    member = daemon.join()
    lines = [b'{"incr":{"request_count":1}}'] * 5
    assert daemon.service.receive_increments(member, lines)
    daemon.seal()
    assert daemon.sent()[0]["properties"]["request_count"] == 5
    assert not daemon.service.receive_increments(member, lines)


@pytest.mark.parametrize("keys", [{"incr": {"request_count": 1}}, {"event": {"name": "first_request"}}], ids=str)
def test_a_line_for_a_sealed_session_is_refused(daemon: Daemon, keys: dict[str, Any]) -> None:
    member = daemon.join()
    daemon.seal()
    assert daemon.send(member, **keys) == [Refusal.SESSION_ENDED]
    assert daemon.send(member) == []


def test_an_event_is_queued_and_counts_are_refused_without_a_session(daemon: Daemon) -> None:
    refused = daemon.send(None, event={"name": "cli_invoked"}, incr={"request_count": 1})
    assert refused == [Refusal.NO_SESSION]
    assert [body["event"] for body in daemon.sent()] == ["cli_invoked"]


def test_a_dashboard_view_reads_the_counter_files_of_all_workers(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    daemon.join(counter_fd=made.fd)
    made.cells[COUNTER_CELLS["request_count"]] = 7
    daemon.send(daemon.join(), event={"name": "dashboard_viewed"})
    assert daemon.sent()[0]["properties"]["request_count_at_open"] == 7


def test_an_end_wakes_the_main_loop(daemon: Daemon) -> None:
    member = daemon.join()
    daemon.wakes.clear()
    daemon.send(member, end={"exit_reason": "clean"})
    assert daemon.wakes
    assert daemon.session.workers[member.producer].phase is Phase.FINISHED


def test_the_lines_that_an_answer_acknowledges_are_journaled_before_it(daemon: Daemon) -> None:
    member = daemon.join()
    daemon.send(member, incr={"request_count": 3})
    totals: list[Any] = []

    def answer(question: Any) -> str:
        totals.extend(record["frame"]["total"] for record in daemon.journaled() if "total" in record.get("frame", {}))
        return f"the answer to {question}"

    daemon.service.answer = answer
    assert daemon.service.ask(member, "status") == "the answer to status"
    assert totals == [{"request_count": 3}]


def test_a_question_of_a_connection_without_a_session_is_answered(daemon: Daemon) -> None:
    daemon.service.answer = lambda question: question
    assert daemon.service.ask(None, "status") == "status"
    assert daemon.service.ask(None, {"open": {}}) == {"open": {}}


def test_a_question_for_a_sealed_session_is_answered(daemon: Daemon) -> None:
    member = daemon.join()
    daemon.seal()
    assert daemon.service.ask(member, "status") is Refusal.UNKNOWN_ASK


def test_refusals_are_counted_by_reason(daemon: Daemon) -> None:
    for reason in (Refusal.BAD_JSON, Refusal.BAD_JSON, Refusal.OVERSIZE):
        daemon.service.refused(reason)
    assert daemon.service.refusals == {Refusal.BAD_JSON: 2, Refusal.OVERSIZE: 1}


# --- the end of a connection ----------------------------------------------------------------------------


def test_a_workers_counter_file_is_read_when_its_connection_closes(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    member = daemon.join(counter_fd=made.fd)
    made.cells[COUNTER_CELLS["request_count"]] = 7
    made.cells[counter_layout.END] = counter_layout.ENDS.index("sigint")
    daemon.service.closed(member)
    worker = daemon.session.workers[member.producer]
    assert (worker.phase, worker.exit_reason) == (Phase.GONE, "sigint")
    assert daemon.session.totals.total("request_count") == 7


def test_a_connection_of_a_sealed_session_may_be_closed(daemon: Daemon) -> None:
    member = daemon.join()
    daemon.seal()
    daemon.service.closed(member)
    assert not daemon.table.open


@names_counter_files
def test_only_a_worker_with_a_named_counter_file_may_be_evicted_from_an_open_session(daemon: Daemon) -> None:
    owner, plain = daemon.join(is_owner=True), daemon.join()
    made = daemon.make_counter_file()
    counting = daemon.join(counter_fd=made.fd)
    assert [daemon.service.may_evict(member) for member in (owner, plain, counting)] == [False, False, True]
    daemon.seal()
    assert [daemon.service.may_evict(member) for member in (owner, plain, counting)] == [True, True, True]


def test_an_evicted_worker_is_watched_until_it_reconnects(daemon: Daemon) -> None:
    made, producer = daemon.make_counter_file(), new_id()
    daemon.service.closed(daemon.join(producer, made.fd), is_evicted=True)
    _pid, _then, by_descriptor = daemon.watcher.watched[SESSION, producer]
    assert not by_descriptor
    assert daemon.watcher.is_alive[SESSION, producer]()
    daemon.join(producer, made.fd)
    assert (SESSION, producer) not in daemon.watcher.watched


def test_the_counter_file_of_an_evicted_worker_is_read_when_its_process_exits(daemon: Daemon) -> None:
    made, producer = daemon.make_counter_file(), new_id()
    daemon.service.closed(daemon.join(producer, made.fd), is_evicted=True)
    made.cells[COUNTER_CELLS["request_count"]] = 7
    daemon.watcher.exit(SESSION, producer)
    assert daemon.session.workers[producer].phase is Phase.GONE
    assert daemon.session.totals.total("request_count") == 7


@pytest.mark.parametrize("is_short", [True, False])
def test_a_worker_is_watched_by_a_descriptor_unless_descriptors_are_short(daemon: Daemon, is_short: bool) -> None:
    daemon.join()
    daemon.intake.is_short = is_short
    daemon.service.run([WatchWorker(SESSION, "p", os.getpid())])
    assert daemon.watcher.watched[SESSION, "p"][2] == (not is_short)


@names_counter_files
def test_a_counter_file_whose_descriptor_was_released_is_opened_by_its_name(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    daemon.join(counter_fd=made.fd)
    made.cells[COUNTER_CELLS["request_count"]] = 7
    before = len(os.listdir("/dev/fd"))
    daemon.service.release_descriptors()
    assert len(os.listdir("/dev/fd")) == before - 1
    daemon.service.read_counters(daemon.session)
    assert daemon.session.totals.total("request_count") == 7


# --- the owner's process --------------------------------------------------------------------------------


def test_a_session_ends_when_the_process_that_owns_it_exits(daemon: Daemon) -> None:
    daemon.join()
    daemon.service.run(daemon.session.own_by_process(os.getpid()))
    assert daemon.watcher.is_alive[SESSION, OWNER]()
    daemon.watcher.exit(SESSION, OWNER)
    assert daemon.session.ending is not None
    assert daemon.session.ending.exit_reason == "crash"


def test_the_owners_process_is_not_watched_after_the_session(daemon: Daemon) -> None:
    daemon.join(is_owner=True)
    assert daemon.watcher.watched
    daemon.seal()
    assert not daemon.watcher.watched
    assert not daemon.table.open


# --- sealing --------------------------------------------------------------------------------------------


def test_a_session_that_a_worker_joined_becomes_one_event(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    daemon.join(counter_fd=made.fd)
    made.cells[COUNTER_CELLS["request_count"]] = 7
    daemon.seal()
    (body,) = daemon.sent()
    assert (body["event"], body["distinct_id"]) == ("session", daemon.anonymous_id)
    assert (body["properties"]["request_count"], body["properties"]["exit_reason"]) == (7, "clean")
    assert made.is_retired


def test_the_event_of_a_session_without_workers_is_dropped(daemon: Daemon) -> None:
    daemon.join(is_owner=True)
    daemon.seal()
    assert daemon.sent() == []
    ((event, verdict),) = daemon.delivery.unsent
    assert (event.name, verdict) == ("session", Verdict.dropped(Reason.NOBODY_JOINED))


def test_lines_that_are_read_by_the_drain_are_in_the_event(daemon: Daemon) -> None:
    member = daemon.join()
    daemon.intake.while_draining = lambda: daemon.send(member, incr={"request_count": 3})
    daemon.seal()
    assert daemon.sent()[0]["properties"]["request_count"] == 3


def test_the_seal_is_put_off_if_the_drain_accepts_a_live_worker(daemon: Daemon) -> None:
    daemon.join(is_owner=True)
    daemon.service.run(daemon.session.end("clean", 0.0, 10.0**12))
    daemon.intake.while_draining = daemon.join
    daemon.service.seal(daemon.session)
    assert SESSION in daemon.table.open
    assert daemon.sent() == []


def test_a_second_drain_may_close_the_workers_of_the_sealed_session(daemon: Daemon) -> None:
    owner, worker = daemon.join(is_owner=True), daemon.join()
    other = daemon.hello(session=new_id())
    assert isinstance(other, Joined)
    assert other.member is not None
    daemon.intake.drained = [False, False]
    daemon.seal()
    first, second = daemon.intake.expendable
    assert [first(member) for member in (owner, worker, other.member)] == [False, False, False]
    assert [second(member) for member in (owner, worker, other.member)] == [False, True, False]
    assert len(daemon.sent()) == 1


@pytest.mark.parametrize("drain", [1, 2])
def test_nothing_is_sent_if_consent_is_withdrawn_during_a_drain(daemon: Daemon, drain: int) -> None:
    daemon.join()
    daemon.intake.drained = [False, True]

    def withdraw() -> None:
        if len(daemon.intake.expendable) == drain:
            daemon.service.withdraw()

    daemon.intake.while_draining = withdraw
    daemon.seal()
    assert daemon.sent() == []
    assert daemon.delivery.is_withdrawn


def test_a_sessions_event_is_withheld_if_the_anonymous_id_was_replaced(daemon: Daemon) -> None:
    daemon.join()
    daemon.anonymous_id = new_id()
    daemon.opt(in_=True)
    daemon.seal()
    assert daemon.sent() == []
    assert daemon.service.reporter.withheld == {Reason.CONSENT: 1}


def test_an_event_without_a_session_is_withheld_if_telemetry_is_off(daemon: Daemon) -> None:
    daemon.opt(in_=False)
    daemon.send(None, event={"name": "cli_invoked"})
    assert daemon.service.reporter.withheld == {Reason.CONSENT: 1}


# --- the journal ----------------------------------------------------------------------------------------


def test_a_long_journal_is_rewritten(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 2000)
    member = daemon.join()
    for number in range(100):
        daemon.send(member, set={"setup_duration_ms": number})
    assert len(daemon.journaled()) < 50
    assert daemon.journaled()[-1]["frame"] == {"set": {"setup_duration_ms": 99}}


# --- compaction -----------------------------------------------------------------------------------------


def disconnect_many(daemon: Daemon, made: counter_file.CounterFile) -> None:
    """Let many workers connect and disconnect, one of them with a counter file."""
    for number in range(COMPACT_AFTER):
        daemon.service.closed(daemon.join(counter_fd=made.fd if number == 0 else None))


def compact(daemon: Daemon) -> None:
    for session, workers in daemon.table.to_compact():
        daemon.service.compact(session, workers)


def test_workers_whose_processes_have_exited_are_compacted(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    disconnect_many(daemon, made)
    made.cells[counter_layout.PID] = 0  # no process has this pid
    made.cells[COUNTER_CELLS["request_count"]] = 7
    compact(daemon)
    phases = [worker.phase for worker in daemon.session.workers.values()]
    assert phases.count(Phase.COMPACTED) == 1  # the process of the other workers is this test, which lives
    assert daemon.session.totals.total("request_count") == 7
    assert made.is_retired


def test_workers_whose_processes_are_alive_are_not_compacted(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    disconnect_many(daemon, made)
    compact(daemon)
    assert {worker.phase for worker in daemon.session.workers.values()} == {Phase.GONE}
    assert daemon.intake.expendable == []
    assert not made.is_retired


def test_nothing_is_compacted_if_the_drain_was_incomplete(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    disconnect_many(daemon, made)
    made.cells[counter_layout.PID] = 0
    daemon.intake.drained = [False]
    compact(daemon)
    assert Phase.COMPACTED not in {worker.phase for worker in daemon.session.workers.values()}


def test_a_session_that_is_withdrawn_during_its_compaction_is_not_journaled(daemon: Daemon) -> None:
    made = daemon.make_counter_file()
    disconnect_many(daemon, made)
    made.cells[counter_layout.PID] = 0
    daemon.intake.while_draining = daemon.service.withdraw
    compact(daemon)
    assert daemon.journaled() == []


def test_a_withdrawal_ends_the_watch_of_the_owners_process(daemon: Daemon) -> None:
    daemon.join()
    daemon.service.run([WatchOwner(SESSION, os.getpid())])
    daemon.service.withdraw()
    assert not daemon.watcher.watched


def test_the_journal_of_a_session_that_is_over_is_not_rewritten(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = daemon.join()
    session = daemon.session
    daemon.service.withdraw()
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 0)
    daemon.service.run(session.disconnect(member, 1.0))
    assert SESSION not in daemon.table.open


def test_every_journey_event_of_a_session_is_queued(daemon: Daemon) -> None:
    member = daemon.join()
    for name in JOURNEY:
        daemon.send(member, event={"name": name})
    assert [body["event"] for body in daemon.sent()] == [*JOURNEY]


# --- files that a worker or another process changed -------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 8, 40])
def test_a_truncated_counter_file_costs_only_its_own_counts(daemon: Daemon, size: int) -> None:
    made, producer = daemon.make_counter_file(), new_id()
    daemon.service.closed(daemon.join(producer, made.fd), is_evicted=True)
    assert made.fd is not None
    os.ftruncate(made.fd, size)
    assert daemon.watcher.is_alive[SESSION, producer]()  # nothing proves that its process has exited
    assert not daemon.counter_files.has_exited(SESSION, producer, os.getpid())
    daemon.service.read_counters(daemon.session)
    daemon.seal()
    assert len(daemon.sent()) == 1


def test_a_counter_file_that_is_truncated_while_its_hello_is_read_joins_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = daemon.make_counter_file()
    accept = daemon.counter_files.accept

    def accept_and_truncate(fd: int, hello: Hello) -> Any:
        file = accept(fd, hello)
        assert made.fd is not None
        os.ftruncate(made.fd, 0)
        return file

    monkeypatch.setattr(daemon.counter_files, "accept", accept_and_truncate)
    before = len(os.listdir("/dev/fd"))
    assert daemon.hello(counter_fd=made.fd) == Ended()
    assert len(os.listdir("/dev/fd")) == before


@names_counter_files
def test_the_name_of_a_counter_file_that_joins_nothing_is_removed(daemon: Daemon) -> None:
    daemon.join()
    daemon.seal()
    made, producer = daemon.make_counter_file(), new_id()
    made.keep_as(str(daemon.runtime / f"counters-1-{producer}"))
    assert daemon.hello(producer, counter_fd=made.fd) == Ended()
    assert os.listdir(daemon.runtime) == []


@names_counter_files
def test_a_second_counter_file_adds_to_a_first_one_whose_descriptor_was_released(daemon: Daemon) -> None:
    first, second, producer = daemon.make_counter_file(), daemon.make_counter_file(), new_id()
    daemon.join(producer, first.fd)
    daemon.count(first, "request_count", 7)
    daemon.service.release_descriptors()
    daemon.join(producer, second.fd)
    assert daemon.session.totals.total("request_count") == 7


def test_a_journal_that_is_rewritten_while_workers_are_compacted_counts_them_once(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(COMPACT_AFTER):
        member = daemon.join()
        daemon.send(member, incr={"request_count": 1})
        daemon.service.closed(member)
        daemon.session.workers[member.producer].pid = 2**22 + 1 + number  # not a process
    for worker in daemon.session.workers.values():
        worker.totals.incr("request_count", 1)  # not journaled yet, as of a counter file
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", daemon.journal._sizes[SESSION] + 10)
    compact(daemon)
    replayed = replay(
        Session(SESSION, None, 0.0, ""), daemon.journaled(), 1.0, process.boot_id(), destination="", api_key=""
    )
    assert replayed.session is not None
    # The last worker is not compacted, and what it counted since is not journaled.
    assert replayed.session.totals.total("request_count") in (2 * COMPACT_AFTER, 2 * COMPACT_AFTER - 1)


def test_a_message_that_waits_for_the_service_manager_wakes_the_main_loop(daemon: Daemon) -> None:
    daemon.join()
    daemon.wakes.clear()
    made = daemon.make_counter_file()
    daemon.counter_files.manager.unsent.append(None)  # type: ignore[arg-type] # a stand-in for a message
    daemon.join(counter_fd=made.fd)
    assert daemon.wakes
