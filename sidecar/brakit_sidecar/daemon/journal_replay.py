"""What the journal of a daemon that died says, as a session that goes on, or as one that is over. Each event without a
receipt is still to be sent.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import orjson

from ..core import payload
from ..core.frames import UUID, parse
from ..core.outbox import QueuedEvent
from ..core.schema import EVENTS, SESSION, SESSION_FIELDS
from ..host.debug import debug
from .records import NS_PER_S
from .session import GOODBYE_S, Ending, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .records import Record


class Recovered(NamedTuple):
    session: Session | None  # None where it was reported, or where these are events that belong to none
    events: list[QueuedEvent]  # frozen, and not known to be settled


def recovered(session_id: str, journal: Iterable[Record], now: float, boot: str, api_key: str) -> Recovered:
    """``boot``: of this machine, now. Workers that had not left are taken for gone: whose process lives is awaited
    again by whoever finds it.
    """
    heard = _Heard(session_id, api_key)
    for record in journal:
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # not of our writing; the rest is still good
            heard.hear(record)
    return Recovered(heard.as_of(now, boot), list(heard.events.values()))


class _Heard:
    """A session as its records told it, one after another."""

    def __init__(self, session_id: str, api_key: str) -> None:
        self._api_key = api_key
        self.events: dict[str, QueuedEvent] = {}
        self._session = Session(session_id, None, 0.0, "")
        self._is_open = False
        self._is_owned = False
        self._ending: tuple[str, float] | None = None
        self._last_at = 0.0
        self._by_key: dict[str, Callable[[Record], None]] = {
            "opened": self._opened,
            "joined": self._joined,
            "says": self._says,
            "left": self._left,
            "departed": self._departed,
            "ending": self._ends,
            "occurred": self._occurred,
            "frozen": self._frozen,
            "settled": self._settled,
        }

    def hear(self, record: Record) -> None:
        self._last_at = max(self._last_at, record.get("at", 0) / NS_PER_S)
        for key, hear in self._by_key.items():
            if key in record:
                hear(record)

    def as_of(self, now: float, boot: str) -> Session | None:
        session = self._session
        if not self._is_open or SESSION.name in session.state.occurred:
            return None
        for producer in session.awaited:  # they vanished with their daemon, after all who had left before
            session.parted = producer, now
        session.awaited = set()
        if session.boot != boot:  # the machine went down under it: its clock is another, and its processes are gone
            reason, ended_at = self._ending or ("crash", max(self._last_at, session.opened_at))
            session.ending = Ending(reason, ended_at, seal_by=now)
        elif self._ending is not None:
            session.ending = Ending(*self._ending, seal_by=now + GOODBYE_S)
        elif self._is_owned:
            session.owner_lost_at = now
        return session

    # --- one function a kind of record -----------------------------------------------------------------------------

    def _opened(self, record: Record) -> None:
        session = self._session
        session.opened_at, session.boot = float(record["opened"]), str(record["boot"])
        session.group = record["group"] if UUID.fullmatch(record["group"] or "") else None
        session.owner_pid = record["owner_pid"] if type(record["owner_pid"]) is int else None
        self._is_open = UUID.fullmatch(session.id) is not None

    def _joined(self, record: Record) -> None:
        session, producer = self._session, record["joined"]
        session.last_words.pop(producer, None)
        session.state.producer(producer)
        if record["worker"]:
            session.workers.add(producer)
            session.awaited.add(producer)
            session.state.recall(producer, parse(b"{}"), record["at"], record["sdk"])
        else:
            self._is_owned = True

    def _says(self, record: Record) -> None:
        frame = parse(orjson.dumps(record["says"]))
        self._session.state.recall(record["by"], frame, record["at"])
        if frame.end is not None:
            self._session.last_words[record["by"]] = frame.end

    def _left(self, record: Record) -> None:
        self._session.awaited.discard(record["left"])
        self._session.parted = record["left"], record["at"] / NS_PER_S

    def _departed(self, record: Record) -> None:
        session = self._session
        for producer in record["departed"]:
            session.workers.add(producer)
            session.awaited.discard(producer)
            session.last_words.pop(producer, None)
        session.state.merge_departed(record["departed"])

    def _ends(self, record: Record) -> None:
        self._ending = SESSION_FIELDS["exit_reason"].domain.coerce(record["ending"]), float(record["ended_at"])

    def _occurred(self, record: Record) -> None:
        self._session.state.occurred.add(EVENTS[record["occurred"]].name)

    def _frozen(self, record: Record) -> None:
        """A body that is not ours is none that anybody may send. The session then goes on; but another event of it may
        have been sent, and workers say it again: of that no second body is made.
        """
        name, uuid, distinct_id, frozen = record["frozen"]
        body = payload.rebuild(name, frozen.encode(), api_key=self._api_key, distinct_id=distinct_id, uuid=uuid)
        if EVENTS[name].once and (body is not None or name != SESSION.name):
            self._session.state.occurred.add(EVENTS[name].name)
        if body is None:
            debug(f"the journal's body of an event is not ours: {EVENTS[name].name}")
            return
        self.events[uuid] = QueuedEvent(EVENTS[name].name, uuid, distinct_id, body, self._session.id)

    def _settled(self, record: Record) -> None:
        self.events.pop(record["settled"], None)
