"""The fast path: a count is a store into memory, without a lock, a system call or validation.

``cell[...] = count = count + 1`` is one step for threads: CPython 3.10 and newer with a GIL switches threads only at
calls and at backward jumps, and there are none between loading ``count`` and storing it. The count is kept beside the
cell, because reading a memoryview costs as much as writing it. The view has no dimension, because an index costs time.
Python 3.9 may switch before any instruction, and a build without a GIL at any time: they never bind a cell, and count
under the producer's lock.
"""

from __future__ import annotations

import sys

from ..core.counter_layout import COUNTER_CELLS
from ..core.limits import NS_PER_MS, bucket_of
from .telemetry import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .counter_file import CounterFile
    from .unsent_state import UnsentState

HAS_ATOMIC_STEP: bool = sys.version_info >= (3, 10) and getattr(sys, "_is_gil_enabled", lambda: True)()
_MAX_KNOWN_ROUTES = 4096  # route texts remembered with their row; bounds the memory of a worker with endless routes


class CellCounter(Counter):
    """One count field of one producer."""

    __slots__ = ("add", "bind", "inc")

    inc: Callable[..., None]  # not a method, because a bound method costs half as much again
    add: Callable[[int], None]  # needs a bound cell and the producer's lock
    bind: Callable[[Any, int], None]  # binds to the cell at a position of some cells; ``()`` instead of cells unbinds

    def __init__(self, slow: Callable[[Any], None]) -> None:
        """Make a counter that is not bound. ``slow`` is called with a number other than one, and while unbound."""
        cell: Any = ()
        count = 0

        def inc(n: Any = None) -> None:
            nonlocal count
            if n is None:
                try:
                    cell[...] = count = count + 1
                except (IndexError, TypeError):  # unbound: before the first count, or after a fork
                    n = 1
                except ValueError:  # the cell is full, far beyond the largest valid count
                    return
                else:
                    return
            slow(n)

        def add(n: int) -> None:
            nonlocal count
            cell[...] = count = count + n

        def bind(cells: Any, position: int) -> None:
            nonlocal cell, count
            if cells:
                cell = cells[position : position + 1].cast("B").cast("Q", shape=())
                count = cell[()]
            else:
                cell, count = (), 0

        self.inc, self.add, self.bind = inc, add, bind


class Counts:
    """A producer's counters and the rows of its routes. All methods need the producer's lock."""

    __slots__ = ("_slow", "cells", "counters", "rows")

    def __init__(self, slow: Callable[[str, Any], None]) -> None:
        """Make unbound counts. ``slow`` is called with a field and a number that the fast path does not count."""
        self._slow = slow
        self.cells: Any = ()  # the shared counter file's, if there is one and the fast path may write it
        self.counters: dict[str, CellCounter] = {}
        self.rows: dict[str, int] = {}  # the first cell of a route's row, by the route's text

    def bind(self, counter_file: CounterFile) -> None:
        """Let the fast path write the file's cells, if the daemon sees them and a count is one step in this Python."""
        if counter_file.fd is None or not HAS_ATOMIC_STEP:
            return
        self.cells = counter_file.cells
        for field, counter in self.counters.items():
            counter.bind(self.cells, COUNTER_CELLS[field])

    def unbind(self) -> None:
        """Send every later count through the slow path, until ``bind``."""
        self.cells = ()
        self.rows.clear()
        for counter in self.counters.values():
            counter.bind((), 0)

    def counter(self, field: str) -> CellCounter:
        """Return the only counter of a count field. There is one, because it keeps the count beside the cell."""
        counter = self.counters.get(field)
        if counter is None:
            counter = self.counters[field] = CellCounter(lambda n: self._slow(field, n))
            if self.cells:
                counter.bind(self.cells, COUNTER_CELLS[field])
        return counter

    def add(self, unsent: UnsentState, field: str, n: int) -> None:
        """Add ``n`` to a count field."""
        if self.cells:
            self.counter(field).add(n)
        else:
            unsent.counter_file.cells[COUNTER_CELLS[field]] += n
        if unsent.counter_file.fd is None:
            unsent.owe("total", field)

    def observe(self, unsent: UnsentState, route: str, opaque_id: str, duration_ms: float) -> None:
        """Add one duration to the route's row, or to the overflow row if there are too many routes."""
        cells, row = unsent.counter_file.cells, unsent.counter_file.row(opaque_id)
        took_ns, bucket = round(duration_ms * NS_PER_MS), row + 2 + bucket_of(duration_ms)
        # Race: the fast path of another thread may run at any call, so there is no call in these two lines.
        cells[row + 1] += took_ns
        cells[bucket] += 1
        if unsent.counter_file.fd is None:
            unsent.owe("histogram", unsent.counter_file.route_of(opaque_id))
        elif self.cells and len(self.rows) < _MAX_KNOWN_ROUTES:
            self.rows[route] = row
