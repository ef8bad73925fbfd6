"""A daemon goes on where one that died was, both in the test's own process."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, cast

import pytest
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.outbox import SENT, Outcome, Reason, Verdict
from brakit_sidecar.core.session.worker import Phase
from brakit_sidecar.daemon import receipts
from brakit_sidecar.daemon.recovery import Recovery
from brakit_sidecar.daemon.service_manager import ServiceManager

from tests.daemon.by_name import name_beside
from tests.daemon.in_process import OWNER, SESSION, Daemon
from tests.harness import new_id

if TYPE_CHECKING:
    from pathlib import Path

    from brakit_sidecar.client.counter_file import CounterFile
    from brakit_sidecar.daemon.delivery import Delivery


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counter files have names on Linux only")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home whose receipts are in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def dead(root: Path) -> Daemon:
    """Give a daemon that dies after what the test lets happen."""
    return Daemon(root)


def next_daemon(dead: Daemon, *, is_on: bool = True, is_short: bool = False, key: str = "phc_test") -> Daemon:
    """Start the daemon that follows in the same place, and let it recover."""
    following = Daemon(dead.root, dead.anonymous_id, opt_in=is_on, key=key)
    following.intake.is_short = is_short
    following.consent.when_readable(
        Recovery(
            following.table,
            following.service,
            following.counter_files,
            following.journal,
            cast("Delivery", following.delivery),
            following.consent,
            following.intake,
            ServiceManager({}),
            following.socket_path,
            following.destination,
        ).recover
    )
    return following


def test_an_open_session_goes_on(dead: Daemon) -> None:
    dead.send(dead.join(), set={"framework": "flask"})
    following = next_daemon(dead)
    assert following.session.totals.total("framework") == "flask"
    assert following.wakes


def test_a_counter_file_goes_on_and_its_live_worker_is_watched(dead: Daemon) -> None:
    made, producer = dead.make_counter_file(), new_id()
    dead.join(producer, made.fd)
    dead.count(made, "request_count", 7)
    following = next_daemon(dead)
    assert following.session.workers[producer].phase is Phase.RECONNECTING
    assert following.session.totals.total("request_count") == 7
    assert (SESSION, producer) in following.watcher.watched


def test_the_counter_file_of_a_dead_worker_counts(dead: Daemon) -> None:
    made, producer = dead.make_counter_file(), new_id()
    dead.join(producer, made.fd)
    dead.count(made, "request_count", 7)
    made.cells[counter_layout.PID] = 0
    following = next_daemon(dead)
    assert following.session.workers[producer].phase is Phase.GONE
    assert following.session.totals.total("request_count") == 7


def nameless(dead: Daemon, session: str | None = SESSION) -> CounterFile:
    """Make the counter file of a worker that waits for a daemon."""
    made = dead.make_counter_file(session)
    made.keep_as(os.path.join(dead.runtime, f"counters-1-{new_id()}"))
    return made


def test_a_counter_file_opens_the_session_that_it_names(dead: Daemon) -> None:
    made = nameless(dead)
    dead.count(made, "request_count", 7)
    assert next_daemon(dead).session.totals.total("request_count") == 7


@pytest.mark.parametrize("why", ["names no session", "retired", "another anonymous id"])
def test_a_counter_file_that_counts_for_nothing_is_retired(dead: Daemon, why: str) -> None:
    made = nameless(dead, None if why == "names no session" else SESSION)
    if why == "retired":
        made.retire()
    if why == "another anonymous id":
        made.cells[counter_layout.ANONYMOUS_ID] = counter_layout.anonymous_id_cell(new_id())
    assert not next_daemon(dead).table.open
    assert made.is_retired
    assert os.listdir(dead.runtime) == []


def test_the_descriptors_of_found_files_are_released_if_they_are_short(dead: Daemon) -> None:
    nameless(dead)
    before = len(os.listdir("/dev/fd"))
    next_daemon(dead, is_short=True)
    assert len(os.listdir("/dev/fd")) == before


def test_an_event_without_a_receipt_is_sent_again(dead: Daemon) -> None:
    dead.delivery.journal = dead.journal
    dead.send(dead.join(), event={"name": "first_request", "port": 8000})
    assert next_daemon(dead).delivery.queued == dead.delivery.queued


def test_an_event_for_another_destination_is_not_sent_and_loses_its_key(dead: Daemon) -> None:
    dead.delivery.journal = dead.journal
    dead.send(dead.join(), event={"name": "first_request", "port": 8000})
    following = next_daemon(dead, key="phc_next")
    assert following.delivery.queued == []
    ((event, verdict),) = following.delivery.unsent
    assert verdict == Verdict(Outcome.LOCAL, Reason.OTHER_SETTINGS)
    assert event.body == dead.delivery.queued[0].body.replace(b"phc_test", b"")


@pytest.mark.parametrize(("first", "then"), [("", "phc_next"), ("phc_test", ""), ("phc_test", "phc_next")])
def test_a_session_keeps_its_destination_over_a_crash(root: Path, first: str, then: str) -> None:
    dead = Daemon(root, key=first)
    dead.join()
    following = next_daemon(dead, key=then)
    following.seal()
    assert following.delivery.queued == []
    assert [verdict.reason for _event, verdict in following.delivery.unsent] == [Reason.OTHER_SETTINGS]


@pytest.mark.parametrize(("first", "then"), [("", "phc_next"), ("phc_test", "phc_next")])
def test_a_counter_file_keeps_its_destination_without_a_journal(root: Path, first: str, then: str) -> None:
    dead = Daemon(root, key=first)
    made, producer = dead.make_counter_file(), new_id()
    dead.count(made, "request_count", 3)
    made.keep_as(name_beside(dead.socket_path, producer))
    following = next_daemon(dead, key=then)
    following.seal()
    ((event, verdict),) = following.delivery.unsent
    assert json.loads(event.body)["properties"]["request_count"] == 3
    assert verdict.reason is Reason.OTHER_SETTINGS


def test_a_session_stays_local_if_the_config_changed_while_no_daemon_ran(dead: Daemon) -> None:
    dead.join()
    os.utime(dead.config)
    following = next_daemon(dead)
    following.seal()
    assert [verdict.reason for _event, verdict in following.delivery.unsent] == [Reason.CONFIG_CHANGED]


def test_a_session_that_was_kept_local_stays_local_over_a_crash(dead: Daemon) -> None:
    dead.join()
    dead.service.run(dead.session.keep_local(Reason.CONFIG_CHANGED))
    second = next_daemon(dead)
    assert second.session.kept_local is Reason.CONFIG_CHANGED
    assert next_daemon(second).session.kept_local is Reason.CONFIG_CHANGED  # the second daemon rewrote the journal


def test_a_session_stays_local_if_a_counter_file_is_from_before_a_change_of_the_config(dead: Daemon) -> None:
    made, producer = dead.make_counter_file(), new_id()
    made.keep_as(name_beside(dead.socket_path, producer))
    os.utime(dead.config)
    assert next_daemon(dead).session.kept_local is Reason.CONFIG_CHANGED


def test_a_counter_file_without_a_stamp_is_not_compared_with_the_config(dead: Daemon) -> None:
    made, producer = dead.make_counter_file(), new_id()
    made.cells[counter_layout.STAMP] = 0
    made.keep_as(name_beside(dead.socket_path, producer))
    os.utime(dead.config)
    assert next_daemon(dead).session.kept_local is None


def test_an_event_with_a_receipt_is_not_sent_again(dead: Daemon) -> None:
    dead.delivery.journal = dead.journal
    dead.send(dead.join(), event={"name": "first_request", "port": 8000})
    receipts.write(dead.delivery.queued[0], SENT, "nowhere")
    assert next_daemon(dead).delivery.queued == []


def test_a_session_whose_event_was_frozen_is_over(dead: Daemon) -> None:
    dead.delivery.journal = dead.journal
    dead.join()
    session = dead.session
    dead.service.run([session.report(1.0)])
    following = next_daemon(dead)
    assert [event.name for event in following.delivery.queued] == ["session"]
    assert not following.table.open
    assert following.table.has_ended(SESSION)


def test_a_session_with_a_receipt_is_over_although_its_journal_is_open(dead: Daemon) -> None:
    dead.delivery.journal = dead.journal
    dead.join()
    event_of = dead.session.report(1.0)
    journaled = dead.session.whole(1.0)
    dead.service.run([event_of])
    receipts.write(dead.delivery.queued[0], SENT, "nowhere")
    dead.journal.rewrite(SESSION, journaled)
    following = next_daemon(dead)
    assert not following.table.open


def test_a_living_process_owns_its_session_again(dead: Daemon) -> None:
    dead.join()
    dead.service.run(dead.session.own_by_process(os.getpid()))
    assert (SESSION, OWNER) in next_daemon(dead).watcher.watched


def test_a_session_whose_owner_has_exited_meanwhile_ends(dead: Daemon) -> None:
    dead.join()
    dead.service.run(dead.session.own_by_process(2**22))
    following = next_daemon(dead)
    assert following.session.ending is not None
    assert following.session.ending.exit_reason == "crash"


def test_nothing_goes_on_if_telemetry_is_off_by_now(dead: Daemon) -> None:
    dead.join()
    made = nameless(dead)
    following = next_daemon(dead, is_on=False)
    assert not following.table.open
    assert following.delivery.is_withdrawn
    assert made.is_retired


# --- files that the daemon opened by their names ----------------------------------------------------------------


def test_a_living_worker_that_has_its_named_file_open_is_watched(dead: Daemon) -> None:
    producer = new_id()
    with dead.named_counter_file(producer) as named:
        dead.join(producer, by_name=True)
        named.count("request_count", 7)
        following = next_daemon(dead, is_short=True)  # so that this process has no other descriptor of the file
        assert following.session.workers[producer].phase is Phase.RECONNECTING
        assert following.session.totals.total("request_count") == 7
        assert (SESSION, producer) in following.watcher.watched


@pytest.mark.parametrize("is_known", [True, False])
def test_the_named_file_of_a_dead_worker_counts(dead: Daemon, is_known: bool) -> None:
    producer = new_id()
    with dead.named_counter_file(producer) as named:
        if is_known:
            dead.join(producer, by_name=True)
        named.count("request_count", 7)
        named.write(counter_layout.PID, 0)
        following = next_daemon(dead)
        assert following.session.workers[producer].phase is Phase.GONE
        assert following.session.totals.total("request_count") == 7
        assert named.has_name


def test_a_worker_that_reconnects_with_its_recovered_named_file_is_counted_once(dead: Daemon) -> None:
    producer = new_id()
    with dead.named_counter_file(producer) as named:
        dead.join(producer, by_name=True)
        named.count("request_count", 7)
        following = next_daemon(dead)
        following.join(producer, by_name=True)
        named.count("request_count", 9)
        following.seal()
        (body,) = following.sent()
        assert body["properties"]["request_count"] == 9
        assert named.is_retired
        assert not named.has_name


def test_an_event_that_waited_is_bound_to_the_config_under_which_it_was_made(dead: Daemon) -> None:
    dead.delivery.journal = dead.journal
    dead.send(dead.join(), event={"name": "first_request", "port": 8000})
    (event,) = dead.delivery.queued
    assert dead.consent.allows_sending(event.distinct_id, event.stamp) is True
    os.utime(dead.config)
    following = next_daemon(dead)
    assert following.delivery.queued == [event]
    assert following.consent.allows_sending(event.distinct_id, event.stamp) is False
    following.opt(in_=False)
    assert following.consent.allows_sending(event.distinct_id, event.stamp) is None
