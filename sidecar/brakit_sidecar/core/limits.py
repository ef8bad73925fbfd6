"""The limits that producers and the daemon share: bounds of counts and durations, edges of buckets, once-only events.

A worker loads this file. The file therefore imports nothing, and runs on Python 3.9.
"""

from __future__ import annotations

COUNT_MAX = 2**53 - 1  # the largest integer that every JSON reader, JavaScript's included, holds exactly
MAX_DURATION_MS = 86_400_000  # a day, which is longer than any request or set-up; keeps sums far below a cell's limit
NS_MAX = 2**63 - 1  # a sum of durations is a signed 64-bit number, in the counter file as well
NS_PER_MS = 1_000_000

# The edges of the telemetry page's buckets, in ms. A bucket holds its lower edge.
BUCKET_EDGES_MS = (200, 500, 1000, 2000, 5000)
BUCKETS = ("<200ms", "200-500ms", "500-1000ms", "1000-2000ms", "2000-5000ms", ">5000ms")

# These events are sent once a session, even if several producers report them several times. Every other event is sent
# each time. A producer reports these events again to a new daemon, which may not know of them.
ONCE_A_SESSION = frozenset({"setup_completed", "first_request", "dashboard_viewed", "session"})

# The row of all routes that do not fit into a bounded table of routes. It has durations, but is not counted as a route.
# Its name is not an opaque id, so no route can have the same name.
OVERFLOW_ROUTE = "overflow"


def bucket_of(duration_ms: float) -> int:
    """Return the index of a duration's bucket, 0 to 5."""
    for bucket, edge in enumerate(BUCKET_EDGES_MS):
        if duration_ms < edge:
            return bucket
    return len(BUCKET_EDGES_MS)


def admit_increment(raw: object) -> int | None:
    """Return ``raw`` if it is an integer from 1 to 2^53-1.

    Returns None for every other object, such as a bool or a float.
    """
    return raw if type(raw) is int and 1 <= raw <= COUNT_MAX else None


def admit_duration(raw: object) -> float | None:
    """Return ``raw`` if it is a duration in ms, 0 to 86,400,000. Returns None for any other object, bool included."""
    if type(raw) is not int and type(raw) is not float:
        return None
    return raw if 0 <= raw <= MAX_DURATION_MS else None  # the comparison is false for NaN
