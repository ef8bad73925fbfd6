"""The fast path: a count is a store into memory, with no lock, no system call and no validation.

``cell[...] = count = count + 1`` is one step for threads: CPython with a GIL lets another thread in only at calls and
at backward jumps, and there is none of either between loading ``count`` and storing it. The count is kept beside the
cell, since reading a memoryview costs as much as writing it; and the view has no dimension, since an index costs too.
Builds without a GIL never bind the cell, and count under the producer's lock.
"""

from __future__ import annotations

import sys

from .telemetry import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


class CellCounter(Counter):
    """One count field of one producer."""

    __slots__ = ("add", "bind", "inc")

    inc: Callable[..., None]  # not a method: a bound method costs half as much again
    add: Callable[[int], None]  # under the producer's lock, once bound
    bind: Callable[[Any, int], None]  # to a memory's cells, from a cell on; to nothing, where ``()`` stands for cells

    def __init__(self, slow: Callable[[Any], None]) -> None:
        """``slow`` takes what the fast path does not: another number than one, or a cell that is not bound."""
        cell: Any = ()
        count = 0

        def inc(n: Any = None) -> None:
            nonlocal count
            if n is None:
                try:
                    cell[...] = count = count + 1
                except (IndexError, TypeError):  # nothing is bound: before the first count, or after a fork
                    n = 1
                except ValueError:  # the cell is full, far beyond what any count may be
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
