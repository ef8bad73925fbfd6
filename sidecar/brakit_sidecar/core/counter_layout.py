"""The layout of a worker's memory, version 1. A worker counts by writing cells; the daemon has the same pages, and
trusts nothing in them (``contents``).

All cells are unsigned 64-bit integers in the machine's byte order, and only ever grow, until the file is SIZE bytes:

    cell 0                   MAGIC: also says the byte order
    cell 1                   how many of the routes' rows are in use, written after the row's id
    cells 2 to 8             running totals of the count fields, in the order of COUNTERS; the rest is zero
    cell 9                   the first half of the anonymous id under which all this is counted; 0 where there was none
                             yet. Another id says that consent was withdrawn meanwhile
    cell 10                  the producer's last word, as a place in ENDS; 0 until it has said one here
    cell 11                  the producer's process id
    cells 12 to 14           which session it belongs to, for a daemon that finds the memory by its name: 1 and the 16
                             bytes of the session's id; or 2 and those of the group's; or 0
    cell 15                  not zero once the session was reported, or consent withdrawn. Nobody counts here any more
    cells 16 + 8 r to 23 + 8 r
                             row r: the route's opaque id (16 hex digits as a number), the sum of its durations in ns,
                             and the six buckets. Row 0 is the overflow, with an id of zero: what came after MAX_ROUTES

The worker's side loads this file, so it imports little: neither the schema nor ``typing``.
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
ROW = 2 + len(BUCKETS)  # 64 bytes: a route's row is one line of the processor's cache
MAX_ROUTES = 1023  # patterns, of which large applications have hundreds; with the overflow 64 KiB of rows
CELL = 8
SIZE = CELL * (FIRST_ROW + ROW * (1 + MAX_ROUTES))

# The schema's count fields, listed here once more: cells stay where they are when the schema is put in another order.
COUNTERS = ("request_count", "error_count", "query_count", "fetch_count", "insight_count", "finding_count")
ENDS = (None, "clean", "sigint", "crash")  # how an interpreter can end that still says so
COUNTER_CELLS = {name: FIRST_COUNTER + position for position, name in enumerate(COUNTERS)}


def anonymous_id_cell(anonymous_id: str | None) -> int:
    """Return the cell ANONYMOUS_ID for a UUID: its first 8 bytes as a number. Returns 0 for None."""
    return int(anonymous_id.replace("-", "")[:16], 16) if anonymous_id else 0


def row_cell(row: int) -> int:
    """The first cell of a row: its id."""
    return FIRST_ROW + ROW * row


# To add a count field: its name at the end of COUNTERS; its cell was zero so far. There is room for one more.
# To change the layout: a new VERSION and MAGIC; the daemon reads every version that it ever knew.
