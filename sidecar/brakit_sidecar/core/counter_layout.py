"""The layout of a counter file, version 1. A worker counts by writing cells. The daemon reads the same file, and trusts
nothing in it (see ``counter_snapshot``).

All cells are unsigned 64-bit integers in the machine's byte order, and only grow. The file is SIZE bytes:

    cell 0                   MAGIC, which also shows the byte order
    cell 1                   how many rows are in use, written after a new row's id
    cells 2 to 8             running totals of the count fields, in the order of COUNTERS; other cells are zero
    cell 9                   the first half of the anonymous id under which the worker counts; 0 if it had no id yet.
                             If the config has another id, consent was withdrawn meanwhile
    cell 10                  the exit reason, as an index of ENDS; 0 until the worker exits
    cell 11                  the producer's process id
    cells 12 to 14           which session a daemon joins the file to if it finds the file by its name: 1 and the 16
                             bytes of the session's id; or 2 and the 16 bytes of the group's id; or 0
    cell 15                  not zero if the file is retired, because the session was reported or consent was withdrawn.
                             No process counts in a retired file
    cells 16 + 8 r to 23 + 8 r
                             row r: the route's opaque id (16 hex digits as a number), the sum of its durations in ns,
                             and the six buckets. Row 0 is the overflow row. Its id is zero, and it has the durations of
                             all routes after the first MAX_ROUTES

A worker loads this file. The file therefore imports only ``limits``, and runs on Python 3.9.
"""

from __future__ import annotations

from .limits import BUCKETS

VERSION = 1
MAGIC = 0x6272616B_736C6231  # "brakslb1" as a number
USED_ROWS = 1
FIRST_COUNTER = 2
ANONYMOUS_ID = 9
END = 10
PID = 11
KIND, ID = 12, 13
OF_SESSION, OF_GROUP = 1, 2
RETIRED = 15
FIRST_ROW = 16
ROW = 2 + len(BUCKETS)  # 64 bytes, so that a row is one line of the processor's cache
MAX_ROUTES = 1023  # large applications have hundreds of routes; all rows together take 64 KiB
CELL = 8
SIZE = CELL * (FIRST_ROW + ROW * (1 + MAX_ROUTES))

# The count fields of the schema, in the order of their cells. A new order in the schema must not move a cell.
COUNTERS = ("request_count", "error_count", "query_count", "fetch_count", "insight_count", "finding_count")
ENDS = (None, "clean", "sigint", "crash")  # the exit reasons that an interpreter can report
COUNTER_CELLS = {name: FIRST_COUNTER + position for position, name in enumerate(COUNTERS)}


def anonymous_id_cell(anonymous_id: str | None) -> int:
    """Return the cell ANONYMOUS_ID for a UUID: its first 8 bytes as a number. Returns 0 for None."""
    return int(anonymous_id.replace("-", "")[:16], 16) if anonymous_id else 0


def row_cell(row: int) -> int:
    """Return the first cell of a row, which holds its id."""
    return FIRST_ROW + ROW * row


# To add a count field, append its name to COUNTERS. Its cell has been zero until then. There is room for one more
# field. To change the layout, choose a new VERSION and MAGIC. The daemon reads every version that was ever released.
