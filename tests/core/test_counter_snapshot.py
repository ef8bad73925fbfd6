from __future__ import annotations

import sys
from array import array

import pytest
from brakit_sidecar.client import counter_file as client_counter_file
from brakit_sidecar.core import counter_layout, limits, rules
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, FIRST_ROW, MAX_ROUTES, ROW, SIZE
from brakit_sidecar.core.counter_snapshot import CounterSnapshot, used_rows
from hypothesis import given
from hypothesis import strategies as st

from tests.core import page
from tests.core.strategies import opaque_ids

COUNTS = tuple(COUNTER_CELLS)


class CounterFile:
    """The content of a worker's counter file. A test writes it cell by cell."""

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
        """Return the head and the rows in use. The daemon reads only these."""
        content = self.as_bytes()
        used = used_rows(content)
        assert used is not None
        return content[: counter_layout.CELL * counter_layout.row_cell(used)]


def test_a_new_counter_file_has_no_counts() -> None:
    assert CounterSnapshot.of(CounterFile().as_bytes()) == CounterSnapshot({}, {})


def test_counters_and_rows_are_read_as_running_totals() -> None:
    counter_file = CounterFile()
    counter_file.cells[COUNTER_CELLS["request_count"]] = 57
    counter_file.row(1, "9f3a61c2d4e5b607", 12_000_000, 2, 0, 0, 0, 0, 1)
    assert CounterSnapshot.of(counter_file.used()) == CounterSnapshot(
        {"request_count": 57}, {"9f3a61c2d4e5b607": (12_000_000, 2, 0, 0, 0, 0, 1)}
    )


@pytest.mark.parametrize(
    ("cell", "end"), [*enumerate(counter_layout.ENDS), (len(counter_layout.ENDS), None), (2**64 - 1, None)]
)
def test_the_end_cell_holds_an_index_into_the_list_of_exit_reasons(cell: int, end: str | None) -> None:
    counter_file = CounterFile()
    counter_file.cells[counter_layout.END] = cell
    assert CounterSnapshot.of(counter_file.as_bytes()) == CounterSnapshot({}, {}, end)


def test_an_opaque_id_is_read_with_its_leading_zeros() -> None:
    counter_file = CounterFile()
    counter_file.row(1, "00000000000000aa", 1, 1, 0, 0, 0, 0, 0)
    counter_file.row(2, "0000000000000000", 1, 1, 0, 0, 0, 0, 0)
    snapshot = CounterSnapshot.of(counter_file.as_bytes())
    assert snapshot is not None
    assert [*snapshot.rows] == ["00000000000000aa", "0000000000000000"]


def test_row_0_is_the_overflow_row_even_if_it_has_an_id() -> None:
    counter_file = CounterFile()
    counter_file.row(0, "00000000000000aa", 1, 1, 0, 0, 0, 0, 0)
    assert CounterSnapshot.of(counter_file.as_bytes()) == CounterSnapshot(
        {}, {limits.OVERFLOW_ROUTE: (1, 1, 0, 0, 0, 0, 0)}
    )


def test_a_row_is_not_read_before_the_worker_marks_it_as_used() -> None:
    counter_file = CounterFile()
    counter_file.row(1, "9f3a61c2d4e5b607", 1, 1, 0, 0, 0, 0, 0)
    counter_file.cells[counter_layout.USED_ROWS] = 1
    assert CounterSnapshot.of(counter_file.as_bytes()) == CounterSnapshot({}, {})


def test_a_row_without_a_request_is_not_a_route() -> None:
    counter_file = CounterFile()
    counter_file.row(1, "9f3a61c2d4e5b607", 12_000_000, 0, 0, 0, 0, 0, 0)
    assert CounterSnapshot.of(counter_file.as_bytes()) == CounterSnapshot({}, {})


