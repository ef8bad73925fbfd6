from __future__ import annotations

import sys
from array import array

import pytest
from brakit_sidecar.client import counter_file as client_memory
from brakit_sidecar.core import counter_layout, limits, rules
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, FIRST_ROW, MAX_ROUTES, ROW, SIZE
from brakit_sidecar.core.counter_snapshot import CounterSnapshot, used_rows
from hypothesis import given
from hypothesis import strategies as st

from tests.core import page
from tests.core.strategies import opaque_ids

COUNTS = tuple(COUNTER_CELLS)


class CounterFile:
    """A worker's memory, written cell by cell."""

    def __init__(self) -> None:
        self.cells = [0] * (SIZE // counter_layout.CELL)
        self.cells[0] = counter_layout.MAGIC
        self.cells[counter_layout.USED_ROWS] = 1

    def row(self, number: int, route: str, *cells: int) -> None:
        start = counter_layout.row_cell(number)
        self.cells[start : start + ROW] = [int(route, 16), *cells]
        self.cells[counter_layout.USED_ROWS] = max(self.cells[counter_layout.USED_ROWS], number + 1)

    def as_bytes(self) -> bytes:
        return array("Q", self.cells).tobytes()

    def used(self) -> bytes:
        """As much of it as the daemon reads."""
        memory = self.as_bytes()
        used = used_rows(memory)
        assert used is not None
        return memory[: counter_layout.CELL * counter_layout.row_cell(used)]


def test_an_untouched_memory_has_nothing_counted() -> None:
    assert CounterSnapshot.of(CounterFile().as_bytes()) == CounterSnapshot({}, {})


def test_counters_and_rows_are_read_as_running_totals() -> None:
    memory = CounterFile()
    memory.cells[COUNTER_CELLS["request_count"]] = 57
    memory.row(1, "9f3a61c2d4e5b607", 12_000_000, 2, 0, 0, 0, 0, 1)
    assert CounterSnapshot.of(memory.used()) == CounterSnapshot(
        {"request_count": 57}, {"9f3a61c2d4e5b607": (12_000_000, 2, 0, 0, 0, 0, 1)}
    )


@pytest.mark.parametrize(
    ("cell", "end"), [*enumerate(counter_layout.ENDS), (len(counter_layout.ENDS), None), (2**64 - 1, None)]
)
def test_the_last_word_is_a_place_in_the_list_of_them(cell: int, end: str | None) -> None:
    memory = CounterFile()
    memory.cells[counter_layout.END] = cell
    assert CounterSnapshot.of(memory.as_bytes()) == CounterSnapshot({}, {}, end)


def test_an_opaque_id_is_read_with_its_leading_zeros() -> None:
    memory = CounterFile()
    memory.row(1, "00000000000000aa", 1, 1, 0, 0, 0, 0, 0)
    memory.row(2, "0000000000000000", 1, 1, 0, 0, 0, 0, 0)
    contents = CounterSnapshot.of(memory.as_bytes())
    assert contents is not None
    assert [*contents.rows] == ["00000000000000aa", "0000000000000000"]


def test_row_0_is_the_overflow_whatever_id_it_bears() -> None:
    memory = CounterFile()
    memory.row(0, "00000000000000aa", 1, 1, 0, 0, 0, 0, 0)
    assert CounterSnapshot.of(memory.as_bytes()) == CounterSnapshot({}, {limits.OVERFLOW_ROUTE: (1, 1, 0, 0, 0, 0, 0)})


def test_a_row_that_is_being_written_is_not_read_before_it_is_in_use() -> None:
    memory = CounterFile()
    memory.row(1, "9f3a61c2d4e5b607", 1, 1, 0, 0, 0, 0, 0)
    memory.cells[counter_layout.USED_ROWS] = 1
    assert CounterSnapshot.of(memory.as_bytes()) == CounterSnapshot({}, {})


def test_a_row_in_which_no_request_was_counted_yet_is_no_route() -> None:
    memory = CounterFile()
    memory.row(1, "9f3a61c2d4e5b607", 12_000_000, 0, 0, 0, 0, 0, 0)
    assert CounterSnapshot.of(memory.as_bytes()) == CounterSnapshot({}, {})


def test_cells_beyond_what_a_total_may_be_are_the_most_it_may_be() -> None:
    memory = CounterFile()
    memory.cells[COUNTER_CELLS["query_count"]] = 2**64 - 1
    memory.row(1, "9f3a61c2d4e5b607", *[2**64 - 1] * 7)
    assert CounterSnapshot.of(memory.as_bytes()) == CounterSnapshot(
        {"query_count": page.COUNT_MAX}, {"9f3a61c2d4e5b607": (limits.NS_MAX,) * 7}
    )


@pytest.mark.parametrize(("said", "used"), [(0, 0), (1, 1), (1024, 1024), (1025, 1024), (2**64 - 1, 1024)])
def test_more_rows_than_there_are_cannot_be_in_use(said: int, used: int) -> None:
    memory = CounterFile()
    memory.cells[counter_layout.USED_ROWS] = said
    assert used_rows(memory.as_bytes()) == used


@pytest.mark.parametrize("length", [0, 1, 8, counter_layout.CELL * FIRST_ROW - 1])
def test_a_memory_without_a_head_is_none_of_ours(length: int) -> None:
    assert used_rows(CounterFile().as_bytes()[:length]) is None
    assert CounterSnapshot.of(CounterFile().as_bytes()[:length]) is None


def test_the_head_alone_says_how_many_rows_are_in_use() -> None:
    assert used_rows(CounterFile().as_bytes()[: counter_layout.CELL * FIRST_ROW]) == 1


def test_a_memory_of_another_magic_is_none_of_ours() -> None:
    memory = CounterFile()
    memory.cells[0] = int.from_bytes(counter_layout.MAGIC.to_bytes(8, "little"), "big")  # of the other byte order
    assert used_rows(memory.as_bytes()) is None


def test_a_truncated_memory_is_read_as_far_as_its_last_whole_row() -> None:
    memory = CounterFile()
    memory.row(1, "00000000000000aa", 1, 1, 0, 0, 0, 0, 0)
    memory.row(2, "00000000000000bb", 1, 1, 0, 0, 0, 0, 0)
    contents = CounterSnapshot.of(memory.as_bytes()[: counter_layout.CELL * counter_layout.row_cell(3) - 1])
    assert contents is not None
    assert [*contents.rows] == ["00000000000000aa"]


ABSURD = (0).to_bytes(8, "little"), (2**64 - 1).to_bytes(8, "little"), counter_layout.MAGIC.to_bytes(8, sys.byteorder)
absurd_cells = st.lists(st.sampled_from(ABSURD) | st.binary(min_size=8, max_size=8), max_size=60).map(b"".join)


def is_within_bounds(contents: CounterSnapshot) -> bool:
    counts = all(name in COUNTS and 0 < count <= page.COUNT_MAX for name, count in contents.counts.items())
    rows = all(len(row) == len(rules.EMPTY_ROW) and max(row) <= limits.NS_MAX for row in contents.rows.values())
    return counts and rows and len(contents.rows) <= 1 + MAX_ROUTES


@given(st.binary(max_size=400) | absurd_cells)
def test_no_bytes_make_reading_raise_or_count_too_much(after_magic: bytes) -> None:
    contents = CounterSnapshot.of(counter_layout.MAGIC.to_bytes(8, sys.byteorder) + after_magic)
    assert (contents is None) == (8 + len(after_magic) < counter_layout.CELL * FIRST_ROW)
    assert contents is None or is_within_bounds(contents)


@given(st.binary(max_size=300).filter(lambda foreign: foreign[:8] != counter_layout.MAGIC.to_bytes(8, sys.byteorder)))
def test_foreign_bytes_are_no_memory_of_ours(foreign: bytes) -> None:
    assert used_rows(foreign) is None
    assert CounterSnapshot.of(foreign) is None


def test_a_memory_whose_every_cell_is_full_is_read_within_bounds() -> None:
    memory = CounterFile()
    memory.cells[1:] = [2**64 - 1] * (len(memory.cells) - 1)
    contents = CounterSnapshot.of(memory.as_bytes())
    assert contents is not None
    assert is_within_bounds(contents)
    assert contents.counts == dict.fromkeys(COUNTS, page.COUNT_MAX)
    assert contents.rows == dict.fromkeys([limits.OVERFLOW_ROUTE, "f" * 16], (limits.NS_MAX,) * 7)


@given(st.integers(0, SIZE), st.integers(0, 2**64 - 1))
def test_however_much_of_a_memory_is_left_it_is_read_as_far_as_it_goes(left: int, said_to_be_used: int) -> None:
    memory = CounterFile()
    for number in range(1 + MAX_ROUTES):
        memory.row(number, f"{number:016x}", 1, 1, 0, 0, 0, 0, 0)
    memory.cells[counter_layout.USED_ROWS] = said_to_be_used
    contents = CounterSnapshot.of(memory.as_bytes()[:left])
    if left < counter_layout.CELL * FIRST_ROW:
        assert contents is None
    else:
        assert contents is not None
        assert len(contents.rows) == min(said_to_be_used, (left // counter_layout.CELL - FIRST_ROW) // ROW)


@given(st.dictionaries(opaque_ids, st.tuples(st.integers(0, 2**63 - 1), *[st.integers(1, 99)] * 6)), st.data())
def test_what_was_written_cell_by_cell_is_what_is_read(rows: dict[str, tuple[int, ...]], data: st.DataObject) -> None:
    counts = data.draw(st.dictionaries(st.sampled_from(COUNTS), st.integers(1, page.COUNT_MAX)))
    memory = CounterFile()
    for name, count in counts.items():
        memory.cells[COUNTER_CELLS[name]] = count
    for number, (route, cells) in enumerate(rows.items(), start=1):
        memory.row(number, route, *cells)
    contents = CounterSnapshot.of(memory.used())
    assert contents == CounterSnapshot(counts, rows)


routes = opaque_ids | st.integers(0, 2**64 - 1).map("{:016x}".format)


@given(
    st.lists(st.tuples(st.sampled_from(COUNTS), st.integers(1, 99))),
    st.lists(st.tuples(routes, st.integers(0, 10**12), st.integers(0, 5))),
)
def test_what_a_workers_memory_was_told_is_what_the_daemon_reads(
    counted: list[tuple[str, int]], observed: list[tuple[str, int, int]]
) -> None:
    memory = client_memory.private()
    counts: dict[str, int] = {}
    rows: dict[str, tuple[int, ...]] = {}
    for name, count in counted:
        memory.cells[COUNTER_CELLS[name]] += count
        counts[name] = counts.get(name, 0) + count
    for route, took_ns, bucket in observed:
        row = memory.row(route)
        memory.cells[row + 1] += took_ns
        memory.cells[row + 2 + bucket] += 1
        cells = list(rows.get(route, rules.EMPTY_ROW))
        cells[0] += took_ns
        cells[1 + bucket] += 1
        rows[route] = tuple(cells)
    assert CounterSnapshot.of(bytes(memory.cells)) == CounterSnapshot(counts, rows)


def test_more_routes_than_a_workers_memory_has_rows_are_read_as_the_overflow() -> None:
    memory = client_memory.private()
    for number in range(MAX_ROUTES + 10):
        row = memory.row(f"{number:016x}")
        memory.cells[row + 1] += 5
        memory.cells[row + 2] += 1
    contents = CounterSnapshot.of(bytes(memory.cells))
    assert contents is not None
    assert len(contents.rows) == 1 + MAX_ROUTES
    assert contents.rows[limits.OVERFLOW_ROUTE] == (50, 10, 0, 0, 0, 0, 0)
