"""The owner of a session, whose end is the session's end. The caller passes the time."""

from __future__ import annotations


class Owner:
    """A session has no owner, or a connection or a process owns it, or its owner is lost or dead.

    A method that may end the session returns the time of that end in monotonic seconds, or None if it goes on.
    """

    __slots__ = ("connections", "is_dead", "lost_at", "pid")

    def __init__(self) -> None:
        self.connections = 0  # open ones
        self.pid: int | None = None  # the process that owns the session without a connection
        self.lost_at: float | None = None  # its last connection closed then, before any end was reported
        self.is_dead = False  # its process has exited

    @property
    def exists(self) -> bool:
        """Return True if a connection or a process owns the session now."""
        return self.pid is not None or self.connections > 0

    def connect(self) -> None:
        """Own the session by one more connection. An owner that was lost is no longer lost."""
        self.connections += 1
        self.lost_at = None
        self.is_dead = False

    def disconnect(self, now: float) -> float | None:
        """Note that one of its connections closed."""
        self.connections -= 1
        if self.exists:
            return None
        self.lost_at = now
        return now if self.is_dead else None

    def process_exited(self, pid: int, now: float) -> float | None:
        """Note that its process has exited. An open connection is read to EOF first, because it may hold the end."""
        if self.pid == pid:
            self.pid = None
        self.is_dead = True
        if self.exists:
            return None
        return now if self.lost_at is None else self.lost_at
