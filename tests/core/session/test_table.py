"""Sessions over time, with time as a number: the stimuli that open and end a session, and its exit reason."""

from __future__ import annotations

import pytest
from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from brakit_sidecar.core.outbox import Reason
from brakit_sidecar.core.schema import SESSION
from brakit_sidecar.core.session import session as session_module
from brakit_sidecar.core.session import table as module
from brakit_sidecar.core.session.effects import (
    Close,
    Emit,
    Journal,
    Release,
    UnwatchWorker,
    WatchOwner,
    WatchWorker,
)
from brakit_sidecar.core.session.session import COMPACT_AFTER
from brakit_sidecar.core.session.table import MAX_SESSIONS, REMEMBERED
from brakit_sidecar.core.session.timing import USUAL_TIMING
from brakit_sidecar.core.session.worker import Phase

from tests.core.session.story import ANONYMOUS_ID, GROUP_ID, SESSION_ID, Story, frame, hello, occurred
from tests.harness import new_id

GRACE_S, GOODBYE_S, UNJOINED_S = USUAL_TIMING


@pytest.fixture
def story() -> Story:
    return Story()


# --- the owner ----------------------------------------------------------------------------------------


def test_a_session_ends_when_its_owner_reports_the_end(story: Story) -> None:
    story.owner().at(7).end("owner", "sigint")
    assert story.due(7) == [("sigint", 7)]


def test_only_the_first_end_that_the_owner_reports_counts(story: Story) -> None:
    story.owner().worker("a")
    story.at(7).end("owner", "sigint").end("owner", "crash").close("owner")
    assert story.due(7 + GOODBYE_S) == [("sigint", 7)]


def test_a_live_worker_has_time_to_report_its_end(story: Story) -> None:
    story.owner().worker("a").at(7).end("owner")
    assert story.due(7) == []
    assert story.table.next_due() == 1007 + GOODBYE_S
    assert story.due(7 + GOODBYE_S) == [("clean", 7)]


@pytest.mark.parametrize("how", ["reports its end", "disconnects"])
def test_an_ended_session_is_sealed_as_soon_as_its_last_worker_ends(story: Story, how: str) -> None:
    story.owner().worker("a").at(7).end("owner").at(7.1)
    if how == "disconnects":
        story.close("a")
    else:
        story.end("a")
    assert story.due(7.1) == [("clean", 7)]


def test_a_session_does_not_wait_for_a_worker_that_has_already_reported_its_end(story: Story) -> None:
    story.owner().worker("a").end("a").at(7).end("owner")
    assert story.due(7) == [("clean", 7)]


def test_a_stopping_daemon_may_give_workers_less_time(story: Story) -> None:
    story.worker("a").run(story.session.end("unknown", story.now, story.now, goodbye_s=0.1))
    assert story.due(0.09) == []
    story.session.stop_waiting()
    assert story.due(0.09) == [("unknown", 0)]


def test_a_session_that_has_not_ended_is_not_sealed_when_the_daemon_stops_waiting(story: Story) -> None:
    story.worker("a").session.stop_waiting()
    assert story.due(1) == []


def test_an_owner_that_lost_its_connection_may_reconnect_within_the_grace_period(story: Story) -> None:
    story.owner().at(10).close("owner")
    assert story.due(10 + GRACE_S - 0.001) == []
    story.owner("owner again")
    assert story.due(10 + 2 * GRACE_S) == []
    story.at(30).end("owner again", "sigterm")
    assert story.due(30) == [("sigterm", 30)]


def test_the_exit_reason_is_crash_if_the_owner_does_not_reconnect(story: Story) -> None:
    story.owner().worker("a").end("a").at(10).close("owner")
    assert story.table.next_due() == 1010 + GRACE_S
    assert story.due(10 + GRACE_S) == [("crash", 10)]


def test_a_session_does_not_wait_for_an_owner_whose_process_exited(story: Story) -> None:
    story.owner().at(10).close("owner").at(11).run(story.session.owner_exited(4711, story.now))
    assert story.due(11) == [("crash", 10)]


