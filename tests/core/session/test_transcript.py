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


def told(lines: list[tuple[str, bytes]]) -> SessionTotals:
    session = SessionTotals()
    for when, (producer, line) in enumerate(lines, start=1):
        session.apply(producer, parse(line), when, when)
    return session


def hear(session: SessionTotals, producer: str, said: list[Timed]) -> None:
    for when, frame in said:
        heard = parse(json.dumps(frame).encode())
        assert not heard.refused
        session.replay(producer, heard, when)


def summary(session: SessionTotals) -> dict[str, Any]:
    return session.report(SESSION, {}, {})


lines = st.lists(st.tuples(st.sampled_from(PRODUCERS), strategies.lines), max_size=8)


@given(lines)
def test_whoever_hears_a_whole_transcript_has_the_same_session(said: list[tuple[str, bytes]]) -> None:
    session, again = told(said), SessionTotals()
    for producer in session.producers:
        hear(again, producer, transcript.whole(session.producers[producer]))
    assert summary(again) == summary(session)


@given(lines, st.randoms())
def test_heard_in_any_order_and_twice_it_is_the_same(said: list[tuple[str, bytes]], random: Any) -> None:
    session, again = told(said), SessionTotals()
    heard = [(producer, one) for producer, state in session.producers.items() for one in transcript.whole(state)]
    heard += heard[: len(heard) // 2]
    random.shuffle(heard)
    for producer, one in heard:
        hear(again, producer, [one])
    assert summary(again) == summary(session)


@given(lines, st.sets(st.sampled_from(PRODUCERS)))
def test_merging_the_accounts_of_the_departed_changes_nothing(
    said: list[tuple[str, bytes]], departed: set[str]
) -> None:
    session, merged, again = told(said), told(said), SessionTotals()
    merged.compact(departed)
    for producer, state in merged.producers.items():
        hear(again, producer, transcript.whole(state))
    assert summary(session) == summary(merged) == summary(again)


@given(st.lists(lines, max_size=4))
def test_the_news_of_each_time_are_together_the_whole(chapters: list[list[tuple[str, bytes]]]) -> None:
    session, again = SessionTotals(), SessionTotals()
    when = 0
    for chapter in chapters:
        for producer, line in chapter:
            when += 1
            session.apply(producer, parse(line), when, when)
        for producer, state in session.producers.items():
            hear(again, producer, transcript.changed(state))
    assert summary(again) == summary(session)


@given(lines)
def test_what_was_told_is_no_news(said: list[tuple[str, bytes]]) -> None:
    session = told(said)
    for state in session.producers.values():
        transcript.changed(state)
        assert transcript.changed(state) == []


@given(lines)
def test_what_changes_nothing_is_no_news(said: list[tuple[str, bytes]]) -> None:
    session = told(said)
    for producer, state in list(session.producers.items()):
        whole = transcript.whole(state)
        hear(session, producer, whole)
        assert transcript.changed(state) == []


def test_what_the_memory_says_is_news_once() -> None:
    state = ProducerTotals("p")
    contents = CounterSnapshot({"request_count": 7}, {"a" * 16: (5, 1, 0, 0, 0, 0, 0)})
    state.merge_snapshot(contents)
    assert transcript.changed(state) == [
        (0, {"total": {"request_count": 7}, "histogram": {"a" * 16: [5, 1, 0, 0, 0, 0, 0]}})
    ]
    state.merge_snapshot(contents)
    assert transcript.changed(state) == []


def test_a_word_that_wins_by_being_first_keeps_its_time() -> None:
    session, again = SessionTotals(), SessionTotals()
    for when, (producer, framework) in enumerate([("p", "flask"), ("q", "django")], start=5):
        session.apply(producer, parse(json.dumps({"set": {"framework": framework}}).encode()), when, 0)
    for producer in ("q", "p"):
        hear(again, producer, transcript.changed(session.producers[producer]))
    assert summary(again)["framework"] == "flask"
    again.replay("r", parse(b'{"set":{"framework":"custom"}}'), 4)
    assert summary(again)["framework"] == "custom"


def test_the_hellos_word_is_heard_with_the_hello() -> None:
    session, again = SessionTotals(), SessionTotals()
    session.greet("p", "node", 3)
    assert transcript.changed(session.producers["p"]) == []
    again.replay("p", parse(b"{}"), 3, sdk="node")
    assert summary(again)["sdk"] == "node"


def test_a_mark_is_news_once() -> None:
    session, again = SessionTotals(), SessionTotals()
    session.apply("p", parse(b'{"mark":{"insight_count":["00000000000000aa","00000000000000bb"]}}'), 1, 1)
    hear(again, "p", transcript.changed(session.producers["p"]))
    assert summary(again)["insight_count"] == 2
    assert transcript.changed(session.producers["p"]) == []
