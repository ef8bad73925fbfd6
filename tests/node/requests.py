"""The requests that tests make to an application of tests/node/apps, and how many of them count."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.node.application import Application

USERS = 12  # requests that make a query each
PLAIN = 6
BROKEN = 3  # requests that end in a rejection that nothing handles
FETCHING = 2
SLOW = 1
ROUTES = 5
COUNTED = USERS + PLAIN + BROKEN + FETCHING + SLOW


def make_requests(application: Application) -> None:
    """Make COUNTED requests that count, and some that do not."""
    for user in ("1", "17", "k3jd92ms"):
        application.get(f"/users/{user}?page=2", USERS // 3)
    application.get("/", PLAIN)
    application.get("/broken", BROKEN)
    application.get("/fetch", FETCHING)
    application.get("/slow", SLOW)
    for path in ("/health", "/style.css", "/__brakit/api/tab?tab=overview"):
        application.request("GET", path)


# What brakit's Python SDK posts to a Node process of the same project.
FORWARDED = {
    "_brakit": True,
    "version": 1,
    "sdk": "python",
    "events": [
        *[{"type": "request", "timestamp": 1, "data": {"method": "GET", "url": "/orders/7", "durationMs": 5}}] * 30,
        *[{"type": "db.query", "timestamp": 1, "data": {"sql": "SELECT 1", "duration": 1}}] * 20,
        *[{"type": "error", "timestamp": 1, "data": {"name": "ValueError"}}] * 10,
    ],
}
