"""The expected mean and bucket of durations, computed from every single duration.

The sidecar keeps only a sum and six buckets of each route, so this is an independent computation.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BUCKETS = (
    (200, "<200ms"),
    (500, "200-500ms"),
    (1000, "500-1000ms"),
    (2000, "1000-2000ms"),
    (5000, "2000-5000ms"),
    (float("inf"), ">5000ms"),
)


def mean_ms(durations: list[float]) -> int:
    """Return the mean in whole milliseconds, rounded half up."""
    exact = sum(Fraction(str(duration)) for duration in durations) / len(durations)
    return int(exact + Fraction(1, 2))


def slowest_bucket(durations_by_route: Iterable[list[float]]) -> str:
    """Return the bucket of the largest p95 of any route. The p95 is by nearest rank."""
    slowest = max(sorted(durations)[-(-95 * len(durations) // 100) - 1] for durations in durations_by_route)
    return next(name for edge, name in _BUCKETS if slowest < edge)
