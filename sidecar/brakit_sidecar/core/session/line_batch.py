"""Counting equal increment lines before they are parsed: what a simple producer sends, thousands of times the same.

Increments commute, so their order among themselves does not matter; before anything else is taken in, the burst is
settled.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from ..frames import parse

if TYPE_CHECKING:
    from .state import ProducerState

LONGEST = 1024  # longer lines are parsed each: some 1 MiB of remembered ones for a connection
MAX_DISTINCT = 1024  # lines remembered; a producer that counts by ones has a handful


class LineBatch:
    """Increment lines of one producer that are counted but not yet in its state."""

    def __init__(self) -> None:
        self._times: Counter[bytes] = Counter()
        self._increments: dict[bytes, list[tuple[str, int]]] = {}

    def take(self, lines: list[bytes]) -> bool:
        """Counts the lines, if each is an increment and nothing else. Otherwise it takes none of them."""
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
        """Whether it should be settled, to remember no more lines than it may."""
        return len(self._increments) > MAX_DISTINCT

    def flush(self, producer: ProducerState) -> None:
        """Takes what was counted into the producer's state."""
        for line, times in self._times.items():
            for field, count in self._increments[line]:
                producer.incr(field, count * times)
        self._times.clear()
        if self.is_full:
            self._increments.clear()

    def _learn(self, line: bytes) -> bool:
        """Parses a line seen for the first time; False where it says anything but increments."""
        if len(line) > LONGEST:
            return False
        frame = parse(line)
        if not frame.only_increments:
            return False
        self._increments[line] = frame.increments
        return True
