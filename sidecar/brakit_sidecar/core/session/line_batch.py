"""Counts equal increment lines before they are parsed.

A simple producer sends the same line thousands of times. Increments commute, so a batch may add them in any order. A
batch is flushed before any other line is applied.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from ..frames import parse

if TYPE_CHECKING:
    from .totals import ProducerTotals

LONGEST = 1024  # longer lines are parsed one by one, so that a connection remembers at most 1 MiB of lines
MAX_DISTINCT = 1024  # lines remembered; a producer that counts by ones sends a handful of distinct lines


class LineBatch:
    """Increment lines of one connection that are counted but not yet in the producer's totals."""

    def __init__(self) -> None:
        self._times: Counter[bytes] = Counter()
        self._increments: dict[bytes, list[tuple[str, int]]] = {}

    def add(self, lines: list[bytes]) -> bool:
        """Count the lines and return True if every line holds only increments. Otherwise count no line."""
        known = len(self._times)
        self._times.update(lines)
        if len(self._times) == known:
            return True
        fresh = list(islice(self._times, known, None))
        if not all(line in self._increments or self._learn(line) for line in fresh):
            self._times.subtract(lines)
            for line in fresh:
                del self._times[line]
            return False
        return True

    @property
    def is_full(self) -> bool:
        """Return True if a flush is due because more than MAX_DISTINCT lines are remembered."""
        return len(self._increments) > MAX_DISTINCT

    def flush(self, totals: ProducerTotals) -> None:
        """Add the counted increments to the producer's totals."""
        for line, times in self._times.items():
            for field, count in self._increments[line]:
                totals.incr(field, count * times)
        self._times.clear()
        if self.is_full:
            self._increments.clear()

    def _learn(self, line: bytes) -> bool:
        """Parse a new line. Returns False if the line is too long, or holds anything but increments."""
        if len(line) > LONGEST:
            return False
        frame = parse(line)
        if not frame.only_increments:
            return False
        self._increments[line] = frame.increments
        return True
