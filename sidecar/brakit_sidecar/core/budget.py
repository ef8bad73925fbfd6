"""How many events may still be sent: at most 5,000 in any 24 hours.

This file knows no clock and no file. ``now`` is the time of the wall clock in seconds, because the count must outlast
the daemon and the boot. The clock may be set:

- back: what was counted later than ``now`` counts as sent now. So the budget is not renewed, and it is free again 25
  hours after the first event that is tried after the change.
- forward: hours that were skipped count as over, as they do after a suspend. So an error of a day or more frees the
  budget, once for each time that the clock is set forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_EVENTS = 5_000  # a thousand sessions; a day of work has some dozens, so a larger number is a fault
HOUR_S = 3600
WINDOW = 25  # 24 hours touch at most 25 hours of the clock


class Budget:
    """The numbers of events that were sent in each of the last 25 hours of the clock. It never changes."""

    def __init__(self, sent: Mapping[int, int] | None = None) -> None:
        """``sent``: by the number of the hour since 1970."""
        self.sent = dict(sent or {})

    def at(self, now: float) -> Budget:
        """Return what counts at ``now``."""
        this_hour = int(now // HOUR_S)
        counted: dict[int, int] = {}
        for hour, number in self.sent.items():
            if hour > this_hour - WINDOW:
                counted_in = min(hour, this_hour)
                counted[counted_in] = counted.get(counted_in, 0) + number
        return Budget(counted)

    def merged(self, other: Budget) -> Budget:
        """Return the larger number for each hour, if each of the two counts may lack events of the other."""
        return Budget({hour: max(self.sent.get(hour, 0), other.sent.get(hour, 0)) for hour in self.sent | other.sent})

    def take(self, now: float, most: int = MAX_EVENTS) -> Budget | None:
        """Count one event that is sent now. Returns None if it may not be sent."""
        counted = self.at(now)
        if sum(counted.sent.values()) >= most:
            return None
        this_hour = int(now // HOUR_S)
        return Budget({**counted.sent, this_hour: counted.sent.get(this_hour, 0) + 1})

    def as_json(self) -> dict[str, int]:
        """Return the form in which it is stored."""
        return {str(hour): number for hour, number in sorted(self.sent.items())}

    @classmethod
    def of_json(cls, stored: Any) -> Budget:
        """Return the budget that was stored. Ignores what is not a whole number of events in an hour."""
        if not isinstance(stored, dict):
            return cls()
        return cls(
            {
                int(hour): number
                for hour, number in stored.items()
                if hour.isascii() and hour.isdecimal() and len(hour) <= _MAX_DIGITS and _is_count(number)
            }
        )


_MAX_DIGITS = 9  # of an hour's number; six are enough for the next century


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 < number <= MAX_EVENTS