def test_a_cell_above_the_largest_total_is_read_as_the_largest_total() -> None:
    counter_file = CounterFile()
    counter_file.cells[COUNTER_CELLS["query_count"]] = 2**64 - 1
    counter_file.row(1, "9f3a61c2d4e5b607", *[2**64 - 1] * 7)
    assert CounterSnapshot.of(counter_file.as_bytes()) == CounterSnapshot(
        {"query_count": page.COUNT_MAX}, {"9f3a61c2d4e5b607": (limits.NS_MAX,) * 7}
    )


@pytest.mark.parametrize(("cell", "used"), [(0, 0), (1, 1), (1024, 1024), (1025, 1024), (2**64 - 1, 1024)])
def test_the_number_of_used_rows_is_at_most_the_number_of_rows(cell: int, used: int) -> None:
    counter_file = CounterFile()
    counter_file.cells[counter_layout.USED_ROWS] = cell
    assert used_rows(counter_file.as_bytes()) == used


@pytest.mark.parametrize("length", [0, 1, 8, counter_layout.CELL * FIRST_ROW - 1])
def test_a_file_without_a_whole_head_is_not_a_counter_file(length: int) -> None:
    assert used_rows(CounterFile().as_bytes()[:length]) is None
    assert CounterSnapshot.of(CounterFile().as_bytes()[:length]) is None


def test_the_head_alone_shows_how_many_rows_are_in_use() -> None:
    assert used_rows(CounterFile().as_bytes()[: counter_layout.CELL * FIRST_ROW]) == 1


def test_a_file_with_another_magic_is_not_a_counter_file() -> None:
    counter_file = CounterFile()
    other_byte_order = int.from_bytes(counter_layout.MAGIC.to_bytes(8, "little"), "big")
    counter_file.cells[0] = other_byte_order
    assert used_rows(counter_file.as_bytes()) is None


def test_a_truncated_file_is_read_up_to_its_last_whole_row() -> None:
    counter_file = CounterFile()
    counter_file.row(1, "00000000000000aa", 1, 1, 0, 0, 0, 0, 0)
    counter_file.row(2, "00000000000000bb", 1, 1, 0, 0, 0, 0, 0)
    snapshot = CounterSnapshot.of(counter_file.as_bytes()[: counter_layout.CELL * counter_layout.row_cell(3) - 1])
    assert snapshot is not None
    assert [*snapshot.rows] == ["00000000000000aa"]


ABSURD = (0).to_bytes(8, "little"), (2**64 - 1).to_bytes(8, "little"), counter_layout.MAGIC.to_bytes(8, sys.byteorder)
absurd_cells = st.lists(st.sampled_from(ABSURD) | st.binary(min_size=8, max_size=8), max_size=60).map(b"".join)


def is_within_bounds(snapshot: CounterSnapshot) -> bool:
    counts = all(name in COUNTS and 0 < count <= page.COUNT_MAX for name, count in snapshot.counts.items())
    rows = all(len(row) == len(rules.EMPTY_ROW) and max(row) <= limits.NS_MAX for row in snapshot.rows.values())
    return counts and rows and len(snapshot.rows) <= 1 + MAX_ROUTES


@given(st.binary(max_size=400) | absurd_cells)
def test_arbitrary_bytes_after_the_magic_are_read_as_numbers_within_bounds(after_magic: bytes) -> None:
    snapshot = CounterSnapshot.of(counter_layout.MAGIC.to_bytes(8, sys.byteorder) + after_magic)
    assert (snapshot is None) == (8 + len(after_magic) < counter_layout.CELL * FIRST_ROW)
    assert snapshot is None or is_within_bounds(snapshot)


@given(st.binary(max_size=300).filter(lambda foreign: foreign[:8] != counter_layout.MAGIC.to_bytes(8, sys.byteorder)))
def test_bytes_without_the_magic_are_not_a_counter_file(foreign: bytes) -> None:
    assert used_rows(foreign) is None
    assert CounterSnapshot.of(foreign) is None


