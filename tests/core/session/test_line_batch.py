"""The line batch: equal increment lines are counted and not parsed one by one."""

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


def flushed(batch: LineBatch) -> dict[str, int]:
    """Flush the batch to a producer without totals. Returns the producer's counts."""
    producer = ProducerTotals("p")
    batch.flush(producer)
    return dict(producer.counts)


def test_equal_lines_are_counted_together_and_flushed_together() -> None:
    batch = LineBatch()
    assert batch.add([ONE, THREE, ONE])
    assert batch.add([ONE, TWO_FIELDS])
    assert flushed(batch) == {"request_count": 7, "query_count": 2}


def test_a_line_is_flushed_once() -> None:
    batch = LineBatch()
    batch.add([ONE])
    assert flushed(batch) == {"request_count": 1}
    assert flushed(batch) == {}


def test_a_batch_counts_further_lines_after_a_flush() -> None:
    batch = LineBatch()
    batch.add([ONE])
    flushed(batch)
    assert batch.add([ONE, ONE])
    assert flushed(batch) == {"request_count": 2}


def test_a_flush_adds_to_the_totals_of_the_producer() -> None:
    batch, producer = LineBatch(), ProducerTotals("p")
    producer.incr("request_count", 5)
    batch.add([ONE])
    batch.flush(producer)
    assert producer.counts == {"request_count": 6}


TOO_LONG = ONE + b" " * (line_batch.LONGEST + 1 - len(ONE))


@pytest.mark.parametrize("other", [*OTHERS, TOO_LONG], ids=lambda line: repr(line[:60]))
def test_lines_are_not_accepted_if_one_of_them_is_not_an_increment(other: bytes) -> None:
    batch = LineBatch()
    batch.add([ONE])
    assert not batch.add([ONE, THREE, other, ONE])
    assert flushed(batch) == {"request_count": 1}


@pytest.mark.parametrize("other", [*OTHERS, TOO_LONG], ids=lambda line: repr(line[:60]))
def test_a_line_that_is_not_an_increment_is_never_accepted(other: bytes) -> None:
    batch = LineBatch()
    assert not batch.add([other])
    assert not batch.add([other, other])
    assert flushed(batch) == {}


def test_a_line_of_the_maximum_length_is_counted() -> None:
    batch = LineBatch()
    assert batch.add([ONE + b" " * (line_batch.LONGEST - len(ONE))])
    assert flushed(batch) == {"request_count": 1}


def test_an_empty_list_of_lines_is_accepted_and_counts_nothing() -> None:
    batch = LineBatch()
    assert batch.add([])
    assert flushed(batch) == {}


def test_a_batch_of_many_distinct_lines_is_full_until_it_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_batch, "MAX_DISTINCT", 2)
    batch = LineBatch()
    batch.add([ONE, THREE])
    assert not batch.is_full
    batch.add([TWO_FIELDS])
    assert batch.is_full
    assert flushed(batch) == {"request_count": 5, "query_count": 2}
    assert not batch.is_full
    assert batch.add([ONE])
    assert flushed(batch) == {"request_count": 1}


def test_a_count_saturates_in_a_batch_as_it_does_line_by_line() -> None:
    batch = LineBatch()
    batch.add([b'{"incr":{"fetch_count":9007199254740991}}'] * 3)
    assert flushed(batch) == {"fetch_count": page.COUNT_MAX}


def test_the_number_of_distinct_lines_in_a_batch_is_bounded() -> None:
    """A connection flushes a full batch before it adds lines. It also flushes the batch before it parses lines."""
    batch, producer = LineBatch(), ProducerTotals("p")
    for start in range(0, 20_000, 500):
        chunk = [b'{"incr":{"request_count":%d}}' % (1 + n) for n in range(start, start + 500)]
        if batch.is_full:
            batch.flush(producer)
        assert batch.add(chunk)
        if not batch.add([chunk[0], b'{"incr":{"query_count":%d}}' % (1 + start), b"{}"]):
            batch.flush(producer)
        assert len(batch._increments) <= line_batch.MAX_DISTINCT + 501
    batch.flush(producer)
    assert producer.counts == {"request_count": 20_000 * 20_001 // 2}


# --- a batch as a connection uses it --------------------------------------------------------------------------

_line = st.sampled_from([*INCREMENTS, *INCREMENTS, *OTHERS]) | strategies.lines


@st.composite
def split_streams(draw: st.DrawFn) -> list[bytes]:
    """Return a stream of lines, cut into chunks at any byte."""
    stream = b"".join(line + b"\n" for line in draw(st.lists(_line, max_size=20)))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def state_of(producer: ProducerTotals) -> tuple[dict[str, int], dict[str, set[str]], dict[str, Any], dict[str, Any]]:
    """Return all that a producer has reported: counts, marks, routes and values."""
    counts = {name: count for name, count in producer.counts.items() if count}
    return counts, dict(producer.marks), producer.routes, producer.values


@given(split_streams())
def test_a_stream_read_in_batches_gives_the_same_totals_as_its_lines_one_by_one(chunks: list[bytes]) -> None:
    batch, batched, one_by_one = LineBatch(), ProducerTotals("p"), ProducerTotals("p")
    reader, number = FrameReader(), 0
    for chunk in chunks:
        lines = reader.cut(chunk)
        if batch.add(lines):
            number += len(lines)
            continue
        for line in lines:
            number += 1
            batch.flush(batched)
            batched.apply(parse(line), when=number)
    batch.flush(batched)
    for when, line in enumerate(b"".join(chunks).split(b"\n")[:-1], start=1):
        one_by_one.apply(parse(line), when)
    assert state_of(batched) == state_of(one_by_one)


_chunk = st.lists(st.sampled_from([*INCREMENTS, *INCREMENTS, *OTHERS]), max_size=4)


@given(st.lists(st.tuples(_chunk, st.booleans()), max_size=8))
def test_a_chunk_is_accepted_if_all_its_lines_are_increments(chunks: list[tuple[list[bytes], bool]]) -> None:
    batch, batched, one_by_one = LineBatch(), ProducerTotals("p"), ProducerTotals("p")
    for chunk, flushes in chunks:
        is_accepted = batch.add(chunk)
        assert is_accepted == all(line in INCREMENTS for line in chunk)
        for line in chunk if is_accepted else []:
            one_by_one.apply(parse(line), when=1)
        if flushes:
            batch.flush(batched)
    batch.flush(batched)
    assert batched.counts == one_by_one.counts
