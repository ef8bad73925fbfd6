"""Rebuilds a session from the records of its journal, by applying the stimuli that wrote the records.

A record may hold anything, because another program may have changed the file. A record is called "not ours" if the
daemon cannot have written it. Such a record is skipped.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import orjson

from .. import payload
from ..frames import UUID, parse
from ..outbox import QueuedEvent, Reason
from ..schema import EVENTS, SESSION, SESSION_FIELDS
from .records import NS_PER_S
from .session import Ending
from .totals import COMPACTED
from .worker import Phase, Stimulus, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .records import Record
    from .session import Session

MAX_PID = 2**22  # Linux's limit
MAX_TIME_S = 2**33  # 272 years of uptime, whose nanoseconds are still a 64-bit integer


class Replayed(NamedTuple):
    """The contents of a journal."""

    session: Session | None  # None if its event was made, or if the journal holds only events without a session
    events: list[QueuedEvent]  # the frozen events whose receipts are not in the journal
    foreign: list[str]  # the names of events whose frozen bodies are not ours


def replay(
    session: Session, journal: Iterable[Record], now: float, boot: str, *, destination: str, api_key: str
) -> Replayed:
    """Replay a journal into ``session``, a new session with the journal's id.

    A worker that had not left counts as gone since ``now`` (monotonic seconds). It may be found alive later. ``boot``
    is the id of this boot of the machine. ``destination`` is the daemon's own, and ``api_key`` is its key. The body of
    an event for another destination gets no key.
    """
    reader = _Reader(session, destination, api_key)
    for record in journal:
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # this record is not ours, but others may be
            reader.read(record)
    return Replayed(reader.session_as_of(now, boot), list(reader.events.values()), reader.foreign)


class _Reader:
    """Applies records one after another."""

    def __init__(self, session: Session, destination: str, api_key: str) -> None:
        self._session = session
        self._destination = destination
        self._api_key = api_key
        self.events: dict[str, QueuedEvent] = {}
        self.foreign: list[str] = []
        self._is_open = False
        self._is_owned = False
        self._ending: tuple[str, float] | None = None
        self._last_at = 0.0
        self._readers: dict[str, Callable[[Record], None]] = {
            "opened": self._opened,
            "kept_local": self._kept_local,
            "joined": self._joined,
            "frame": self._frame,
            "left": self._left,
            "compacted": self._compacted,
            "ending": self._ends,
            "occurred": self._occurred,
            "frozen": self._frozen,
            "settled": self._settled,
        }

    def read(self, record: Record) -> None:
        """Apply one record. Raises KeyError, TypeError, ValueError or AttributeError if the record is not ours."""
        self._last_at = max(self._last_at, _time_ns(record.get("at") or 0) / NS_PER_S)
        for key, reader in self._readers.items():
            if key in record:
                reader(record)

    def session_as_of(self, now: float, boot: str) -> Session | None:
        """Return the session at the time ``now``. Returns None if it was never opened or its event was made."""
        session = self._session
        if not self._is_open or SESSION.name in session.totals.occurred:
            return None
        if session.boot == boot:
            self._cut_times(now)
        for worker in session.workers.values():
            if worker.phase in (Phase.CONNECTED, Phase.FINISHED):  # its connection closed when the daemon died
                worker.apply(Stimulus.DISCONNECT)
                worker.left_at = now
                session.last_left = worker
        if session.boot != boot:  # the machine restarted: its clock began anew, and all processes are gone
            reason, ended_at = self._ending or ("crash", max(self._last_at, session.opened_at))
            session.ending = Ending(reason, ended_at, seal_by=now)
        elif self._ending is not None:
            session.ending = Ending(*self._ending, seal_by=now + session.timing.goodbye_s)
        elif self._is_owned:
            session.owner.lost_at = now
        return session

    def _cut_times(self, now: float) -> None:
        """Replace times in the future by ``now``, because a session would otherwise wait for them."""
        session = self._session
        session.opened_at = min(session.opened_at, now)
        for worker in session.workers.values():
            if worker.left_at is not None:
                worker.left_at = min(worker.left_at, now)
        if self._ending is not None:
            self._ending = self._ending[0], min(self._ending[1], now)

    # --- one method for each kind of record ------------------------------------------------------------------------

    def _opened(self, record: Record) -> None:
        session = self._session
        session.opened_at, session.boot = _time_s(record["opened"]), str(record["boot"])
        group, pid = record["group"], record["owner_pid"]
        session.group = group if type(group) is str and UUID.fullmatch(group) else None
        session.owner.pid = pid if type(pid) is int and 0 < pid <= MAX_PID else None
        session.terms = session.terms._replace(stamp=_stamp(record["stamp"]), destination=str(record["destination"]))
        self._is_open = UUID.fullmatch(session.id) is not None

    def _kept_local(self, record: Record) -> None:
        self._session.kept_local = Reason(record["kept_local"])

    def _joined(self, record: Record) -> None:
        session, producer = self._session, _id(record["joined"])
        if record["worker"]:
            worker = self._worker(producer)
            worker.apply(Stimulus.HELLO)
            worker.exit_reason = None
            session.totals.replay(producer, parse(b"{}"), _time_ns(record["at"]), record["sdk"])
        else:
            session.totals.producer(producer)
            self._is_owned = True

    def _frame(self, record: Record) -> None:
        frame, producer = parse(orjson.dumps(record["frame"])), _id(record["by"])
        self._session.totals.replay(producer, frame, _time_ns(record["at"]))
        worker = self._session.workers.get(producer)
        if frame.end is not None and worker is not None:
            worker.exit_reason = frame.end
            worker.apply(Stimulus.END)

    def _left(self, record: Record) -> None:
        session, worker = self._session, self._session.workers[record["left"]]
        left_at = None if record["at"] is None else _time_ns(record["at"]) / NS_PER_S
        if worker.phase is not Phase.GONE:
            worker.apply(Stimulus.DISCONNECT)
        if left_at is None:
            return
        worker.left_at = left_at
        last = session.last_left
        if last is None or last.left_at is None or last.left_at <= left_at:
            session.last_left = worker

    def _compacted(self, record: Record) -> None:
        session, compacted = self._session, [*map(_id, record["compacted"])]
        session.totals.compact(compacted)
        for producer in compacted:
            worker = session.workers.setdefault(producer, Worker(producer, session.totals.producer(COMPACTED)))
            if worker.phase in (Phase.CONNECTED, Phase.FINISHED):
                worker.apply(Stimulus.DISCONNECT)
            worker.apply(Stimulus.COMPACT)
            worker.totals = session.totals.producer(COMPACTED)

    def _ends(self, record: Record) -> None:
        self._ending = SESSION_FIELDS["exit_reason"].domain.coerce(record["ending"]), _time_s(record["ended_at"])

    def _occurred(self, record: Record) -> None:
        self._session.totals.occurred.add(EVENTS[record["occurred"]].name)

    def _frozen(self, record: Record) -> None:
        """Read an event that was about to be sent.

        A body that is not ours must not be sent. If it is the body of the session event, the session goes on and makes
        that event again. Any other once-only event counts as occurred, even if its body is not ours. Otherwise a
        worker's repeated report would make the event a second time, although the first body may have arrived.
        """
        name, uuid, distinct_id, frozen, destination, stamp = record["frozen"]
        api_key = self._api_key if destination == self._destination else ""
        body = payload.rebuild(name, frozen.encode(), api_key=api_key, distinct_id=distinct_id, uuid=uuid)
        if EVENTS[name].once and (body is not None or name != SESSION.name):
            self._session.totals.occurred.add(EVENTS[name].name)
        if body is None:
            self.foreign.append(EVENTS[name].name)
            return
        self.events[uuid] = QueuedEvent(
            EVENTS[name].name, uuid, distinct_id, body, self._session.id, str(destination), _stamp(stamp)
        )

    def _settled(self, record: Record) -> None:
        self.events.pop(record["settled"], None)

    def _worker(self, producer: str) -> Worker:
        workers = self._session.workers
        if producer not in workers:
            workers[producer] = Worker(producer, self._session.totals.producer(producer))
        return workers[producer]


def _id(raw: object) -> str:
    """Return ``raw`` as the name of a producer. Raises TypeError if it is not a string."""
    if type(raw) is str:
        return raw
    raise TypeError


def _stamp(raw: object) -> int:
    """Return ``raw`` as the stamp of a config. Raises ValueError if it is not an integer of 64 bits."""
    if type(raw) is int and 0 <= raw < 2**64:
        return raw
    raise ValueError


def _time_s(raw: object) -> float:
    """Return ``raw`` as a time in seconds. Raises ValueError if it is not a number from 0 up to MAX_TIME_S."""
    if type(raw) in (int, float) and 0 <= raw < MAX_TIME_S:  # type: ignore[operator] # NaN compares false
        return float(raw)  # type: ignore[arg-type]
    raise ValueError


def _time_ns(raw: object) -> int:
    """Return ``raw`` as a time in ns. Raises ValueError if it is not an integer from 0 up to MAX_TIME_S."""
    if type(raw) is int and 0 <= raw < MAX_TIME_S * NS_PER_S:
        return raw
    raise ValueError