def test_the_connection_of_an_owner_that_exited_is_first_read_to_eof(story: Story) -> None:
    story.owner().at(10).run(story.session.owner_exited(4711, story.now))
    assert story.due(10) == []  # its end may still be unread in the socket
    story.end("owner", "sigterm").close("owner")
    assert story.due(10) == [("sigterm", 10)]


def test_the_exit_reason_is_crash_if_the_owner_exited_without_an_end(story: Story) -> None:
    story.owner().at(10).run(story.session.owner_exited(4711, story.now)).close("owner")
    assert story.due(10) == [("crash", 10)]


def test_an_owner_with_two_connections_still_owns_the_session_after_one_closes(story: Story) -> None:
    story.owner("first").owner("second").at(1).close("first")
    assert story.due(1 + 2 * GRACE_S) == []


def test_an_owned_session_does_not_end_with_its_workers(story: Story) -> None:
    story.owner()
    for second in range(3):
        story.at(second).worker("a").close("a")
    assert story.table.next_due() is None
    assert story.due(3 + 10 * GRACE_S) == []


def test_a_session_ends_when_the_process_that_owns_it_exits(story: Story) -> None:
    session = story.open()
    assert session is not None
    effects = session.own_by_process(4711)
    assert WatchOwner(SESSION_ID, 4711) in effects
    story.worker("a").at(3).end("a").close("a")
    assert story.due(2 * UNJOINED_S) == []
    story.run(session.owner_exited(4711, story.now))
    assert story.due(2 * UNJOINED_S) == [("crash", 2 * UNJOINED_S)]


def test_the_exit_of_another_owner_leaves_the_session_to_the_process_that_owns_it(story: Story) -> None:
    session = story.open()
    assert session is not None
    session.own_by_process(1)
    story.owner("owner", pid=2).close("owner")
    assert session.owner_exited(2, story.now) == []
    story.at(3).run(session.owner_exited(1, story.now))
    assert session.ending is not None


def test_an_owners_process_is_watched_if_its_pid_is_known(story: Story) -> None:
    assert WatchOwner(SESSION_ID, 4711) in story.owner("owner", pid=4711).effects
    assert not [effect for effect in Story().owner().effects if isinstance(effect, WatchOwner)]


def test_live_workers_have_the_goodbye_time_after_the_owners_grace_period(story: Story) -> None:
    story.owner().worker("a").at(10).close("owner")
    assert story.due(10 + GRACE_S) == []
    assert story.due(10 + GRACE_S + GOODBYE_S) == [("crash", 10)]


# --- without an owner ---------------------------------------------------------------------------------


def test_the_grace_period_begins_at_the_last_disconnect(story: Story) -> None:
    story.worker("a").worker("b").at(5).end("b").close("b")
    story.at(9).end("a", "sigterm").close("a")
    assert story.table.next_due() == 1009 + GRACE_S
    assert story.due(9 + GRACE_S - 0.001) == []
    assert story.due(9 + GRACE_S) == [("sigterm", 9)]


def test_a_worker_that_connects_within_the_grace_period_continues_the_session(story: Story) -> None:
    story.worker("a").at(5).end("a").close("a").at(5 + GRACE_S - 0.001).worker("b")
    assert story.due(100) == []
    story.end("b", "sighup").close("b")
    assert story.due(100 + GRACE_S) == [("sighup", 100)]


def test_the_exit_reason_is_crash_if_the_last_worker_reported_no_end(story: Story) -> None:
    story.worker("a").worker("b").at(5).end("a").close("a").at(6).close("b")
    assert story.due(6 + GRACE_S) == [("crash", 6)]


def test_the_last_workers_end_counts_even_if_another_worker_crashed_before(story: Story) -> None:
    story.worker("a").worker("b").at(5).close("a").at(6).end("b", "clean").close("b")
    assert story.due(6 + GRACE_S) == [("clean", 6)]


def test_a_reconnect_revokes_the_workers_end(story: Story) -> None:
    story.worker("a").end("a").close("a").at(2).worker("a").at(3).close("a")
    assert story.due(3 + GRACE_S) == [("crash", 3)]


