"""A session as lines of its journal. What producers said is in the wire's own words (``core.transcript``); around it
stands when the session began, who joined and left it, and how it ends. ``recovery`` reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.session import transcript
from ..core.session.state import DEPARTED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .session import Session

    Record = dict[str, Any]

NS_PER_S = 1_000_000_000
COMMANDS = "commands"  # under this name a session keeps what commands said of it; no producer's, as it is no UUID
NO_PRODUCERS = frozenset({COMMANDS, DEPARTED})


def opened(session: Session) -> Record:
    return {
        "opened": session.opened_at,
        "boot": session.boot,
        "group": session.group,
        "owner_pid": session.owner_pid,
    }


def joined(session: Session, producer: str) -> Record:
    """Also where it comes back."""
    sdk = session.state.producer(producer).said.get("sdk")
    is_worker = producer in session.workers
    return {"joined": producer, "worker": is_worker, "sdk": sdk and sdk[2], "at": sdk[0] if sdk else 0}


def news(session: Session, producer: str) -> list[Record]:
    """What the producer has said since this was last asked."""
    return _said(producer, transcript.news(session.state.producer(producer)))


def parted(producer: str, exit_reason: str, now: float) -> Record:
    return {"by": producer, "at": int(now * NS_PER_S), "says": {"end": {"exit_reason": exit_reason}}}


def left(producer: str, now: float) -> Record:
    return {"left": producer, "at": int(now * NS_PER_S)}


def departed(producers: Iterable[str]) -> Record:
    """Whoever hears this has heard all that they said."""
    return {"departed": sorted(producers)}


def ending(session: Session) -> Record:
    assert session.ending is not None
    return {"ending": session.ending.exit_reason, "ended_at": session.ending.ended_at}


def whole(session: Session, now: float) -> list[Record]:
    """All that a journal has of it by now."""
    records = [opened(session), *({"occurred": name} for name in sorted(session.state.occurred))]
    for producer, state in session.state.producers.items():
        if producer not in NO_PRODUCERS:
            records.append(joined(session, producer))
        records += _said(producer, transcript.whole(state))
        if (word := session.last_words.get(producer)) is not None:
            records.append(parted(producer, word, now))
    if session.departed:
        records.append(departed(session.departed))
    last = {session.parted[0]} if session.parted else set()
    records += [left(producer, now) for producer in session.workers - session.departed - session.present - last]
    if session.parted is not None:
        records.append(left(*session.parted))
    if session.ending is not None:
        records.append(ending(session))
    return records


def _said(producer: str, said: Iterable[transcript.Said]) -> list[Record]:
    return [{"by": producer, "at": when, "says": frame} for when, frame in said]
