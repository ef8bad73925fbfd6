"""What a session's journal says, heard again: told by records alone, with time as numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from brakit_sidecar.core import payload
from brakit_sidecar.core.frames import Hello, parse
from brakit_sidecar.core.schema import EVENTS, SESSION
from brakit_sidecar.daemon import records
from brakit_sidecar.daemon.journal_replay import recovered
from brakit_sidecar.daemon.session import GOODBYE_S, Session
from brakit_sidecar.daemon.sessions import Sessions

from tests.harness import new_id

BOOT, NEXT_BOOT = "this boot", "the next"
KEY = "phc_test"
OPENED = {"opened": 1.0, "boot": "", "group": None, "owner_pid": None}


class Journaled:
    """Sessions whose records are kept in a list."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.table = Sessions(keep=lambda _session, news: self.records.extend(json.loads(json.dumps(news))), boot=BOOT)
        self.session_id = new_id()
        self.now = 100.0

    def comes(self, producer: str, *, is_owner: bool = False, group: str | None = None) -> Journaled:
        session_id = None if group else self.session_id
        assert self.table.join(Hello(session_id, group, producer, "python", is_owner), producer, self.now)
        return self

    def says(self, producer: str, **said: Any) -> Journaled:
        self.table.say(self.session, producer, parse(json.dumps(said).encode()), self.now)
        return self

    def says_goodbye(self, producer: str, exit_reason: str) -> Journaled:
        self.table.part(self.session, producer, exit_reason, self.now)
        return self

    def leaves(self, producer: str) -> Journaled:
        self.table.leave(self.session, producer, self.now)
        return self

    @property
    def session(self) -> Session:
        (session,) = self.table.open.values()
        return session

    def again(self, after_s: float = 10.0, boot: str = BOOT) -> Session:
        found = recovered(self.session.id, self.records, self.now + after_s, boot, KEY).session
        assert found is not None
        return found


@pytest.fixture
def journaled() -> Journaled:
    return Journaled()


def summary(session: Session) -> dict[str, Any]:
    return session.state.report(SESSION, {}, {})


def frozen(name: str, uuid: str | None = None) -> dict[str, Any]:
    """The record of an event that was about to be sent."""
    event, uuid, distinct_id = EVENTS[name], uuid or new_id(), new_id()
    body = payload.body(
        event,
        dict.fromkeys(event.fields),
        api_key=KEY,
        distinct_id=distinct_id,
        uuid=uuid,
        timestamp="2026-11-22T14:08:28.998Z",
    )
    return {"frozen": [name, uuid, distinct_id, body.decode()]}


WORDS: dict[str, Any] = {
    "set": {"framework": "flask", "is_custom_command": True, "setup_duration_ms": 7},
    "add": {"insight_types": ["n1"]},
    "mark": {"insight_count": ["a" * 16]},
    "event": {"name": "first_request", "port": 8000},
}


def test_what_was_said_is_said_again(journaled: Journaled) -> None:
    journaled.comes("p").says("p", **WORDS).says("p", incr={"request_count": 3}, observe={"b" * 16: [700]}).leaves("p")
    again = journaled.again()
    assert summary(again) == summary(journaled.session)
    assert again.opened_at == journaled.session.opened_at


def test_a_snapshot_keeps_what_was_only_counted(journaled: Journaled) -> None:
    journaled.comes("p").says("p", incr={"request_count": 3})
    assert summary(journaled.again())["request_count"] == 0
    journaled.table.snapshot(journaled.session)
    assert summary(journaled.again())["request_count"] == 3


def test_who_is_answered_is_kept_before(journaled: Journaled) -> None:
    journaled.comes("p").says("p", incr={"request_count": 3})
    journaled.table.settle(journaled.session, "p")
    assert summary(journaled.again())["request_count"] == 3


def test_where_nothing_changes_nothing_is_written(journaled: Journaled) -> None:
    journaled.comes("p").says("p", incr={"request_count": 3})
    journaled.table.snapshot(journaled.session)
    written = len(journaled.records)
    journaled.table.snapshot(journaled.session)
    journaled.says("p", set={}).table.settle(journaled.session, "p")
    assert len(journaled.records) == written


def test_a_rewritten_journal_says_the_same(journaled: Journaled) -> None:
    journaled.comes("owner", is_owner=True).comes("p").comes("q").says("p", **WORDS)
    journaled.says_goodbye("p", "sigterm").leaves("p").says("q", incr={"query_count": 2})
    appended = journaled.again()
    journaled.records = records.whole(journaled.session, journaled.now)
    rewritten = journaled.again()
    assert summary(rewritten) == {**summary(appended), "query_count": 2}
    assert rewritten.last_words == appended.last_words == {"p": "sigterm"}
    assert rewritten.state.occurred == {"first_request"}
    assert rewritten.workers == appended.workers == {"p", "q"}
    assert rewritten.owner_lost_at == appended.owner_lost_at is not None


def test_an_owner_has_the_grace_to_come_back_from_the_recovery_on(journaled: Journaled) -> None:
    journaled.comes("owner", is_owner=True)
    assert journaled.again(after_s=30.0).owner_lost_at == 130.0


def test_an_end_that_had_begun_goes_on(journaled: Journaled) -> None:
    journaled.comes("owner", is_owner=True).comes("p")
    journaled.now = 104.0
    again = journaled.says_goodbye("owner", "sigint").again(after_s=6.0)
    assert again.ending == ("sigint", 104.0, 110.0 + GOODBYE_S)


