"""The layout of a worker's memory, version 1, and how the daemon reads it. A worker counts by writing cells; the daemon
has the same pages and trusts nothing in them.

All cells are unsigned 64-bit integers in the machine's byte order, and only ever grow, until the file is SIZE bytes:

    cell 0                   MAGIC: also says the byte order
    cell 1                   how many of the routes' rows are in use, written after the row's id
    cells 2 to 15            running totals of the count fields, in the schema's order; the rest is zero
    cells 16 + 8 r to 23 + 8 r
                             row r: the route's opaque id (16 hex digits as a number), the sum of its durations in ns,
                             and the six buckets. Row 0 is the overflow, with an id of zero: what came after MAX_ROUTES
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from sidecar.core.rules import BUCKETS, COUNT_MAX, NS_MAX, OVERFLOW_ROUTE, Row
from sidecar.core.schema import SESSION_FIELDS

VERSION = 1
MAGIC = 0x6272616B_736C6231  # "brakslb1" as a number
USED_ROWS = 1
FIRST_COUNTER = 2
FIRST_ROW = 16
ROW = 2 + len(BUCKETS)  # 64 bytes: a route's row is one line of the processor's cache
MAX_ROUTES = 1023  # patterns, of which large applications have hundreds; with the overflow 64 KiB of rows
CELL = 8
SIZE = CELL * (FIRST_ROW + ROW * (1 + MAX_ROUTES))

COUNTER_CELLS: dict[str, int] = {
    name: FIRST_COUNTER + position
    for position, name in enumerate(name for name, field in SESSION_FIELDS.items() if "total" in field.rule.said_by)
}
assert len(COUNTER_CELLS) <= FIRST_ROW - FIRST_COUNTER


class Contents(NamedTuple):
    """A producer's running totals and rows, as its memory says."""

    counts: dict[str, int]
    rows: dict[str, Row]


def row_cell(row: int) -> int:
    """The first cell of a row: its id."""
    return FIRST_ROW + ROW * row


def used_rows(head: bytes) -> int | None:
    """How many rows are in use, the overflow among them, by the memory's first FIRST_ROW cells; None where this is no
    slab of ours.
    """
    if len(head) < CELL * FIRST_ROW or _cell(head, 0) != MAGIC:
        return None
    return min(_cell(head, USED_ROWS), 1 + MAX_ROUTES)


def read(memory: bytes) -> Contents | None:
    """What is in the memory's beginning, as much of it as there is; None where this is no slab of ours."""
    used = used_rows(memory)
    if used is None:
        return None
    counts = {name: min(_cell(memory, cell), COUNT_MAX) for name, cell in COUNTER_CELLS.items()}
    rows: dict[str, Row] = {}
    for number in range(min(used, (len(memory) // CELL - FIRST_ROW) // ROW)):
        start = row_cell(number)
        cells = tuple(min(_cell(memory, cell), NS_MAX) for cell in range(start + 1, start + ROW))
        if any(cells[1:]):
            rows[f"{_cell(memory, start):016x}" if number else OVERFLOW_ROUTE] = cells
    return Contents({name: count for name, count in counts.items() if count}, rows)


def _cell(memory: bytes, cell: int) -> int:
    return int.from_bytes(memory[cell * CELL : (cell + 1) * CELL], sys.byteorder)


# To change the layout: a new VERSION and MAGIC; the daemon reads every version that it ever knew.
