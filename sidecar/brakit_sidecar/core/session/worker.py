"""One worker's record in a session. Its phase changes only as the table TRANSITIONS allows.

This file knows no clock, no socket and no counter file. An illegal transition has no key in the table.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .totals import ProducerTotals


class Phase(Enum):
    """The phases of a worker's life in its session."""

    NEW = "new"
    CONNECTED = "connected"
    FINISHED = "finished"  # it reported its end, but its connection is open or its process is alive
    RECONNECTING = "reconnecting"  # it has no connection, but its process is alive
    GONE = "gone"  # it has no connection; it may reconnect if its process is alive after all
    COMPACTED = "compacted"  # its process has exited, and its totals were added to those of other workers


class Stimulus(Enum):
    """The events that move a worker from phase to phase."""

    HELLO = "hello"
    END = "reports its end"
    DISCONNECT = "disconnects"
    EVICT = "is disconnected by the daemon"  # to free a descriptor
    FOUND_ALIVE = "is found alive"  # its counter file shows that it is alive
    FOUND_DEAD = "is found dead"
    PROCESS_EXIT = "process exits"
    COMPACT = "is compacted"


_P, _S = Phase, Stimulus

TRANSITIONS: dict[tuple[Phase, Stimulus], Phase] = {
    (_P.NEW, _S.HELLO): _P.CONNECTED,
    (_P.NEW, _S.FOUND_ALIVE): _P.RECONNECTING,
    (_P.NEW, _S.FOUND_DEAD): _P.GONE,
    (_P.NEW, _S.COMPACT): _P.COMPACTED,  # a rewritten journal holds only the ids of compacted workers
    (_P.CONNECTED, _S.HELLO): _P.CONNECTED,
    (_P.CONNECTED, _S.END): _P.FINISHED,
    (_P.CONNECTED, _S.DISCONNECT): _P.GONE,
    (_P.CONNECTED, _S.EVICT): _P.RECONNECTING,
    (_P.FINISHED, _S.HELLO): _P.CONNECTED,
    (_P.FINISHED, _S.END): _P.FINISHED,
    (_P.FINISHED, _S.DISCONNECT): _P.GONE,
    (_P.FINISHED, _S.PROCESS_EXIT): _P.GONE,
    (_P.RECONNECTING, _S.HELLO): _P.CONNECTED,
    (_P.RECONNECTING, _S.END): _P.FINISHED,  # its counter file holds the end
    (_P.RECONNECTING, _S.PROCESS_EXIT): _P.GONE,
    (_P.GONE, _S.HELLO): _P.CONNECTED,
    (_P.GONE, _S.END): _P.GONE,  # its counter file, read after the disconnect, holds the end
    (_P.GONE, _S.FOUND_ALIVE): _P.RECONNECTING,
    (_P.GONE, _S.FOUND_DEAD): _P.GONE,
    (_P.GONE, _S.COMPACT): _P.COMPACTED,
}


class Worker:
    """One worker of one session."""

    __slots__ = ("connections", "exit_reason", "id", "left_at", "phase", "pid", "totals")

    def __init__(self, producer: str, totals: ProducerTotals) -> None:
        self.id = producer
        self.phase = Phase.NEW
        self.connections = 0  # the number of open connections; mostly 1
        self.pid = 0  # 0 if the platform does not report it
        self.exit_reason: str | None = None  # the last exit reason that it reported
        self.left_at: float | None = None  # monotonic seconds; None if it has not left, or if the time is unknown
        self.totals = totals

    def apply(self, stimulus: Stimulus) -> None:
        """Move to the next phase. Raises KeyError for a stimulus that cannot happen in this phase."""
        self.phase = TRANSITIONS[self.phase, stimulus]

    @property
    def is_present(self) -> bool:
        """Return True if the worker has a connection, or a process that may connect again."""
        return self.phase in (Phase.CONNECTED, Phase.FINISHED, Phase.RECONNECTING)

    @property
    def is_live(self) -> bool:
        """Return True if the worker may still send reports."""
        return self.phase in (Phase.CONNECTED, Phase.RECONNECTING)


def as_mermaid() -> str:
    """Return the documentation's state diagram, generated from TRANSITIONS."""
    edges: dict[tuple[str, str], list[str]] = {}
    for (phase, stimulus), target in TRANSITIONS.items():
        source = "[*]" if phase is Phase.NEW else phase.value
        edges.setdefault((source, target.value), []).append(stimulus.value)
    lines = [f"    {source} --> {target}: {', '.join(stimuli)}" for (source, target), stimuli in edges.items()]
    return "\n".join(["stateDiagram-v2", *lines]) + "\n"


# To add a stimulus: add an entry to Stimulus and its rows to TRANSITIONS. Then update docs/architecture.md's diagram.
