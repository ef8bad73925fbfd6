"""The transcript: frames from which another process rebuilds a producer's totals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from brakit_sidecar.core.frames import parse
from brakit_sidecar.core.schema import SESSION
from brakit_sidecar.core.session import transcript
from brakit_sidecar.core.session.totals import ProducerTotals, SessionTotals
from hypothesis import given
from hypothesis import strategies as st

from tests.core import strategies

if TYPE_CHECKING:
    from brakit_sidecar.core.session.transcript import Timed

PRODUCERS = ("p", "q")


def apply_all(lines: list[tuple[str, bytes]]) -> SessionTotals:
    """Apply the lines, in this order, to a session without totals. Returns the session."""
    session = SessionTotals()
    for when, (producer, line) in enumerate(lines, start=1):
        session.apply(producer, parse(line), when, when)
    return session


def replay(session: SessionTotals, producer: str, timed_frames: list[Timed]) -> None:
    """Replay a part of a producer's transcript into a session."""
    for when, frame in timed_frames:
        parsed = parse(json.dumps(frame).encode())
        assert not parsed.refused
        session.replay(producer, parsed, when)


def summary(session: SessionTotals) -> dict[str, Any]:
    """Return the fields of the session event."""
    return session.report(SESSION, {}, {})


lines = st.lists(st.tuples(st.sampled_from(PRODUCERS), strategies.lines), max_size=8)


@given(lines)
def test_replaying_the_whole_transcript_gives_the_same_session(applied: list[tuple[str, bytes]]) -> None:
    session, replayed = apply_all(applied), SessionTotals()
    for producer in session.producers:
        replay(replayed, producer, transcript.whole(session.producers[producer]))
    assert summary(replayed) == summary(session)


@given(lines, st.randoms())
def test_frames_may_be_replayed_in_any_order_and_twice(applied: list[tuple[str, bytes]], random: Any) -> None:
    session, replayed = apply_all(applied), SessionTotals()
    parts = [(producer, part) for producer, state in session.producers.items() for part in transcript.whole(state)]
    parts += parts[: len(parts) // 2]
    random.shuffle(parts)
    for producer, part in parts:
        replay(replayed, producer, [part])
    assert summary(replayed) == summary(session)


@given(lines, st.sets(st.sampled_from(PRODUCERS)))
def test_compacting_exited_producers_changes_no_field(applied: list[tuple[str, bytes]], exited: set[str]) -> None:
    session, compacted, replayed = apply_all(applied), apply_all(applied), SessionTotals()
    compacted.compact(exited)
    for producer, state in compacted.producers.items():
        replay(replayed, producer, transcript.whole(state))
    assert summary(session) == summary(compacted) == summary(replayed)


@given(st.lists(lines, max_size=4))
def test_the_changes_of_all_rounds_together_are_the_whole_transcript(rounds: list[list[tuple[str, bytes]]]) -> None:
    session, replayed = SessionTotals(), SessionTotals()
    when = 0
    for one_round in rounds:
        for producer, line in one_round:
            when += 1
            session.apply(producer, parse(line), when, when)
        for producer, state in session.producers.items():
            replay(replayed, producer, transcript.changed(state))
    assert summary(replayed) == summary(session)


@given(lines)
def test_a_change_is_returned_only_once(applied: list[tuple[str, bytes]]) -> None:
    session = apply_all(applied)
    for state in session.producers.values():
        transcript.changed(state)
        assert transcript.changed(state) == []


@given(lines)
def test_frames_without_effect_are_not_changes(applied: list[tuple[str, bytes]]) -> None:
    session = apply_all(applied)
    for producer, state in list(session.producers.items()):
        whole = transcript.whole(state)
        replay(session, producer, whole)
        assert transcript.changed(state) == []


def test_a_snapshot_of_a_counter_file_is_returned_as_a_change_once() -> None:
    state = ProducerTotals("p")
    snapshot = CounterSnapshot({"request_count": 7}, {"a" * 16: (5, 1, 0, 0, 0, 0, 0)})
    state.merge_snapshot(snapshot)
    assert transcript.changed(state) == [
        (0, {"total": {"request_count": 7}, "histogram": {"a" * 16: [5, 1, 0, 0, 0, 0, 0]}})
    ]
    state.merge_snapshot(snapshot)
    assert transcript.changed(state) == []


def test_a_value_whose_field_takes_the_first_value_keeps_its_time() -> None:
    session, replayed = SessionTotals(), SessionTotals()
    for when, (producer, framework) in enumerate([("p", "flask"), ("q", "django")], start=5):
        session.apply(producer, parse(json.dumps({"set": {"framework": framework}}).encode()), when, 0)
    for producer in ("q", "p"):
        replay(replayed, producer, transcript.changed(session.producers[producer]))
    assert summary(replayed)["framework"] == "flask"
    replayed.replay("r", parse(b'{"set":{"framework":"custom"}}'), 4)
    assert summary(replayed)["framework"] == "custom"


def test_the_sdk_is_replayed_with_the_hello_and_is_not_a_change() -> None:
    session, replayed = SessionTotals(), SessionTotals()
    session.greet("p", "node", 3)
    assert transcript.changed(session.producers["p"]) == []
    replayed.replay("p", parse(b"{}"), 3, sdk="node")
    assert summary(replayed)["sdk"] == "node"


def test_a_mark_is_returned_as_a_change_once() -> None:
    session, replayed = SessionTotals(), SessionTotals()
    session.apply("p", parse(b'{"mark":{"insight_count":["00000000000000aa","00000000000000bb"]}}'), 1, 1)
    replay(replayed, "p", transcript.changed(session.producers["p"]))
    assert summary(replayed)["insight_count"] == 2
    assert transcript.changed(session.producers["p"]) == []