def test_who_had_not_left_vanished_with_the_daemon(journaled: Journaled) -> None:
    again = journaled.comes("p").comes("q").says_goodbye("q", "clean").leaves("q").again(after_s=3.0)
    assert again.parted == ("p", 103.0)
    assert not again.live_producers


def test_who_had_left_last_has_the_last_word_still(journaled: Journaled) -> None:
    journaled.comes("p").leaves("p")
    journaled.now = 101.0
    again = journaled.comes("q").says_goodbye("q", "clean").leaves("q").again()
    assert again.parted == ("q", 101.0)
    assert again.last_words == {"q": "clean"}


def test_after_a_power_cut_the_session_is_a_crash_as_old_as_its_last_record(journaled: Journaled) -> None:
    journaled.comes("owner", is_owner=True).comes("p")
    journaled.now = 142.0
    again = journaled.says("p", set={"framework": "flask"}).again(boot=NEXT_BOOT)
    assert again.ending is not None
    assert again.ending.exit_reason == "crash"
    assert again.age_s(0.0) == pytest.approx(42.0)


def test_a_power_cut_after_the_owners_word_is_that_word(journaled: Journaled) -> None:
    again = journaled.comes("o", is_owner=True).says_goodbye("o", "clean").again(boot=NEXT_BOOT)
    assert again.ending is not None
    assert again.ending.exit_reason == "clean"


def test_a_group_finds_its_session_again(journaled: Journaled) -> None:
    group = new_id()
    journaled.comes("p", group=group)
    assert journaled.again().group == group


def test_a_process_that_owns_it_is_known_again(journaled: Journaled) -> None:
    journaled.comes("p")
    journaled.table.own_by_process(journaled.session, 4711)
    assert journaled.again().owner_pid == 4711


def test_an_event_that_was_frozen_and_not_settled_is_still_to_be_sent() -> None:
    session_id = new_id()
    one, two = new_id(), new_id()
    records = [frozen("first_request", one), frozen("first_request", two)]
    found = recovered(session_id, [OPENED, *records], 2.0, "", KEY)
    assert [event.uuid for event in found.events] == [one, two]
    assert [event.body.decode() for event in found.events] == [record["frozen"][3] for record in records]
    settled = recovered(session_id, [*records, {"settled": one}], 2.0, "", KEY)
    assert [(event.uuid, event.session) for event in settled.events] == [(two, session_id)]
    assert found.session is not None
    assert found.session.state.occurred == {"first_request"}


def test_a_session_whose_event_was_frozen_is_over() -> None:
    found = recovered(new_id(), [OPENED, frozen("session")], 2.0, "", KEY)
    assert found.session is None
    assert [event.name for event in found.events] == ["session"]


def test_events_without_a_session_are_recovered_without_one() -> None:
    found = recovered("events", [frozen("cli_invoked")], 2.0, "", KEY)
    assert found.session is None
    assert [event.name for event in found.events] == ["cli_invoked"]


def test_a_frozen_body_that_is_not_ours_is_no_event_and_its_session_goes_on() -> None:
    record = frozen("session")
    record["frozen"][3] = record["frozen"][3].replace('"unknown"', '"/home/zoe"', 1)
    found = recovered(new_id(), [OPENED, record], 2.0, "", KEY)
    assert found.events == []
    assert found.session is not None


def test_of_a_journey_event_whose_frozen_body_is_not_ours_no_second_body_is_made() -> None:
    record = frozen("first_request")
    record["frozen"][3] = record["frozen"][3].replace('"unknown"', '"/home/zoe"', 1)
    found = recovered(new_id(), [OPENED, record], 2.0, "", KEY)
    assert found.events == []
    assert found.session is not None
    assert found.session.state.occurred == {"first_request"}


def test_how_a_session_ended_is_a_word_of_the_schema_whatever_the_journal_says() -> None:
    found = recovered(new_id(), [OPENED, {"ending": "/home/zoe", "ended_at": 1.5}], 2.0, "", KEY)
    assert found.session is not None
    assert found.session.ending is not None
    assert found.session.ending.exit_reason == "unknown"


def test_an_end_without_a_time_is_none() -> None:
    found = recovered(new_id(), [OPENED, {"ending": "clean", "ended_at": "now"}], 2.0, "", KEY)
    assert found.session is not None
    assert found.session.ending is None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"says": {"set": {"framework": "flask"}}},
        {"says": 1, "by": "p", "at": 1},
        {"says": {"set": {"framework": "flask"}}, "by": "p", "at": "now"},
        {"joined": "p"},
        {"frozen": ["session"]},
        {"frozen": ["no event", "uuid", "id", "{}"]},
        {"occurred": "nothing"},
        {"opened": "yesterday"},
        {"left": ["p"], "at": 1},
        {"ending": "clean"},
        {"settled": {}},
    ],
    ids=str,
)
def test_a_record_that_is_none_of_ours_costs_only_itself(journaled: Journaled, wrong: dict[str, Any]) -> None:
    journaled.comes("p").says("p", **WORDS)
    journaled.records.insert(2, wrong)
    assert summary(journaled.again()) == summary(journaled.session)


def test_no_text_of_a_journal_gets_into_a_session(journaled: Journaled) -> None:
    journaled.comes("p")
    journaled.records.append({"by": "p", "at": 1, "says": {"set": {"framework": "/home/zoe", "brakit_version": "zoe"}}})
    journaled.records.append({"joined": "q", "worker": True, "sdk": "/home/zoe", "at": 1})
    assert "zoe" not in json.dumps(summary(journaled.again()))
