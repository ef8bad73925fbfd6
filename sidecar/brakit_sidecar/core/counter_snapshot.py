"""Snapshots of a worker's counter file, as the daemon reads it.

The daemon trusts nothing in the file: it may be truncated, foreign or full of arbitrary numbers. Reading never raises,
and every number in a snapshot is within its bounds.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from . import counter_layout
from .counter_layout import CELL, COUNTER_CELLS, ENDS, FIRST_ROW, MAX_ROUTES, ROW, row_cell
from .limits import COUNT_MAX, NS_MAX, OVERFLOW_ROUTE


class CounterSnapshot(NamedTuple):
    """A producer's running totals and rows, and its exit reason if it has already written one."""

    counts: dict[str, int]
    rows: dict[str, tuple[int, ...]]
    end: str | None = None

    @classmethod
    def of(cls, content: bytes) -> CounterSnapshot | None:
        """Read the content of a counter file, which may be cut off after any byte.

        Returns None if ``content`` does not begin like a counter file.
        """
        used = used_rows(content)
        if used is None:
            return None
        cells = memoryview(content)[: len(content) // CELL * CELL].cast("Q").tolist()
        counts = {name: min(cells[cell], COUNT_MAX) for name, cell in COUNTER_CELLS.items()}
        rows: dict[str, tuple[int, ...]] = {}
        for number in range(min(used, (len(cells) - FIRST_ROW) // ROW)):
            route, *row = cells[row_cell(number) : row_cell(number + 1)]
            if any(row[1:]):
                if max(row) > NS_MAX:
                    row = [min(cell, NS_MAX) for cell in row]
                rows[f"{route:016x}" if number else OVERFLOW_ROUTE] = tuple(row)
        end = ENDS[cells[counter_layout.END]] if cells[counter_layout.END] < len(ENDS) else None
        return cls({name: count for name, count in counts.items() if count}, rows, end)


def used_rows(head: bytes) -> int | None:
    """Return the number of rows in use, including the overflow row.

    ``head`` holds the first FIRST_ROW cells of the file, or more. Returns None if ``head`` is not the head of a counter
    file.
    """
    if len(head) < CELL * FIRST_ROW or value_at(head, 0) != counter_layout.MAGIC:
        return None
    return min(value_at(head, counter_layout.USED_ROWS), 1 + MAX_ROUTES)


def value_at(content: bytes, cell: int) -> int:
    """Return the number in one cell. ``content`` must hold the whole cell."""
    return int.from_bytes(content[cell * CELL : (cell + 1) * CELL], sys.byteorder)