def test_a_file_with_the_largest_number_in_every_cell_is_read_within_bounds() -> None:
    counter_file = CounterFile()
    counter_file.cells[1:] = [2**64 - 1] * (len(counter_file.cells) - 1)
    snapshot = CounterSnapshot.of(counter_file.as_bytes())
    assert snapshot is not None
    assert is_within_bounds(snapshot)
    assert snapshot.counts == dict.fromkeys(COUNTS, page.COUNT_MAX)
    assert snapshot.rows == dict.fromkeys([limits.OVERFLOW_ROUTE, "f" * 16], (limits.NS_MAX,) * 7)


@given(st.integers(0, SIZE), st.integers(0, 2**64 - 1))
def test_a_file_cut_off_after_any_byte_is_read_up_to_its_last_whole_row(length: int, used_rows_cell: int) -> None:
    counter_file = CounterFile()
    for number in range(1 + MAX_ROUTES):
        counter_file.row(number, f"{number:016x}", 1, 1, 0, 0, 0, 0, 0)
    counter_file.cells[counter_layout.USED_ROWS] = used_rows_cell
    snapshot = CounterSnapshot.of(counter_file.as_bytes()[:length])
    if length < counter_layout.CELL * FIRST_ROW:
        assert snapshot is None
    else:
        assert snapshot is not None
        assert len(snapshot.rows) == min(used_rows_cell, (length // counter_layout.CELL - FIRST_ROW) // ROW)


@given(st.dictionaries(opaque_ids, st.tuples(st.integers(0, 2**63 - 1), *[st.integers(1, 99)] * 6)), st.data())
def test_a_snapshot_has_exactly_the_counts_and_rows_that_were_written(
    rows: dict[str, tuple[int, ...]], data: st.DataObject
) -> None:
    counts = data.draw(st.dictionaries(st.sampled_from(COUNTS), st.integers(1, page.COUNT_MAX)))
    counter_file = CounterFile()
    for name, count in counts.items():
        counter_file.cells[COUNTER_CELLS[name]] = count
    for number, (route, cells) in enumerate(rows.items(), start=1):
        counter_file.row(number, route, *cells)
    snapshot = CounterSnapshot.of(counter_file.used())
    assert snapshot == CounterSnapshot(counts, rows)


routes = opaque_ids | st.integers(0, 2**64 - 1).map("{:016x}".format)


@given(
    st.lists(st.tuples(st.sampled_from(COUNTS), st.integers(1, 99))),
    st.lists(st.tuples(routes, st.integers(0, 10**12), st.integers(0, 5))),
)
def test_a_snapshot_has_exactly_what_the_client_counted(
    counted: list[tuple[str, int]], observed: list[tuple[str, int, int]]
) -> None:
    counter_file = client_counter_file.private()
    counts: dict[str, int] = {}
    rows: dict[str, tuple[int, ...]] = {}
    for name, count in counted:
        counter_file.cells[COUNTER_CELLS[name]] += count
        counts[name] = counts.get(name, 0) + count
    for route, took_ns, bucket in observed:
        row = counter_file.row(route)
        counter_file.cells[row + 1] += took_ns
        counter_file.cells[row + 2 + bucket] += 1
        cells = list(rows.get(route, rules.EMPTY_ROW))
        cells[0] += took_ns
        cells[1 + bucket] += 1
        rows[route] = tuple(cells)
    assert CounterSnapshot.of(bytes(counter_file.cells)) == CounterSnapshot(counts, rows)


def test_routes_beyond_the_last_row_are_read_as_the_overflow_row() -> None:
    counter_file = client_counter_file.private()
    for number in range(MAX_ROUTES + 10):
        row = counter_file.row(f"{number:016x}")
        counter_file.cells[row + 1] += 5
        counter_file.cells[row + 2] += 1
    snapshot = CounterSnapshot.of(bytes(counter_file.cells))
    assert snapshot is not None
    assert len(snapshot.rows) == 1 + MAX_ROUTES
    assert snapshot.rows[limits.OVERFLOW_ROUTE] == (50, 10, 0, 0, 0, 0, 0)
