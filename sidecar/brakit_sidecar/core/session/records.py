"""The records of a session's journal. The reports of producers are stored as frames of the wire (``transcript``).

The other records hold when the session began, which workers joined and left it, and how it ended. ``replay`` reads all
records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import transcript
from .totals import COMPACTED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..outbox import Reason
    from .terms import Terms
    from .totals import ProducerTotals

    Record = dict[str, Any]

NS_PER_S = 1_000_000_000
COMMANDS = "commands"  # reports of commands are journaled under this name; it is not a UUID, so no producer has it
NOT_PRODUCERS = frozenset({COMMANDS, COMPACTED})


def opened(opened_at: float, boot: str, group: str | None, owner_pid: int | None, terms: Terms) -> Record:
    """Return the record of a session's start, of the process that owns it and of its terms.

    The journal itself has the anonymous id.
    """
    bound = {"stamp": terms.stamp, "destination": terms.destination}
    return {"opened": opened_at, "boot": boot, "group": group, "owner_pid": owner_pid, **bound}


def kept_local(reason: Reason) -> Record:
    """Return the record of a session whose events are kept on this machine."""
    return {"kept_local": reason.value}


def joined(totals: ProducerTotals, *, is_worker: bool) -> Record:
    """Return the record of a producer's hello. Every hello has a record, not only the first."""
    sdk = totals.values.get("sdk")
    return {"joined": totals.producer, "worker": is_worker, "sdk": sdk and sdk[2], "at": sdk[0] if sdk else 0}


def changed(totals: ProducerTotals) -> list[Record]:
    """Return the records of what the totals gained since the last call for the same totals."""
    return [_frame(totals, when, frame) for when, frame in transcript.changed(totals)]


def whole(totals: ProducerTotals) -> list[Record]:
    """Return the records of the whole totals."""
    return [_frame(totals, when, frame) for when, frame in transcript.whole(totals)]


def end(producer: str, exit_reason: str, now: float) -> Record:
    """Return the record of a producer that reported its end."""
    return {"by": producer, "at": int(now * NS_PER_S), "frame": {"end": {"exit_reason": exit_reason}}}


def left(producer: str, left_at: float | None) -> Record:
    """Return the record of a worker that left. ``left_at`` is None if the time is unknown."""
    return {"left": producer, "at": None if left_at is None else int(left_at * NS_PER_S)}


def compacted(producers: Iterable[str]) -> Record:
    """Return the record of workers that were compacted. The records before it hold all their reports."""
    return {"compacted": sorted(producers)}


def ending(exit_reason: str, ended_at: float) -> Record:
    """Return the record of a session's end."""
    return {"ending": exit_reason, "ended_at": ended_at}


def occurred(name: str) -> Record:
    """Return the record of an event that occurs once in a session."""
    return {"occurred": name}


def _frame(totals: ProducerTotals, when: int, frame: dict[str, Any]) -> Record:
    return {"by": totals.producer, "at": when, "frame": frame}
