from __future__ import annotations

from typing import Any

import pytest
from brakit_sidecar.core.frames import parse
from brakit_sidecar.core.lines import FrameReader
from brakit_sidecar.core.session import line_batch
from brakit_sidecar.core.session.line_batch import LineBatch
from brakit_sidecar.core.session.totals import ProducerTotals
from hypothesis import given
from hypothesis import strategies as st

from tests.core import page, strategies

ONE = b'{"incr":{"request_count":1}}'
THREE = b'{"incr":{"request_count":3}}'
TWO_FIELDS = b'{"incr":{"request_count":1,"query_count":2}}'

INCREMENTS = [ONE, THREE, TWO_FIELDS, b' {"incr": {"insight_count": 9007199254740991}} \r']
OTHERS = [
    b'{"set":{"framework":"flask"}}',
    b'{"incr":{"request_count":1},"total":{"request_count":9}}',
    b'{"incr":{"request_count":0}}',
    b"{}",
    b"",
    b"\xff",
]


def settled(burst: LineBatch) -> dict[str, int]:
    producer = ProducerTotals("p")
    burst.flush(producer)
    return dict(producer.counts)


def test_equal_lines_are_counted_and_settled_at_once() -> None:
    burst = LineBatch()
    assert burst.add([ONE, THREE, ONE])
    assert burst.add([ONE, TWO_FIELDS])
    assert settled(burst) == {"request_count": 7, "query_count": 2}


def test_what_is_settled_is_settled_once() -> None:
    burst = LineBatch()
    burst.add([ONE])
    assert settled(burst) == {"request_count": 1}
    assert settled(burst) == {}


def test_a_burst_goes_on_after_it_was_settled() -> None:
    burst = LineBatch()
    burst.add([ONE])
    settled(burst)
    assert burst.add([ONE, ONE])
    assert settled(burst) == {"request_count": 2}


def test_a_burst_goes_on_from_what_its_producer_has() -> None:
    burst, producer = LineBatch(), ProducerTotals("p")
    producer.incr("request_count", 5)
    burst.add([ONE])
    burst.flush(producer)
    assert producer.counts == {"request_count": 6}


TOO_LONG = ONE + b" " * (line_batch.LONGEST + 1 - len(ONE))


@pytest.mark.parametrize("other", [*OTHERS, TOO_LONG], ids=lambda line: repr(line[:60]))
def test_lines_among_which_one_is_no_increment_are_left_to_be_parsed(other: bytes) -> None:
    burst = LineBatch()
    burst.add([ONE])
    assert not burst.add([ONE, THREE, other, ONE])
    assert settled(burst) == {"request_count": 1}


@pytest.mark.parametrize("other", [*OTHERS, TOO_LONG], ids=lambda line: repr(line[:60]))
def test_a_line_that_was_not_taken_once_is_never_taken(other: bytes) -> None:
    burst = LineBatch()
    assert not burst.add([other])
    assert not burst.add([other, other])
    assert settled(burst) == {}


def test_the_longest_line_that_is_remembered_is_still_counted() -> None:
    burst = LineBatch()
    assert burst.add([ONE + b" " * (line_batch.LONGEST - len(ONE))])
    assert settled(burst) == {"request_count": 1}


def test_no_lines_are_taken_without_a_trace() -> None:
    burst = LineBatch()
    assert burst.add([])
    assert settled(burst) == {}


def test_a_burst_of_many_different_lines_asks_to_be_settled_and_forgets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_batch, "MAX_DISTINCT", 2)
    burst = LineBatch()
    burst.add([ONE, THREE])
    assert not burst.is_full
    burst.add([TWO_FIELDS])
    assert burst.is_full
    assert settled(burst) == {"request_count": 5, "query_count": 2}
    assert not burst.is_full
    assert burst.add([ONE])
    assert settled(burst) == {"request_count": 1}


def test_counting_saturates_as_adding_one_by_one_does() -> None:
    burst = LineBatch()
    burst.add([b'{"incr":{"fetch_count":9007199254740991}}'] * 3)
    assert settled(burst) == {"fetch_count": page.COUNT_MAX}


def test_what_is_remembered_is_bounded_whatever_comes() -> None:
    """A connection settles a burst that is full before it gives it more, and one whose lines were not taken."""
    burst, producer = LineBatch(), ProducerTotals("p")
    for start in range(0, 20_000, 500):
        chunk = [b'{"incr":{"request_count":%d}}' % (1 + n) for n in range(start, start + 500)]
        if burst.is_full:
            burst.flush(producer)
        assert burst.add(chunk)
        if not burst.add([chunk[0], b'{"incr":{"query_count":%d}}' % (1 + start), b"{}"]):
            burst.flush(producer)
        assert len(burst._increments) <= line_batch.MAX_DISTINCT + 501
    burst.flush(producer)
    assert producer.counts == {"request_count": 20_000 * 20_001 // 2}


# --- as a connection uses it ----------------------------------------------------------------------------------

_line = st.sampled_from([*INCREMENTS, *INCREMENTS, *OTHERS]) | strategies.lines


@st.composite
def split_streams(draw: st.DrawFn) -> list[bytes]:
    """Lines in chunks, which end anywhere."""
    stream = b"".join(line + b"\n" for line in draw(st.lists(_line, max_size=20)))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def account_of(producer: ProducerTotals) -> tuple[dict[str, int], dict[str, set[str]], dict[str, Any], dict[str, Any]]:
    counts = {name: count for name, count in producer.counts.items() if count}
    return counts, dict(producer.marks), producer.routes, producer.values


@given(split_streams())
def test_a_stream_taken_in_bursts_says_what_its_lines_say_one_by_one(chunks: list[bytes]) -> None:
    burst, in_bursts, one_by_one = LineBatch(), ProducerTotals("p"), ProducerTotals("p")
    reader, number = FrameReader(), 0
    for chunk in chunks:
        lines = reader.cut(chunk)
        if burst.add(lines):
            number += len(lines)
            continue
        for line in lines:
            number += 1
            burst.flush(in_bursts)
            in_bursts.apply(parse(line), when=number)
    burst.flush(in_bursts)
    for when, line in enumerate(b"".join(chunks).split(b"\n")[:-1], start=1):
        one_by_one.apply(parse(line), when)
    assert account_of(in_bursts) == account_of(one_by_one)


_chunk = st.lists(st.sampled_from([*INCREMENTS, *INCREMENTS, *OTHERS]), max_size=4)


@given(st.lists(st.tuples(_chunk, st.booleans()), max_size=8))
def test_only_chunks_of_nothing_but_increments_are_taken(chunks: list[tuple[list[bytes], bool]]) -> None:
    burst, in_bursts, one_by_one = LineBatch(), ProducerTotals("p"), ProducerTotals("p")
    for chunk, settle in chunks:
        taken = burst.add(chunk)
        assert taken == all(line in INCREMENTS for line in chunk)
        for line in chunk if taken else []:
            one_by_one.apply(parse(line), when=1)
        if settle:
            burst.flush(in_bursts)
    burst.flush(in_bursts)
    assert in_bursts.counts == one_by_one.counts