def test_a_worker_with_two_connections_leaves_when_both_are_closed(story: Story) -> None:
    story.worker("a").worker("a", "second").at(4).close("a")
    assert story.due(4 + 2 * GRACE_S) == []
    story.close("second")
    assert story.due(4 + 3 * GRACE_S) == [("crash", 4 + 2 * GRACE_S)]


def test_a_session_without_workers_and_without_an_owner_ends_after_ten_minutes(story: Story) -> None:
    story.open()
    assert UNJOINED_S == 600
    assert story.table.next_due() == 1600
    assert story.due(599.9) == []
    assert story.due(600) == [("unknown", 600)]


def test_after_the_last_worker_has_left_the_grace_period_applies_instead_of_the_ten_minutes(story: Story) -> None:
    story.open()
    story.at(10).worker("a").at(11).end("a").close("a")
    assert story.due(11 + GRACE_S) == [("clean", 11)]


# --- the event ----------------------------------------------------------------------------------------


def test_the_event_has_the_number_of_the_workers_that_joined(story: Story) -> None:
    story.owner().worker("a").worker("b").close("b").end("owner").end("a")
    assert story.seal().workers == 2


def test_the_owner_is_not_a_worker_of_the_event(story: Story) -> None:
    story.owner().send("owner", incr={"request_count": 3}).end("owner")
    assert story.seal().workers == 0


def test_a_session_that_is_kept_local_says_so_in_each_event_and_keeps_the_first_reason(story: Story) -> None:
    story.worker("a").run(story.session.keep_local(Reason.CONFIG_CHANGED))
    assert story.session.keep_local(Reason.OTHER_SETTINGS) == []
    assert story.seal().kept_local is Reason.CONFIG_CHANGED


def test_an_event_has_the_anonymous_id_under_which_its_session_was_opened(story: Story) -> None:
    assert story.worker("a").seal().terms.anonymous_id == ANONYMOUS_ID


def test_an_event_holds_increments_that_were_not_parsed_yet(story: Story) -> None:
    story.worker("a")
    assert story.members["a"].count([b'{"incr":{"request_count":2}}'] * 3)
    assert story.seal().values["request_count"] == 6


def test_all_lines_are_parsed_if_one_line_is_not_an_increment(story: Story) -> None:
    story.worker("a")
    assert not story.members["a"].count([b'{"incr":{"request_count":2}}', b"{}"])
    assert story.seal().values["request_count"] == 0


def test_a_member_with_very_many_distinct_lines_is_flushed(story: Story) -> None:
    story.worker("a")
    lines = [b'{"incr":{"request_count":%d}}' % number for number in range(1, 2001)]
    assert story.members["a"].count(lines)
    assert story.members["a"].count([b'{"incr":{"request_count":1}}'])
    assert story.seal().values["request_count"] == 2000 * 2001 // 2 + 1


# --- groups -------------------------------------------------------------------------------------------


def test_a_worker_of_a_group_joins_the_open_session_of_the_group(story: Story) -> None:
    assert story.group("a") == story.group("b")


def test_each_group_has_a_session_of_its_own(story: Story) -> None:
    assert story.group("a") != story.group("b", new_id())


def test_the_session_of_a_group_has_an_id_of_its_own(story: Story) -> None:
    assert story.group("a") != GROUP_ID


def test_a_group_whose_session_was_sealed_opens_a_new_session(story: Story) -> None:
    first = story.group("a")
    story.at(1).close("a").due(1 + GRACE_S)
    story.seal()
    second = story.group("b")
    assert second != first
    assert story.group("c") == second


def test_a_hello_with_a_session_and_a_group_joins_the_session(story: Story) -> None:
    member = story.connect(hello("a", SESSION_ID, GROUP_ID))
    assert member is not None
    assert member.session_id == SESSION_ID


def test_a_hello_opens_no_session_if_it_names_a_known_session_or_no_session(story: Story) -> None:
    story.group("a")
    assert story.table.opens_none(hello("b", None, GROUP_ID), "")
    assert not story.table.opens_none(hello("b", None, GROUP_ID), "another destination")
    assert not story.table.opens_none(hello("b", None, new_id()), "")
    assert not story.table.opens_none(hello("b"), "")
    assert story.table.opens_none(hello("b", None), "")
    story.open()
    assert story.table.opens_none(hello("b"), "")


