"""Sessions that are replayed from the records of a journal, without files and with time as a number."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import payload
from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from brakit_sidecar.core.schema import EVENTS, SESSION
from brakit_sidecar.core.session.replay import Replayed, replay
from brakit_sidecar.core.session.session import COMPACT_AFTER, Session
from brakit_sidecar.core.session.timing import USUAL_TIMING
from brakit_sidecar.core.session.worker import Phase

from tests.core.session.story import BOOT, GROUP_ID, SESSION_ID, Story, hello
from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable

NEXT_BOOT = "the next boot"
KEY = "phc_test"
DESTINATION = "d" * 16
OPENED = {"opened": 1.0, "boot": "", "group": None, "owner_pid": None, "stamp": 7, "destination": DESTINATION}
LINES: dict[str, Any] = {
    "set": {"framework": "flask", "is_custom_command": True, "setup_duration_ms": 7},
    "add": {"insight_types": ["n1"]},
    "mark": {"insight_count": ["a" * 16]},
    "event": {"name": "first_request", "port": 8000},
}


@pytest.fixture
def story() -> Story:
    return Story()


def replayed(
    records: Iterable[dict[str, Any]], now: float = 2.0, boot: str = "", session_id: str = SESSION_ID
) -> Replayed:
    """Replay records into a fresh session."""
    return replay(Session(session_id, None, 0.0, ""), records, now, boot, destination=DESTINATION, api_key=KEY)


def recovered(story: Story, after_s: float = 10.0, boot: str = BOOT) -> Session:
    """Return the story's session as the next daemon recovers it from the journal."""
    found = replayed(story.journal(), story.now + after_s, boot, story.session.id).session
    assert found is not None
    return found


def summary(session: Session) -> dict[str, Any]:
    """Return the session event's fields, without the fields that only the daemon knows."""
    return session.totals.report(SESSION, {}, {})


def frozen(name: str, uuid: str | None = None) -> dict[str, Any]:
    """Return the record of an event that the daemon was about to send."""
    event, uuid, distinct_id = EVENTS[name], uuid or new_id(), new_id()
    body = payload.body(
        event,
        dict.fromkeys(event.fields),
        api_key=KEY,
        distinct_id=distinct_id,
        uuid=uuid,
        timestamp="2026-11-22T14:08:28.998Z",
    )
    return {"frozen": [name, uuid, distinct_id, body.decode(), DESTINATION, 7]}


def frozen_with_text(name: str) -> dict[str, Any]:
    """Return the record of an event whose body holds a text that is not in the schema."""
    record = frozen(name)
    record["frozen"][3] = record["frozen"][3].replace('"unknown"', '"/home/zoe"', 1)
    return record


def test_a_journal_restores_the_reported_values(story: Story) -> None:
    story.worker("p").send("p", **LINES).send("p", incr={"request_count": 3}, observe={"b" * 16: [700]}).close("p")
    found = recovered(story)
    assert summary(found) == summary(story.session)
    assert found.opened_at == story.session.opened_at


def test_counts_are_journaled_with_a_snapshot(story: Story) -> None:
    story.worker("p").send("p", incr={"request_count": 3})
    assert summary(recovered(story))["request_count"] == 0
    story.run(story.session.journal_changes())
    assert summary(recovered(story))["request_count"] == 3


def test_the_lines_that_an_answer_acknowledges_are_journaled_before_the_answer(story: Story) -> None:
    story.worker("p").send("p", incr={"request_count": 3})
    story.run(story.session.journal_member(story.members["p"]))
    assert summary(recovered(story))["request_count"] == 3


def test_an_unchanged_session_writes_nothing(story: Story) -> None:
    story.worker("p").send("p", incr={"request_count": 3}).run(story.session.journal_changes())
    before = story.journal()
    story.run(story.session.journal_changes()).send("p", set={})
    story.run(story.session.journal_member(story.members["p"]))
    assert story.journal() == before


def test_a_rewritten_journal_restores_the_same_session(story: Story) -> None:
    story.owner().worker("p").worker("q").worker("r").send("p", **LINES).close("r")
    story.at(1).end("p", "sigterm").close("p").send("q", incr={"query_count": 2})
    appended = recovered(story)
    whole = json.loads(json.dumps(story.session.whole(story.now)))
    rewritten = replayed(whole, story.now + 10, BOOT).session
    assert rewritten is not None
    assert summary(rewritten) == {**summary(appended), "query_count": 2}
    for found in (rewritten, appended):
        assert {worker.id: worker.exit_reason for worker in found.workers.values()} == {
            "p": "sigterm",
            "q": None,
            "r": None,
        }
        assert found.owner.lost_at == story.now + 10
    assert rewritten.totals.occurred == {"first_request"}


def test_a_rewritten_journal_shows_which_worker_left_last(story: Story) -> None:
    story.worker("p").worker("q").at(1).close("p").at(2).end("q").close("q")
    rewritten = replayed(story.session.whole(story.now + 3), story.now + 10, BOOT).session
    assert rewritten is not None
    assert rewritten.last_left is not None
    assert (rewritten.last_left.id, rewritten.last_left.left_at) == ("q", story.now)


