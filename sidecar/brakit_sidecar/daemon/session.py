"""One session while it is open: who is in it, what they have counted, and when it is to be looked at again. Time is a
guest here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..core.session.state import SessionState

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ..core.counter_snapshot import CounterSnapshot
    from ..core.session.line_batch import LineBatch
    from .counter_files import Origin

GRACE_S = 5.0  # a reload (gunicorn HUP, --reload, nodemon) takes two or three seconds on a small machine
GOODBYE_S = 0.5
UNJOINED_S = 600.0  # a CLI that opened a session and never got its application up


class Memory(Protocol):
    """Where a producer counts."""

    @property
    def origin(self) -> Origin: ...

    @property
    def is_in_use(self) -> bool: ...

    @property
    def has_name(self) -> bool: ...

    def read(self) -> CounterSnapshot | None: ...

    def let_go(self) -> None: ...

    def close(self) -> None: ...

    def retire(self) -> None: ...


class Member(NamedTuple):
    """One connection's part in a session."""

    producer: str
    is_owner: bool
    burst: LineBatch


class Ending(NamedTuple):
    exit_reason: str
    ended_at: float  # the session's duration runs to here
    seal_by: float


class Session:
    """One run of an application, until it is sealed."""

    def __init__(self, session_id: str, group: str | None, now: float, boot: str) -> None:
        self.id = session_id
        self.group = group
        self.boot = boot  # in which its times were taken: monotonic clocks start anew with each
        self.state = SessionState()
        self.opened_at = now
        self.members: dict[Hashable, Member] = {}
        self.awaited: set[str] = set()  # producers that lost their daemon, and whose processes live: they may be idle
        self.last_words: dict[str, str] = {}  # by producer: the exit reason it said
        self.parted: tuple[str, float] | None = None  # the last producer that left, and when
        self.workers: set[str] = set()
        self.memories: dict[str, Memory] = {}  # by producer; kept until merged or sealed, also when its process is gone
        self.pids: dict[str, int] = {}  # of producers without a memory, which would say it
        self.departures = 0  # since accounts were merged
        self.owner_pid: int | None = None  # of the process that owns it, where no connection does
        self.owner_is_dead = False
        self.owner_lost_at: float | None = None
        self.whose: str | None = None  # the anonymous id under which it is counted
        self.ending: Ending | None = None

    @property
    def present(self) -> set[str]:
        """The workers that have not left, whatever they said."""
        return {member.producer for member in self.members.values() if not member.is_owner} | self.awaited

    @property
    def departed(self) -> set[str]:
        """The workers that are gone for good, and whose accounts are one."""
        return self.workers.difference(self.state.producers)

    def has_departed(self, producer: str) -> bool:
        return producer in self.workers and producer not in self.state.producers

    @property
    def live_producers(self) -> set[str]:
        """The workers that may still say something."""
        return self.present.difference(self.last_words)

    @property
    def has_owner(self) -> bool:
        return self.owner_pid is not None or any(member.is_owner for member in self.members.values())

    def gather(self) -> None:
        """Takes in what the producers have counted by now, in their memories and in bursts of lines."""
        for producer in self.memories:
            self.gather_from(producer)
        for member in self.members.values():
            member.burst.flush(self.state.producer(member.producer))

    def gather_from(self, producer: str) -> None:
        """Takes in what one producer has counted in its memory."""
        memory = self.memories.get(producer)
        contents = memory.read() if memory else None
        if contents is not None:
            self.state.producer(producer).take_in(contents)
            if contents.end is not None:
                self.last_words[producer] = contents.end

    def hear_no_more(self) -> None:
        """Its goodbye time is over."""
        if self.ending is not None:
            self.ending = self.ending._replace(seal_by=self.ending.ended_at)

    def age_s(self, now: float) -> float:
        return (self.ending.ended_at if self.ending else now) - self.opened_at

    def due(self) -> float | None:
        """When it must be looked at again, if nothing happens."""
        if self.ending is not None:
            return self.ending.seal_by
        if self.has_owner:
            return None
        if self.owner_lost_at is not None:
            return self.owner_lost_at + GRACE_S
        if self.members or self.awaited:
            return None
        return self.opened_at + UNJOINED_S if self.parted is None else self.parted[1] + GRACE_S

    def silent_end(self, now: float) -> tuple[str, float]:
        """Why, and since when, it is over where nobody ended it."""
        if self.owner_lost_at is not None:
            return "crash", self.owner_lost_at
        if self.parted is None:
            return "unknown", now
        producer, parted_at = self.parted
        return self.last_words.get(producer, "crash"), parted_at
