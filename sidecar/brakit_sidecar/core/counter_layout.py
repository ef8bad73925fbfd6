"""The layout of a counter file, version 1. A worker counts by writing cells. The daemon reads the same file, and trusts
nothing in it (see ``counter_snapshot``).

All cells are unsigned 64-bit integers in the machine's byte order, and only grow. The file is SIZE bytes:

    cell 0                   MAGIC, which also shows the byte order
    cell 1                   how many rows are in use, written after a new row's id
    cells 2 to 7             running totals of the count fields, in the order of COUNTERS
    cell 8                   the stamp of the config as the worker read it (ctime in ns), NO_CONFIG plus the time if
                             there was none, or 0 if it is unknown. If it changes, the config may have said no meanwhile
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
                             and the six buckets. Row 0 is the overflow row, which has the durations of all routes after
                             the first MAX_ROUTES. In place of an id it has the digest of the worker's destination as a
                             number, TO_NOWHERE for NOWHERE, or 0 if it is unknown

A worker loads this file. The file therefore imports only ``limits`` and ``destination``, and runs on Python 3.9.
"""

from __future__ import annotations

from .destination import NOWHERE
from .limits import BUCKETS

VERSION = 1
MAGIC = 0x6272616B_736C6231  # "brakslb1" as a number
USED_ROWS = 1
FIRST_COUNTER = 2
STAMP = 8
ANONYMOUS_ID = 9
END = 10
PID = 11
KIND, ID = 12, 13
OF_SESSION, OF_GROUP = 1, 2
RETIRED = 15
FIRST_ROW = DESTINATION = 16
TO_NOWHERE = 1
NO_CONFIG = 2**63  # plus the time in ns at which the worker found no config; no time of a file is as large
NOT_BELIEVED = 0  # the stamp of a config that means off because it is not to be believed; no worker counts under it
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


def destination_cell(digest: str) -> int:
    """Return the cell DESTINATION for the digest of a destination."""
    return TO_NOWHERE if digest == NOWHERE else int(digest, 16)


def destination_in(cell: int) -> str | None:
    """Return the digest in a cell DESTINATION. Returns None if it is unknown."""
    if cell == TO_NOWHERE:
        return NOWHERE
    return f"{cell:016x}" if cell else None


def row_cell(row: int) -> int:
    """Return the first cell of a row, which holds its id."""
    return FIRST_ROW + ROW * row


# To add a count field or to change the layout in another way, choose a new VERSION and MAGIC. The daemon reads every
# version that was ever released.