def test_a_rewritten_journal_restores_an_end_in_progress(story: Story) -> None:
    story.worker("p").at(4).run(story.session.end("sigint", story.now, story.now))
    rewritten = replayed(story.session.whole(story.now), story.now + 1, BOOT).session
    assert rewritten is not None
    assert rewritten.ending == ("sigint", story.now, story.now + 1 + USUAL_TIMING.goodbye_s)


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_compacted_workers_stay_compacted(story: Story, is_rewritten: bool) -> None:
    for number in range(COMPACT_AFTER):
        story.worker(f"p{number}").send(f"p{number}", incr={"request_count": 1}).close(f"p{number}")
    ((session, workers),) = story.table.to_compact()
    story.run(session.compact(workers))
    records = story.session.whole(story.now) if is_rewritten else story.journal()
    found = replayed(json.loads(json.dumps(records)), story.now, BOOT).session
    assert found is not None
    assert summary(found)["request_count"] == COMPACT_AFTER
    assert found.workers["p0"].phase is Phase.COMPACTED
    assert found.hello(hello("p0"), story.now) == (None, [])


def test_the_owners_grace_period_begins_at_the_recovery(story: Story) -> None:
    assert recovered(story.owner(), after_s=30.0).owner.lost_at == 1030.0


def test_an_end_in_progress_continues_after_the_recovery(story: Story) -> None:
    found = recovered(story.owner().worker("p").at(4).end("owner", "sigint"), after_s=6.0)
    assert found.ending == ("sigint", 1004.0, 1010.0 + USUAL_TIMING.goodbye_s)


def test_a_worker_that_was_connected_counts_as_disconnected_after_the_recovery(story: Story) -> None:
    found = recovered(story.worker("p").worker("q").end("q", "clean").close("q"), after_s=3.0)
    assert found.last_left is not None
    assert (found.last_left.id, found.last_left.left_at) == ("p", 1003.0)
    assert not found.has_live_workers


def test_the_worker_that_left_last_keeps_its_exit_reason(story: Story) -> None:
    found = recovered(story.worker("p").close("p").at(1).worker("q").end("q", "clean").close("q"))
    assert found.last_left is not None
    assert (found.last_left.id, found.last_left.left_at, found.last_left.exit_reason) == ("q", 1001.0, "clean")


def test_a_worker_that_is_found_dead_does_not_become_the_worker_that_left_last(story: Story) -> None:
    story.worker("p").worker("q").at(1).close("p").at(2).end("q").close("q")
    story.at(3).run(story.session.found("p", CounterSnapshot({}, {}), story.now, 0, is_alive=False))
    story.run(story.session.found("r", CounterSnapshot({}, {}), story.now, 0, is_alive=False))
    found = recovered(story)
    assert found.last_left is not None
    assert found.last_left.id == "q"


def test_after_a_power_cut_the_session_is_a_crash_at_the_time_of_the_last_record(story: Story) -> None:
    found = recovered(story.owner().worker("p").at(42).send("p", set={"framework": "flask"}), boot=NEXT_BOOT)
    assert found.ending is not None
    assert found.ending.exit_reason == "crash"
    assert found.age_s(0.0) == pytest.approx(42.0)


def test_an_end_that_the_owner_reported_before_a_power_cut_is_the_end_of_the_session(story: Story) -> None:
    found = recovered(story.owner().end("owner", "clean"), boot=NEXT_BOOT)
    assert found.ending is not None
    assert found.ending.exit_reason == "clean"


def test_a_recovered_session_is_found_by_its_group(story: Story) -> None:
    group = new_id()
    story.group("p", group)
    assert recovered(story).group == group


def test_a_process_that_owns_the_session_is_restored(story: Story) -> None:
    story.worker("p").run(story.session.own_by_process(4711))
    assert recovered(story).owner.pid == 4711


def test_a_frozen_event_without_a_receipt_will_be_sent() -> None:
    session_id = new_id()
    first, second = new_id(), new_id()
    records = [frozen("first_request", first), frozen("first_request", second)]
    found = replayed([OPENED, *records], session_id=session_id)
    assert [event.uuid for event in found.events] == [first, second]
    assert [event.body.decode() for event in found.events] == [record["frozen"][3] for record in records]
    settled = replayed([*records, {"settled": first}], session_id=session_id)
    assert [(event.uuid, event.session) for event in settled.events] == [(second, session_id)]
    assert found.session is not None
    assert found.session.totals.occurred == {"first_request"}


def test_a_session_whose_event_was_frozen_is_over() -> None:
    found = replayed([OPENED, frozen("session")])
    assert found.session is None
    assert [event.name for event in found.events] == ["session"]


def test_events_without_a_session_are_recovered_and_open_no_session() -> None:
    found = replayed([frozen("cli_invoked")], session_id="events")
    assert found.session is None
    assert [event.name for event in found.events] == ["cli_invoked"]


def test_a_frozen_session_event_with_foreign_text_is_not_sent_and_the_session_stays_open() -> None:
    found = replayed([OPENED, frozen_with_text("session")])
    assert found.events == []
    assert found.session is not None


