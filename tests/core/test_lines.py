from __future__ import annotations

import pytest
from brakit_sidecar.core import lines as module
from brakit_sidecar.core.lines import FrameReader, LineTooLong
from brakit_sidecar.core.wire import MAX_LINE
from hypothesis import given
from hypothesis import strategies as st

LONGEST = b"x" * (MAX_LINE - 1)  # together with its newline it is MAX_LINE bytes long


def read(*chunks: bytes) -> tuple[list[bytes], bool]:
    """Return the lines in the chunks, and whether the reader raised LineTooLong."""
    reader = FrameReader()
    lines: list[bytes] = []
    try:
        for chunk in chunks:
            for line in reader.feed(chunk):
                lines.append(line)  # noqa: PERF402 (extend would lose the lines before a LineTooLong)
    except LineTooLong:
        return lines, True
    return lines, False


def read_naively(stream: bytes, limit: int) -> tuple[list[bytes], bool]:
    """Return what ``read`` must return, computed from the whole stream at once."""
    *whole, unfinished = stream.split(b"\n")
    lines: list[bytes] = []
    for line in whole:
        if len(line) >= limit:
            return lines, True
        lines.append(line)
    return lines, len(unfinished) >= limit


@st.composite
def split_streams(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream in chunks, with newlines and overlong lines at any position. The limit is 8 bytes."""
    stream = b"".join(draw(st.lists(st.sampled_from([b"\n", b"a", b"bcd", b"\r", b"\xff\x00", b"seven77"]))))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)))))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([], []),
        ([b""], []),
        ([b"unfinished"], []),
        ([b"one\n"], [b"one"]),
        ([b"one\ntwo\nthr"], [b"one", b"two"]),
        ([b"o", b"", b"ne", b"\n", b"two\n"], [b"one", b"two"]),
        ([b"\n\n"], [b"", b""]),
        ([b"dos\r\n"], [b"dos\r"]),
        ([b"\xff\x00\xfe\n"], [b"\xff\x00\xfe"]),
    ],
)
def test_a_line_ends_only_at_a_newline(chunks: list[bytes], lines: list[bytes]) -> None:
    assert read(*chunks) == (lines, False)


def test_the_newline_counts_towards_the_length_of_a_line() -> None:
    assert read(LONGEST + b"\n") == ([LONGEST], False)


@pytest.mark.parametrize(
    "chunks",
    [
        [LONGEST + b"x\n"],
        [LONGEST, b"x\n"],
        [LONGEST + b"x"],
        [LONGEST, b"x"],
        [b"x"] * MAX_LINE,
    ],
    ids=["one chunk", "newline in a second chunk", "no newline", "no newline in two chunks", "byte by byte"],
)
def test_a_line_is_too_long_with_one_more_byte_whether_or_not_its_newline_was_read(chunks: list[bytes]) -> None:
    assert read(*chunks) == ([], True)


@pytest.mark.parametrize("overlong", [LONGEST + b"x\nlater\n", LONGEST + b"x"], ids=["finished", "unfinished"])
def test_the_lines_before_an_overlong_line_in_the_same_chunk_are_read(overlong: bytes) -> None:
    assert read(b"one\ntwo\n" + overlong) == ([b"one", b"two"], True)


def test_a_reader_never_stores_more_than_the_longest_line() -> None:
    reader = FrameReader()
    assert list(reader.feed(LONGEST)) == []
    with pytest.raises(LineTooLong):
        list(reader.feed(LONGEST))
    assert sum(map(len, reader._pieces)) < MAX_LINE


@given(split_streams())
def test_the_split_of_a_stream_into_chunks_does_not_change_its_lines(chunks: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_LINE", 8)
        assert read(*chunks) == read_naively(b"".join(chunks), limit=8)


@given(st.lists(st.binary()))
def test_arbitrary_bytes_are_cut_into_lines(chunks: list[bytes]) -> None:
    assert read(*chunks) == read_naively(b"".join(chunks), limit=MAX_LINE)


# --- cut: lines of any length, for a caller that checks their length itself -----------------------------------


@given(split_streams())
def test_cut_returns_the_same_lines_and_an_overlong_unfinished_line_is_reported(chunks: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_LINE", 8)
        reader, lines = FrameReader(), []
        for chunk in chunks:
            lines += reader.cut(chunk)
            if reader.is_overlong:
                break
        else:
            assert lines == b"".join(chunks).split(b"\n")[:-1]
        good, too_long = read_naively(b"".join(chunks), limit=8)
        assert lines[: len(good)] == good
        assert too_long == (reader.is_overlong or any(len(line) >= 8 for line in lines))
