"""What a producer and the daemon both know: how large counts and durations may be, the buckets' edges, and which events
a session has but once.

The worker's side loads this file, and its interpreter takes apart at exit whatever that brought: it imports nothing.
"""

from __future__ import annotations

COUNT_MAX = 2**53 - 1  # the largest integer that every JSON reader (JavaScript's too) holds exactly
MAX_DURATION_MS = 86_400_000  # a day: longer than any request or set-up; keeps sums far from the cell's end
NS_MAX = 2**63 - 1  # a sum of durations is kept in a signed 64-bit cell, also in the worker's memory
NS_PER_MS = 1_000_000

# The edges of the telemetry page's buckets, in ms. A bucket holds its lower edge.
BUCKET_EDGES_MS = (200, 500, 1000, 2000, 5000)
BUCKETS = ("<200ms", "200-500ms", "500-1000ms", "1000-2000ms", "2000-5000ms", ">5000ms")

# Of all that the schema lists, these are sent once a session, whoever says them and how often; the others each time. A
# producer may say these again to a daemon that has never heard of it.
ONCE_A_SESSION = frozenset({"setup_completed", "first_request", "dashboard_viewed", "session"})

# The row of whatever no longer fits a bounded table of routes: it feeds durations, but is no route of its own.
# No opaque id, so that no route can be taken for it.
OVERFLOW_ROUTE = "overflow"


def bucket_of(duration_ms: float) -> int:
    """The bucket's index for one duration in ms, 0 to 5."""
    for bucket, edge in enumerate(BUCKET_EDGES_MS):
        if duration_ms < edge:
            return bucket
    return len(BUCKET_EDGES_MS)


def admit_increment(raw: object) -> int | None:
    """What may be added to a count, or be one: a whole number, 1 to 2^53-1."""
    return raw if type(raw) is int and 1 <= raw <= COUNT_MAX else None


def admit_duration(raw: object) -> float | None:
    """A duration in ms as a producer says it: finite, 0 to a day. None where it is none."""
    if type(raw) is not int and type(raw) is not float:
        return None
    return raw if 0 <= raw <= MAX_DURATION_MS else None  # a NaN compares false
