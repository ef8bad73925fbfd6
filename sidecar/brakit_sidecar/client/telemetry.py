"""The API that an application or an SDK uses. These classes themselves are the stand-in where telemetry is off.

No method raises, whatever it is given. A mistake is counted, and is shown under BRAKIT_DEBUG and by ``status``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Counter:
    """One count. Keep it and call ``inc``, which is the fast path."""

    __slots__ = ()

    def inc(self, n: int = 1) -> None:
        """Add ``n``, 1 to 2^53-1."""


class Telemetry:
    """One process' part in a session. Every method may be called from any thread, and after a fork."""

    def counter(self, field: str) -> Counter:
        """Return the counter of a field: ``request_count``, ``query_count`` and so on."""
        return Counter()

    def incr(self, field: str, n: int = 1) -> None:
        """Add ``n``, 1 to 2^53-1, to a count."""

    def request(self, route: str, duration_ms: float | None = None) -> None:
        """Count one request to a route ("GET /users"), and record its duration in ms, 0 to 86,400,000.

        The route is hashed in this process, with the session's id as key. Only the hash goes to the daemon.
        """

    def set(self, /, **fields: Any) -> None:
        """Set scalar fields: ``framework="flask"``, ``is_custom_command=True``."""

    def add(self, field: str, *words: str) -> None:
        """Add members to a set field: ``add("insight_types", "n1")``."""

    def mark(self, field: str, *texts: str) -> None:
        """Count each text once in a session, even if several processes mark it. Texts are hashed as routes are."""

    def event(self, name: str, /, **fields: Any) -> None:
        """Report a journey event: ``event("first_request", port=8000)``."""

    def close(self, exit_reason: str = "clean") -> None:
        """Report the end of this process. Not needed: the end is reported when the process exits."""