def test_a_frozen_journey_event_with_foreign_text_is_neither_sent_nor_made_again() -> None:
    found = replayed([OPENED, frozen_with_text("first_request")])
    assert found.events == []
    assert found.session is not None
    assert found.session.totals.occurred == {"first_request"}


def test_an_exit_reason_outside_the_schema_is_replayed_as_unknown() -> None:
    found = replayed([OPENED, {"ending": "/home/zoe", "ended_at": 1.5}])
    assert found.session is not None
    assert found.session.ending is not None
    assert found.session.ending.exit_reason == "unknown"


def test_an_end_without_a_time_is_skipped() -> None:
    found = replayed([OPENED, {"ending": "clean", "ended_at": "now"}])
    assert found.session is not None
    assert found.session.ending is None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"frame": {"set": {"framework": "flask"}}},
        {"frame": 1, "by": "p", "at": 1},
        {"frame": {"set": {"framework": "flask"}}, "by": "p", "at": "now"},
        {"joined": "p"},
        {"frozen": ["session"]},
        {"frozen": ["no event", "uuid", "id", "{}", "none", 7]},
        {"occurred": "nothing"},
        {"opened": "yesterday"},
        {"left": ["p"], "at": 1},
        {"ending": "clean"},
        {"ending": "clean", "ended_at": "nan"},
        {"opened": "nan", "boot": BOOT, "group": None, "owner_pid": None},
        {**OPENED, "stamp": 2**64},
        {**OPENED, "stamp": "yesterday"},
        {"opened": float("inf"), "boot": BOOT, "group": None, "owner_pid": None},
        {"by": True, "at": 1, "frame": {"set": {"framework": "flask"}}},
        {"by": "p", "at": 2**64, "frame": {"set": {"framework": "flask"}}},
        {"by": "p", "at": True, "frame": {"set": {"framework": "flask"}}},
        {"compacted": ["p", 7]},
        {"joined": 7, "worker": True, "sdk": "python", "at": 1},
        {"settled": {}},
    ],
    ids=str,
)
def test_a_malformed_record_is_skipped_and_the_other_records_are_read(story: Story, wrong: dict[str, Any]) -> None:
    records = story.worker("p").send("p", **LINES).journal()
    records.insert(2, wrong)
    found = replayed(records, story.now, BOOT).session
    assert found is not None
    assert summary(found) == summary(story.session)


def test_no_text_of_a_journal_becomes_a_value(story: Story) -> None:
    records = story.worker("p").journal()
    records.append({"by": "p", "at": 1, "frame": {"set": {"framework": "/home/zoe", "brakit_version": "zoe"}}})
    records.append({"joined": "q", "worker": True, "sdk": "/home/zoe", "at": 1})
    found = replayed(records, story.now, BOOT).session
    assert found is not None
    assert "zoe" not in json.dumps(summary(found))


def test_a_worker_that_left_twice_counts_as_gone_once(story: Story) -> None:
    records = story.worker("p").close("p").journal()
    left = next(record for record in records if "left" in record)
    found = replayed([*records, {**left, "at": None}], story.now, BOOT).session
    assert found is not None
    assert (found.workers["p"].phase, found.workers["p"].left_at) == (Phase.GONE, left["at"] / 1e9)


def test_a_connected_worker_that_was_compacted_counts_as_compacted(story: Story) -> None:
    records = [*story.worker("p").journal(), {"compacted": ["p"]}]
    found = replayed(records, story.now, BOOT).session
    assert found is not None
    assert found.workers["p"].phase is Phase.COMPACTED


@pytest.mark.parametrize("pid", [0, -1, 10**18, True, "1"])
def test_a_process_id_that_cannot_exist_does_not_own_the_session(story: Story, pid: object) -> None:
    records = story.worker("p").journal()
    found = replayed([{**records[0], "owner_pid": pid}, *records[1:]], story.now, BOOT).session
    assert found is not None
    assert found.owner.pid is None


def test_a_group_that_is_not_a_uuid_is_left_out(story: Story) -> None:
    records = story.worker("p").journal()
    found = replayed([{**records[0], "group": 5}, *records[1:]], story.now, BOOT).session
    assert found is not None
    assert found.group is None


def test_a_session_does_not_wait_for_a_time_in_the_future(story: Story) -> None:
    records = [*story.worker("p").journal(), {"left": "p", "at": int(4e18)}, {"ending": "clean", "ended_at": 4e9}]
    records[0]["opened"] = 4e9
    found = replayed(records, story.now, BOOT).session
    assert found is not None
    assert found.last_left is not None
    assert (found.opened_at, found.last_left.left_at) == (story.now, story.now)
    assert found.ending is not None
    assert found.ending.ended_at == story.now


def test_two_journals_of_one_group_restore_two_sessions(story: Story) -> None:
    first = story.group("p")
    copy = story.table.new_session(SESSION_ID, story.opening, GROUP_ID)
    story.table.take_up(copy)
    assert story.group("q") == first
    story.table.withdraw()
    assert not story.table.open