# --- after the end ------------------------------------------------------------------------------------


def test_an_ended_session_cannot_be_joined_or_opened_again(story: Story) -> None:
    story.worker("a").seal()
    assert story.connect(hello("b")) is None
    assert story.open() is None
    assert story.table.has_ended(SESSION_ID)
    assert story.table.next_due() is None


def test_sealing_closes_the_session_after_its_event(story: Story) -> None:
    story.worker("a")
    effects = story.table.seal(story.session, story.now)
    assert [type(effect) for effect in effects] == [Emit, Close]


def test_a_withdrawal_closes_every_session_without_an_event(story: Story) -> None:
    story.worker("a").group("b")
    effects = story.table.withdraw()
    assert [type(effect) for effect in effects] == [Close, Close]
    assert not story.table.open
    assert story.connect(hello("c")) is None


def test_ended_ids_are_remembered_up_to_a_bound(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REMEMBERED >= 10_000
    monkeypatch.setattr(module, "REMEMBERED", 3)
    ids = [new_id() for _ in range(4)]
    for session_id in ids:
        assert story.open(session_id)
        story.seal()
    assert [story.table.has_ended(session_id) for session_id in ids] == [False, True, True, True]


# --- journey events -----------------------------------------------------------------------------------


def test_an_event_of_a_command_changes_the_session_and_makes_no_worker(story: Story) -> None:
    story.worker("a")
    event = occurred("setup_completed", framework="flask")
    story.run(story.session.receive_event(event, story.now))
    story.run(story.session.receive_event(event, story.now))
    assert story.emitted() == ["setup_completed"]
    assert story.session.workers.keys() == {"a"}
    assert story.session.totals.report(SESSION, {}, {})["framework"] == "flask"


def test_an_event_holds_the_sessions_age(story: Story) -> None:
    story.worker("a").at(3.25).send("a", event={"name": "first_request", "port": 8000})
    (emit,) = [effect for effect in story.effects if isinstance(effect, Emit)]
    assert emit.values["time_to_first_request_ms"] == 3250


def test_a_value_is_journaled_before_the_event_that_reports_it(story: Story) -> None:
    story.worker("a")
    _refused, effects = story.session.receive(story.members["a"], frame(event={"name": "first_request"}), story.now)
    assert [type(effect) for effect in effects] == [Journal, Emit]


# --- workers without a connection ---------------------------------------------------------------------

NOTHING = CounterSnapshot({}, {})
FIVE = CounterSnapshot({"request_count": 5}, {})


def test_an_evicted_worker_keeps_the_session_open_until_its_process_exits(story: Story) -> None:
    story.worker("a", pid=4711).at(1).close("a", is_evicted=True)
    assert WatchWorker(SESSION_ID, "a", 4711, are_descriptors_short=True) in story.effects
    assert story.due(1 + 2 * GRACE_S) == []
    story.at(30).run(story.session.worker_exited("a", story.now))
    assert story.due(30 + GRACE_S) == [("crash", 30)]


def test_an_evicted_worker_that_reconnects_is_not_watched_any_more(story: Story) -> None:
    story.worker("a").close("a", is_evicted=True).worker("a")
    assert UnwatchWorker(SESSION_ID, "a") in story.effects
    assert story.session.worker_exited("a", story.now) == []
    assert story.session.workers["a"].phase is Phase.CONNECTED


def test_an_evicted_worker_that_had_reported_its_end_counts_as_disconnected(story: Story) -> None:
    story.worker("a").end("a").at(1).close("a", is_evicted=True)
    assert story.due(1 + GRACE_S) == [("clean", 1)]


def test_an_end_in_the_counter_file_counts_as_the_workers_end(story: Story) -> None:
    story.owner().worker("a").counted("a", CounterSnapshot({}, {}, "sigint"))
    assert not story.session.has_live_workers
    story.close("owner").at(2).close("a")
    assert story.session.workers["a"].exit_reason == "sigint"


def test_an_end_in_the_counter_file_may_be_read_after_the_disconnect(story: Story) -> None:
    story.worker("a").at(2).close("a").counted("a", CounterSnapshot({}, {}, "sigint"))
    assert story.due(2 + GRACE_S) == [("sigint", 2)]


def test_the_counter_file_of_an_owner_counts(story: Story) -> None:
    story.owner().counted("owner", FIVE)
    assert story.session.totals.total("request_count") == 5


def found(story: Story, producer: str, snapshot: CounterSnapshot, *, is_alive: bool, session: str | None) -> None:
    """Find a counter file, as a daemon does after the daemon before it was killed."""
    opened, effects = story.table.session_of_worker(producer, session, None if session else GROUP_ID, story.opening)
    assert opened is not None
    story.run(effects).run(opened.found(producer, snapshot, story.now, 4711, is_alive=is_alive))


@pytest.mark.parametrize("session", [SESSION_ID, None])
def test_a_live_workers_counter_file_opens_its_session_which_waits_for_the_worker(story: Story, session: str) -> None:
    found(story, "a", FIVE, is_alive=True, session=session)
    assert story.session.totals.total("request_count") == 5
    assert story.due(10 * GRACE_S) == []
    assert [effect.pid for effect in story.effects if isinstance(effect, WatchWorker)] == [4711]


def test_a_second_counter_file_of_a_group_joins_the_session_of_the_group(story: Story) -> None:
    found(story, "a", FIVE, is_alive=True, session=None)
    found(story, "b", FIVE, is_alive=True, session=None)
    assert story.session.totals.total("request_count") == 10


def test_the_counter_file_of_a_dead_worker_counts_and_the_grace_period_begins(story: Story) -> None:
    found(story, "a", FIVE, is_alive=False, session=SESSION_ID)
    assert story.due(GRACE_S) == [("crash", 0)]
    assert story.seal().values["request_count"] == 5


def test_a_worker_that_is_found_dead_while_another_is_connected_is_not_the_last_to_leave(story: Story) -> None:
    story.worker("b")
    found(story, "a", FIVE, is_alive=False, session=SESSION_ID)
    story.at(3).end("b").close("b")
    assert story.due(3 + GRACE_S) == [("clean", 3)]


def test_a_session_does_not_wait_for_a_live_worker_whose_counter_file_holds_its_end(story: Story) -> None:
    found(story, "a", CounterSnapshot({}, {}, "clean"), is_alive=True, session=SESSION_ID)
    assert story.session.workers["a"].phase is Phase.FINISHED
    story.run(story.session.worker_exited("a", story.now))
    assert story.due(GRACE_S) == [("clean", 0)]


def test_the_end_that_a_worker_reported_is_kept_when_its_counter_file_is_found(story: Story) -> None:
    story.worker("a").end("a").close("a")
    found(story, "a", NOTHING, is_alive=True, session=SESSION_ID)
    assert story.session.workers["a"].phase is Phase.FINISHED


def test_the_session_of_a_known_worker_is_found_by_the_workers_id_alone(story: Story) -> None:
    story.worker("a").close("a")
    session, _effects = story.table.session_of_worker("a", None, None, story.opening)
    assert session is story.session


def test_a_counter_file_without_a_session_and_a_group_belongs_to_no_session(story: Story) -> None:
    assert story.table.session_of_worker("a", None, None, story.opening) == (None, [])


# --- bounds -------------------------------------------------------------------------------------------


def test_no_more_sessions_are_opened_than_the_table_has_room_for(story: Story) -> None:
    ids = [new_id() for _ in range(MAX_SESSIONS)]
    for session_id in ids:
        assert story.table.has_room_for("a", session_id, None, "")
        story.open(session_id)
    assert story.table.is_full
    assert not story.table.has_room_for("a", new_id(), None, "")
    assert not story.table.has_room_for("a", None, GROUP_ID, "")
    assert story.table.session_of_worker("a", new_id(), None, story.opening) == (None, [])
    assert story.table.has_room_for("a", ids[0], None, "")


def test_a_full_table_has_room_again_after_a_session_was_sealed(story: Story) -> None:
    for _ in range(MAX_SESSIONS - 1):
        story.open(new_id())
    last = story.open()
    assert last is not None
    assert not story.table.has_room_for("a", None, GROUP_ID, "")
    story.run(story.table.seal(last, story.now))
    assert story.table.has_room_for("a", None, GROUP_ID, "")


def test_a_full_table_answers_a_hello_to_an_ended_session_as_usual(story: Story) -> None:
    story.open()
    story.run(story.table.seal(story.session, story.now))
    for _ in range(MAX_SESSIONS):
        story.open(new_id())
    assert story.table.has_room_for("a", SESSION_ID, None, "")


def test_a_session_has_room_for_a_number_of_producers_and_for_those_that_it_knows(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_PRODUCERS", 3)
    story.owner().worker("a").worker("b")
    for known in ("owner", "a", "b"):
        assert story.table.has_room_for(known, SESSION_ID, None, "")
    assert not story.table.has_room_for("c", SESSION_ID, None, "")
    assert story.table.session_of_worker("c", SESSION_ID, None, story.opening) == (None, [])
    assert story.table.has_room_for("c", new_id(), None, "")


def test_compacted_workers_take_no_room(story: Story) -> None:
    story.owner()
    for number in range(COMPACT_AFTER + 1):
        story.worker(f"{number}").close(f"{number}")
    before = len(story.session.totals.producers)
    for session, workers in story.table.to_compact():
        story.run(session.compact(workers))
    assert len(story.session.totals.producers) < before - COMPACT_AFTER + 2
    assert story.session.has_room_for("0")  # it is known, and its hello is refused


# --- workers whose processes have exited ---------------------------------------------------------------


def test_the_totals_of_many_exited_workers_are_compacted_into_one(story: Story) -> None:
    for number in range(10 * COMPACT_AFTER):
        name = f"p{number}"
        story.worker(name, pid=4711).send(name, incr={"request_count": 1}, observe={"9f3a61c2d4e5b607": [3]})
        story.end(name).close(name)
        for session, workers in story.table.to_compact():
            story.run(session.compact(workers))
    assert len(story.session.totals.producers) <= COMPACT_AFTER + 1
    assert story.session.totals.total("request_count") == 10 * COMPACT_AFTER
    assert len(story.session.workers) == 10 * COMPACT_AFTER
    assert story.connect(hello("p0")) is None


def disconnect_many(story: Story) -> Story:
    """Let as many workers disconnect as are needed for a compaction."""
    for number in range(COMPACT_AFTER):
        story.worker(f"p{number}").send(f"p{number}", incr={"request_count": 1}).close(f"p{number}")
    return story


def test_compaction_releases_the_counter_files_after_everything_is_journaled(story: Story) -> None:
    disconnect_many(story)
    ((session, workers),) = story.table.to_compact()
    effects = session.compact(workers)
    releases = [effect for effect in effects if isinstance(effect, Release)]
    assert len(releases) == COMPACT_AFTER - 1
    assert effects[-len(releases) :] == releases


def test_compaction_is_not_proposed_again_until_more_workers_have_left(story: Story) -> None:
    disconnect_many(story)
    assert story.table.to_compact()
    assert story.table.to_compact() == []


def test_a_worker_that_reconnects_before_the_compaction_is_not_compacted(story: Story) -> None:
    disconnect_many(story)
    ((session, workers),) = story.table.to_compact()
    story.worker("p0").send("p0", total={"request_count": 5})
    session.compact(workers)
    assert session.workers["p0"].phase is Phase.CONNECTED
    assert session.workers["p1"].phase is Phase.COMPACTED
    assert session.totals.total("request_count") == COMPACT_AFTER + 4


def test_the_last_worker_to_leave_is_not_compacted_because_its_exit_reason_is_needed(story: Story) -> None:
    disconnect_many(story)
    assert story.session.last_left is not None
    assert story.session.compact([story.session.last_left]) == []
