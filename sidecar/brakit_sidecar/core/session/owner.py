"""The owner of a session. If the owner ends, the session ends. The caller passes the time."""

from __future__ import annotations


class Owner:
    """The state of a session's owner.

    A session has no owner, or it is owned by connections or by a process, or its owner is lost or dead. A method that
    may end the session returns the time of that end in monotonic seconds, or None if the session goes on.
    """

    __slots__ = ("connections", "is_dead", "lost_at", "pid")

    def __init__(self) -> None:
        self.connections = 0  # the number of open connections
        self.pid: int | None = None  # the process that owns the session without a connection
        self.lost_at: float | None = None  # when its last connection closed without a reported end
        self.is_dead = False  # its process has exited

    @property
    def exists(self) -> bool:
        """Return True if a connection or a process owns the session now."""
        return self.pid is not None or self.connections > 0

    def connect(self) -> None:
        """Note one more connection of the owner. An owner that was lost is then no longer lost."""
        self.connections += 1
        self.lost_at = None
        self.is_dead = False

    def disconnect(self, now: float) -> float | None:
        """Note that one of the owner's connections closed."""
        self.connections -= 1
        if self.exists:
            return None
        self.lost_at = now
        return now if self.is_dead else None

    def process_exited(self, pid: int, now: float) -> float | None:
        """Note that the owner's process has exited.

        The session goes on until the owner's open connections are read to EOF, because they may hold its end.
        """
        if self.pid == pid:
            self.pid = None
        self.is_dead = True
        if self.exists:
            return None
        return now if self.lost_at is None else self.lost_at
