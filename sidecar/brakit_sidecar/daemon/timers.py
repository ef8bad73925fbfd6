"""Calls that are scheduled for a time in monotonic seconds. The caller passes the current time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEVER = float("inf")


@dataclass
class Timers:
    """Calls each function once, in the first ``run`` at or after its time."""

    next_due: float = NEVER
    _calls: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)  # keeps calls of the same time in their order

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Call ``function`` at the time ``when``."""
        heapq.heappush(self._calls, (when, next(self._numbers), function))
        self.next_due = self._calls[0][0]

    def run(self, now: float) -> None:
        """Call the functions that are due."""
        while self._calls and self._calls[0][0] <= now:
            _when, _number, function = heapq.heappop(self._calls)
            function()
        self.next_due = self._calls[0][0] if self._calls else NEVER
