"""Sessions over time, with time as numbers: what opens one, what ends it, and what its end is called."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core.frames import Hello, parse
from brakit_sidecar.core.schema import SESSION
from brakit_sidecar.daemon import sessions as module
from brakit_sidecar.daemon.session import GOODBYE_S, GRACE_S, UNJOINED_S, Session
from brakit_sidecar.daemon.sessions import COMPACT_AFTER, REMEMBERED, Sessions
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.harness import new_id

if TYPE_CHECKING:
    from brakit_sidecar.core.frames import Frame, Occurred

SESSION_ID = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01"
GROUP_ID = "7b1d6f0c-1111-5222-8333-444455556666"


def hello(
    producer: str, session: str | None = SESSION_ID, group: str | None = None, *, is_owner: bool = False
) -> Hello:
    return Hello(session, group, producer, "python", is_owner)


def frame(**said: Any) -> Frame:
    made = parse(json.dumps(said).encode())
    assert not made.refused
    return made


class Story:
    """A table of sessions, told what happens at which second. A connection is named by its producer."""

    def __init__(self) -> None:
        self.table = Sessions()
        self.now = 1000.0

    def at(self, second: float) -> Story:
        self.now = 1000.0 + second
        return self

    def comes(self, producer: str, session: str | None = SESSION_ID, group: str | None = None) -> Session:
        joined = self.table.join(hello(producer, session, group), producer, self.now)
        assert joined is not None
        return joined

    def owner_comes(self, connection: str = "owner") -> Session:
        joined = self.table.join(hello(connection, is_owner=True), connection, self.now)
        assert joined is not None
        return joined

    def leaves(self, connection: str) -> Story:
        self.table.leave(self.session, connection, self.now)
        return self

    def says(self, connection: str, **said: Any) -> list[Occurred]:
        return self.table.say(self.session, connection, frame(**said), self.now)[0]

    def says_goodbye(self, connection: str, exit_reason: str = "clean") -> Story:
        self.table.part(self.session, connection, exit_reason, self.now)
        return self

    @property
    def session(self) -> Session:
        (session,) = self.table.open.values()
        return session

    def due(self, second: float) -> list[tuple[str, float]]:
        """Exit reason and duration of each session to seal at that second."""
        self.at(second)
        due = self.table.due(self.now)
        return [(session.ending.exit_reason, session.age_s(self.now)) for session in due if session.ending]


@pytest.fixture
def story() -> Story:
    return Story()


# --- the owner ----------------------------------------------------------------------------------------


def test_the_owners_end_is_the_sessions(story: Story) -> None:
    story.owner_comes()
    story.at(7).says_goodbye("owner", "sigint")
    assert story.due(7) == [("sigint", 7)]


def test_the_first_end_counts(story: Story) -> None:
    story.owner_comes()
    story.comes("a")
    story.at(7).says_goodbye("owner", "sigint").says_goodbye("owner", "crash").leaves("owner")
    assert story.due(7 + GOODBYE_S) == [("sigint", 7)]


def test_a_living_worker_has_its_time_for_a_goodbye(story: Story) -> None:
    story.owner_comes()
    story.comes("a")
    story.at(7).says_goodbye("owner")
    assert story.due(7) == []
    assert story.table.next_due() == 1007 + GOODBYE_S
    assert story.due(7 + GOODBYE_S) == [("clean", 7)]


@pytest.mark.parametrize("how", ["says goodbye", "leaves"])
def test_with_the_last_workers_goodbye_it_is_over_at_once(story: Story, how: str) -> None:
    story.owner_comes()
    story.comes("a")
    story.at(7).says_goodbye("owner").at(7.1)
    if how == "leaves":
        story.leaves("a")
    else:
        story.says_goodbye("a")
    assert story.due(7.1) == [("clean", 7)]


def test_a_worker_that_said_goodbye_before_is_not_waited_for(story: Story) -> None:
    story.owner_comes()
    story.comes("a")
    story.says_goodbye("a").at(7).says_goodbye("owner")
    assert story.due(7) == [("clean", 7)]


def test_an_owner_that_lost_its_connection_has_the_grace_to_come_back(story: Story) -> None:
    story.owner_comes()
    story.at(10).leaves("owner")
    assert story.due(10 + GRACE_S - 0.001) == []
    story.owner_comes("owner again")
    assert story.due(10 + 2 * GRACE_S) == []
    story.at(30).says_goodbye("owner again", "sigterm")
    assert story.due(30) == [("sigterm", 30)]


def test_an_owner_that_stays_away_is_a_crash_since_it_left(story: Story) -> None:
    story.owner_comes()
    story.comes("a")
    story.says_goodbye("a").at(10).leaves("owner")
    assert story.table.next_due() == 1010 + GRACE_S
    assert story.due(10 + GRACE_S) == [("crash", 10)]


def test_an_owner_whose_process_is_dead_is_not_waited_for(story: Story) -> None:
    session = story.owner_comes()
    story.at(10).leaves("owner").at(11)
    story.table.owner_ended(session, story.now)
    assert story.due(11) == [("crash", 10)]


def test_a_dead_owners_connection_is_read_to_its_end_first(story: Story) -> None:
    session = story.owner_comes()
    story.at(10).table.owner_ended(session, story.now)
    assert story.due(10) == []  # its last word may wait in the socket
    story.says_goodbye("owner", "sigterm").leaves("owner")
    assert story.due(10) == [("sigterm", 10)]


def test_a_dead_owner_without_a_word_is_a_crash(story: Story) -> None:
    session = story.owner_comes()
    story.at(10).table.owner_ended(session, story.now)
    story.leaves("owner")
    assert story.due(10) == [("crash", 10)]


def test_of_two_connections_of_an_owner_one_is_enough(story: Story) -> None:
    story.owner_comes("one")
    story.owner_comes("another")
    story.at(1).leaves("one")
    assert story.due(1 + 2 * GRACE_S) == []


def test_workers_that_come_and_go_do_not_end_an_owned_session(story: Story) -> None:
    story.owner_comes()
    for second in range(3):
        story.at(second).comes("a")
        story.leaves("a")
    assert story.table.next_due() is None
    assert story.due(3 + 10 * GRACE_S) == []


def test_a_process_that_owns_a_session_ends_it_by_its_death(story: Story) -> None:
    session = story.table.open_session(SESSION_ID, story.now)
    assert session is not None
    story.table.own_by_process(session, 4711)
    story.comes("a")
    story.at(3).says_goodbye("a").leaves("a")
    assert story.due(2 * UNJOINED_S) == []
    story.table.owner_ended(session, story.now)
    assert story.due(2 * UNJOINED_S) == [("crash", 2 * UNJOINED_S)]


def test_living_workers_have_their_time_for_a_goodbye_also_where_the_owner_left_long_ago(story: Story) -> None:
    story.owner_comes()
    story.comes("a")
    story.at(10).leaves("owner")
    assert story.due(10 + GRACE_S) == []
    assert story.due(10 + GRACE_S + GOODBYE_S) == [("crash", 10)]


# --- without an owner ---------------------------------------------------------------------------------


def test_the_grace_runs_from_the_last_producers_leaving(story: Story) -> None:
    story.comes("a")
    story.comes("b")
    story.at(5).says_goodbye("b").leaves("b")
    story.at(9).says_goodbye("a", "sigterm").leaves("a")
    assert story.table.next_due() == 1009 + GRACE_S
    assert story.due(9 + GRACE_S - 0.001) == []
    assert story.due(9 + GRACE_S) == [("sigterm", 9)]


def test_a_producer_within_the_grace_continues_the_session(story: Story) -> None:
    story.comes("a")
    story.at(5).says_goodbye("a").leaves("a")
    story.at(5 + GRACE_S - 0.001).comes("b")
    assert story.due(100) == []
    story.says_goodbye("b", "sighup").leaves("b")
    assert story.due(100 + GRACE_S) == [("sighup", 100)]


def test_the_last_producer_that_left_without_a_word_is_a_crash(story: Story) -> None:
    story.comes("a")
    story.comes("b")
    story.at(5).says_goodbye("a").leaves("a")
    story.at(6).leaves("b")
    assert story.due(6 + GRACE_S) == [("crash", 6)]


def test_an_earlier_crash_is_forgotten_beside_the_last_producers_word(story: Story) -> None:
    story.comes("a")
    story.comes("b")
    story.at(5).leaves("a")
    story.at(6).says_goodbye("b", "clean").leaves("b")
    assert story.due(6 + GRACE_S) == [("clean", 6)]


def test_a_producer_that_comes_back_takes_its_last_word_back(story: Story) -> None:
    story.comes("a")
    story.says_goodbye("a").leaves("a")
    story.at(2).comes("a")
    story.at(3).leaves("a")
    assert story.due(3 + GRACE_S) == [("crash", 3)]


def test_a_producer_with_two_connections_leaves_with_the_last_one(story: Story) -> None:
    story.comes("a")
    story.table.join(hello("a"), "a's second", story.now)
    story.at(4).leaves("a")
    assert story.due(4 + 2 * GRACE_S) == []
    story.leaves("a's second")
    assert story.due(4 + 3 * GRACE_S) == [("crash", 4 + 2 * GRACE_S)]


def test_a_session_that_nobody_joins_and_nobody_owns_ends_after_ten_minutes(story: Story) -> None:
    story.table.open_session(SESSION_ID, story.now)
    assert UNJOINED_S == 600
    assert story.table.next_due() == 1600
    assert story.due(599.9) == []
    assert story.due(600) == [("unknown", 600)]


def test_a_session_that_was_joined_does_not_wait_for_ten_minutes(story: Story) -> None:
    story.table.open_session(SESSION_ID, story.now)
    story.at(10).comes("a")
    story.at(11).says_goodbye("a").leaves("a")
    assert story.due(11 + GRACE_S) == [("clean", 11)]


# --- groups -------------------------------------------------------------------------------------------


def test_a_group_joins_its_open_session(story: Story) -> None:
    assert story.comes("a", None, GROUP_ID) is story.comes("b", None, GROUP_ID)


def test_another_group_is_another_session(story: Story) -> None:
    assert story.comes("a", None, GROUP_ID).id != story.comes("b", None, new_id()).id


def test_a_groups_session_has_an_id_of_its_own(story: Story) -> None:
    assert story.comes("a", None, GROUP_ID).id != GROUP_ID


def test_a_group_whose_session_was_sealed_opens_the_next_one(story: Story) -> None:
    first = story.comes("a", None, GROUP_ID)
    story.at(1).leaves("a").due(1 + GRACE_S)
    story.table.seal(first)
    second = story.comes("b", None, GROUP_ID)
    assert second.id != first.id
    assert story.comes("c", None, GROUP_ID) is second


def test_a_session_named_in_the_hello_wins_over_a_group(story: Story) -> None:
    assert story.comes("a", SESSION_ID, GROUP_ID).id == SESSION_ID


def test_neither_session_nor_group_nor_producer_is_no_membership(story: Story) -> None:
    assert story.table.join(Hello(None, None, new_id(), "python", False), "c", story.now) is None
    assert story.table.join(Hello(None, None, None, "python", False), "c", story.now) is None
    assert not story.table.open


# --- after the end ------------------------------------------------------------------------------------


def test_an_ended_session_cannot_be_joined_or_opened_again(story: Story) -> None:
    session = story.comes("a")
    story.table.seal(session)
    assert story.table.join(hello("b"), "b", story.now) is None
    assert story.table.open_session(SESSION_ID, story.now) is None
    assert story.table.has_ended(SESSION_ID)
    assert story.table.next_due() is None


def test_a_member_of_a_sealed_session_may_still_part_and_leave(story: Story) -> None:
    session = story.comes("a")
    story.table.seal(session)
    story.table.part(session, "a", "clean", story.now)
    story.table.leave(session, "a", story.now)
    assert not story.table.open


def test_ended_ids_are_remembered_up_to_a_bound(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REMEMBERED >= 10_000
    monkeypatch.setattr(module, "REMEMBERED", 3)
    ids = [new_id() for _ in range(4)]
    for session_id in ids:
        session = story.table.open_session(session_id, story.now)
        assert session is not None
        story.table.seal(session)
    assert [story.table.has_ended(session_id) for session_id in ids] == [False, True, True, True]


def test_an_event_of_a_command_teaches_the_session_and_is_nobodys_worker(story: Story) -> None:
    story.comes("a")
    (occurred,) = frame(event={"name": "setup_completed", "framework": "flask"}).events
    assert [said.event.name for said in story.table.remark(story.session, occurred, story.now)] == ["setup_completed"]
    assert story.table.remark(story.session, occurred, story.now) == []
    assert story.session.workers == {"a"}
    assert story.session.state.report(SESSION, {}, {})["framework"] == "flask"


def test_an_event_has_the_sessions_age(story: Story) -> None:
    story.comes("a")
    (occurred,) = story.at(3.25).says("a", event={"name": "first_request", "port": 8000})
    assert occurred.fields["time_to_first_request_ms"] == 3250


# --- producers that are gone for good -------------------------------------------------------------------


def test_the_accounts_of_many_whose_processes_have_ended_are_one() -> None:
    table = Sessions(exists=lambda pid: pid < 0)
    for number in range(10 * COMPACT_AFTER):
        joined = table.join(hello(f"p{number}"), number, 1000.0, pid=4711)
        assert joined is not None
        table.say(joined, number, frame(incr={"request_count": 1}, observe={"9f3a61c2d4e5b607": [3]}), 1000.0)
        table.part(joined, number, "clean", 1000.0)
        table.leave(joined, number, 1000.0)
        table.merge_departed(lambda: True)
    (session,) = table.open.values()
    assert len(session.state.producers) <= COMPACT_AFTER + 1
    assert session.state.total("request_count") == 10 * COMPACT_AFTER
    assert len(session.workers) == 10 * COMPACT_AFTER


def session_that_many_left(table: Sessions) -> Session:
    joined = table.open_session(SESSION_ID, 1000.0)
    assert joined is not None
    for number in range(COMPACT_AFTER):
        table.join(hello(f"p{number}"), number, 1000.0, pid=4711)
        table.leave(joined, number, 1000.0)
    return joined


def test_nothing_is_kept_of_a_session_that_is_over_when_accounts_are_to_be_merged() -> None:
    kept: list[Session] = []
    table = Sessions(exists=lambda _pid: False, keep=lambda session, _records: kept.append(session))
    joined = session_that_many_left(table)

    def read_that_consent_is_withdrawn() -> bool:
        table.seal(joined)
        kept.clear()
        return True

    assert table.merge_departed(read_that_consent_is_withdrawn) == {}
    assert kept == []


def test_a_producer_whose_process_lives_may_come_back_however_many_left(story: Story) -> None:
    for number in range(3 * COMPACT_AFTER):
        story.comes(f"p{number}")
        story.says(f"p{number}", incr={"request_count": 1})
        story.leaves(f"p{number}")
        story.table.merge_departed(lambda: True)
    story.comes("p0")
    story.says("p0", total={"request_count": 2})
    assert story.session.state.total("request_count") == 3 * COMPACT_AFTER + 1


def test_what_a_producer_wrote_before_its_process_ended_is_taken_in_before_its_account_is_merged() -> None:
    table = Sessions(exists=lambda _pid: False)
    joined = session_that_many_left(table)

    def read_what_waits() -> bool:
        assert table.join(hello("p0"), "late", 1000.0, pid=4711) is joined
        table.say(joined, "late", frame(total={"request_count": 5}), 1000.0)
        table.leave(joined, "late", 1000.0)
        return True

    table.merge_departed(read_what_waits)
    assert joined.has_departed("p1")
    assert joined.state.total("request_count") == 5


# --- against a plain model, tick by tick --------------------------------------------------------------

TICK_S = 0.25  # exact in binary; grace and goodbye are whole ticks
CONNECTIONS = ["1", "2", "3", "4"]
PRODUCERS = ["p", "q"]


class ModelSession:
    """One session as the field's table words it. It counts ticks, and knows no due times."""

    def __init__(self) -> None:
        self.age = 0
        self.members: dict[str, tuple[str, bool]] = {}  # connection: producer, is_owner
        self.words: dict[str, str] = {}
        self.ever_joined = False
        self.owner_lost_for: int | None = None
        self.owner_dead = False
        self.last_left: str | None = None
        self.empty_for = 0  # ticks since the last worker left
        self.ending: str | None = None
        self.ended_at = 0
        self.ending_for = 0

    def owners(self) -> list[str]:
        return [connection for connection, (_, is_owner) in self.members.items() if is_owner]

    def living(self) -> bool:
        return any(not is_owner and producer not in self.words for producer, is_owner in self.members.values())

    def begin_end(self, reason: str, ticks_ago: int = 0) -> None:
        if self.ending is None:
            self.ending, self.ended_at, self.ending_for = reason, self.age - ticks_ago, 0

    def tick(self) -> None:
        self.age += 1
        self.ending_for += 1
        self.empty_for += 1
        if self.owner_lost_for is not None:
            self.owner_lost_for += 1

    def is_over(self) -> bool:
        grace, goodbye, unjoined = (int(seconds / TICK_S) for seconds in (GRACE_S, GOODBYE_S, UNJOINED_S))
        if self.ending is None and not self.owners():
            if self.owner_lost_for is not None:
                if self.owner_lost_for >= grace:
                    self.begin_end("crash", self.owner_lost_for)
            elif not self.members and self.last_left is not None:
                if self.empty_for >= grace:
                    self.begin_end(self.words.get(self.last_left, "crash"), self.empty_for)
            elif not self.members and self.age >= unjoined:
                self.begin_end("unknown")
        return self.ending is not None and (self.ending_for >= goodbye or not self.living())


