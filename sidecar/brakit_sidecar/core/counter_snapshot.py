"""What a worker's memory says, as the daemon reads it: as much of it as is there, and nothing beyond its bounds."""

from __future__ import annotations

import sys
from typing import NamedTuple

from . import counter_layout
from .counter_layout import CELL, COUNTER_CELLS, ENDS, FIRST_ROW, MAX_ROUTES, ROW, row_cell
from .limits import COUNT_MAX, NS_MAX, OVERFLOW_ROUTE


class CounterSnapshot(NamedTuple):
    """A producer's running totals and rows, and its last word."""

    counts: dict[str, int]
    rows: dict[str, tuple[int, ...]]
    end: str | None = None

    @classmethod
    def of(cls, memory: bytes) -> CounterSnapshot | None:
        """What is in the memory's beginning, as much of it as there is; None where this is no slab of ours."""
        used = used_rows(memory)
        if used is None:
            return None
        cells = memoryview(memory)[: len(memory) // CELL * CELL].cast("Q").tolist()
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
    """How many rows are in use, the overflow among them, by the memory's first FIRST_ROW cells; None where this is no
    slab of ours.
    """
    if len(head) < CELL * FIRST_ROW or value_at(head, 0) != counter_layout.MAGIC:
        return None
    return min(value_at(head, counter_layout.USED_ROWS), 1 + MAX_ROUTES)


def value_at(memory: bytes, cell: int) -> int:
    return int.from_bytes(memory[cell * CELL : (cell + 1) * CELL], sys.byteorder)
