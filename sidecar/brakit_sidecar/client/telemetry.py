"""What an application or an SDK holds. These very classes are the stand-in where telemetry is off: they do nothing.

No method raises, whatever it is given: a mistake is counted, and shown under BRAKIT_DEBUG and in ``status``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Counter:
    """One count. Hold on to it: ``inc`` is the fast path."""

    __slots__ = ()

    def inc(self, n: int = 1) -> None:
        """Adds ``n``, 1 to 2^53-1."""


class Telemetry:
    """One process' part in a session. All its methods may be called from any thread, and after a fork."""

    def counter(self, field: str) -> Counter:
        """The counter of a field: ``request_count``, ``query_count`` and so on."""
        return Counter()

    def incr(self, field: str, n: int = 1) -> None:
        """Adds ``n``, 1 to 2^53-1, to a count."""

    def request(self, route: str, duration_ms: float | None = None) -> None:
        """Counts one request to a route ("GET /users"), and observes how many ms it took, 0 to 86,400,000.

        The text is hashed here, with the session's id as key; only the hash goes to the daemon.
        """

    def set(self, /, **fields: Any) -> None:
        """Says scalar fields: ``framework="flask"``, ``is_custom_command=True``."""

    def add(self, field: str, *words: str) -> None:
        """Adds members to a set field: ``add("insight_types", "n1")``."""

    def mark(self, field: str, *texts: str) -> None:
        """Counts each text once in a session, whoever marks it. Hashed as routes are."""

    def event(self, name: str, /, **fields: Any) -> None:
        """A journey event: ``event("first_request", port=8000)``."""

    def close(self, exit_reason: str = "clean") -> None:
        """Says goodbye. Without it, the end of the process is the goodbye."""