class SessionsMachine(RuleBasedStateMachine):
    """One session at a time, any order of comings, goings, words and deaths, and time that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Sessions()
        self.now = 1000.0
        self.model: ModelSession | None = None
        self.session: Session | None = None
        self.session_id = new_id()

    def free(self) -> list[str]:
        taken = self.model.members if self.model else {}
        return [connection for connection in CONNECTIONS if connection not in taken]

    @rule(producer=st.sampled_from(PRODUCERS), is_owner=st.booleans())
    def somebody_comes(self, producer: str, is_owner: bool) -> None:
        if not self.free():
            return
        connection = self.free()[0]
        producer = "the owner" if is_owner else producer
        joined = self.table.join(hello(producer, self.session_id, is_owner=is_owner), connection, self.now)
        assert joined is not None
        model = self.model = self.model or ModelSession()
        self.session = joined
        model.members[connection] = (producer, is_owner)
        model.words.pop(producer, None)
        model.ever_joined = True
        if is_owner:
            model.owner_lost_for, model.owner_dead = None, False

    @precondition(lambda self: self.model is None)
    @rule()
    def a_command_opens_it(self) -> None:
        self.session = self.table.open_session(self.session_id, self.now)
        self.model = ModelSession()

    @precondition(lambda self: self.model and self.model.members)
    @rule(data=st.data())
    def somebody_leaves(self, data: st.DataObject) -> None:
        assert self.model
        assert self.session
        connection = data.draw(st.sampled_from(sorted(self.model.members)))
        self.table.leave(self.session, connection, self.now)
        producer, is_owner = self.model.members.pop(connection)
        if not is_owner:
            if all(producer != other for other, _ in self.model.members.values()):
                self.model.last_left, self.model.empty_for = producer, 0
        elif not self.model.owners():
            self.model.owner_lost_for = 0
            if self.model.owner_dead:
                self.model.begin_end("crash")

    @precondition(lambda self: self.model and self.model.members)
    @rule(data=st.data(), word=st.sampled_from(["clean", "sigint", "sigterm", "unknown"]))
    def somebody_says_goodbye(self, data: st.DataObject, word: str) -> None:
        assert self.model
        assert self.session
        connection = data.draw(st.sampled_from(sorted(self.model.members)))
        self.table.part(self.session, connection, word, self.now)
        producer, is_owner = self.model.members[connection]
        self.model.words[producer] = word
        if is_owner:
            self.model.begin_end(word)

    @precondition(lambda self: self.model and (self.model.owners() or self.model.owner_lost_for is not None))
    @rule()
    def the_owners_process_ends(self) -> None:
        assert self.model
        assert self.session
        self.table.owner_ended(self.session, self.now)
        self.model.owner_dead = True
        if not self.model.owners():
            self.model.begin_end("crash", self.model.owner_lost_for or 0)

    @rule(ticks=st.sampled_from([1, 1, 1, 2, 3, 10, 20]))
    def time_passes(self, ticks: int) -> None:
        self.seal_what_is_over()  # whatever changed has woken the daemon
        for _ in range(ticks):
            next_due = self.table.next_due()
            self.now += TICK_S
            if self.model:
                self.model.tick()
            if self.seal_what_is_over():
                # Nobody needed to look before the time that was said.
                assert next_due is not None
                assert next_due <= self.now

    @precondition(lambda self: self.model and not self.model.ever_joined)
    @rule()
    def ten_minutes_pass(self) -> None:
        self.time_passes(ticks=int(UNJOINED_S / TICK_S))
        assert self.model is None

    def seal_what_is_over(self) -> bool:
        sealed = self.table.due(self.now)
        is_over = self.model is not None and self.model.is_over()
        assert len(sealed) == is_over
        if not is_over:
            return False
        (session,) = sealed
        assert self.model
        assert session.ending
        assert session.ending.exit_reason == self.model.ending
        assert session.age_s(self.now) == self.model.ended_at * TICK_S
        self.table.seal(session)
        assert self.table.has_ended(self.session_id)
        assert self.table.open_session(self.session_id, self.now) is None
        self.model, self.session, self.session_id = None, None, new_id()
        return True

    @invariant()
    def the_table_holds_what_the_model_holds(self) -> None:
        assert len(self.table.open) == (self.model is not None)
        if self.model and self.session:
            living = {producer for producer, is_owner in self.model.members.values() if not is_owner}
            assert self.session.live_producers == living - self.model.words.keys()


SessionsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestSessions = SessionsMachine.TestCase
