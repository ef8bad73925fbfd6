"""Finds the session that a hello joins, the sessions that are due, and the sessions that are over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..payload import event_uuid
from ..schema import SESSION
from .effects import Close, Journal
from .session import Session
from .timing import USUAL_TIMING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..frames import Hello
    from .effects import Effect
    from .member import Member
    from .terms import Terms
    from .timing import Timing
    from .worker import Worker

REMEMBERED = 10_000  # ended sessions, some 2 MB; a producer of an older session opens a new session
# Open at once. A developer has a handful. With one worker each they take a megabyte, and the answer to `status`, which
# lists all of them, stays below protocol.MAX_UNSENT.
MAX_SESSIONS = 256


class Opening(NamedTuple):
    """The circumstances in which a session is opened."""

    now: float  # monotonic seconds
    terms: Terms
    fresh_id: str = ""  # the id of the new session if the hello names only a group


class SessionTable:
    """The sessions that are open, and the ids of the sessions that are over."""

    def __init__(self, boot: str = "", timing: Timing = USUAL_TIMING, own: Mapping[str, Any] | None = None) -> None:
        """``boot``: the id of this boot of the machine. ``own``: the fields that only the daemon knows."""
        self.open: dict[str, Session] = {}
        self._groups: dict[tuple[str, str], Session] = {}  # by group and destination; two projects may share a group
        self._ended: dict[str, None] = {}  # by the uuid of the session event, the oldest first
        self._boot = boot
        self._timing = timing
        self._own = own or {}

    # --- stimuli ---------------------------------------------------------------------------------------------------

    def hello(self, hello: Hello, opening: Opening, pid: int = 0) -> tuple[Member | None, list[Effect]]:
        """Join a connection to the session that its hello names, and open the session if it is new.

        The member is None if the session is over or the worker was compacted.
        """
        session, effects = self._named(hello, opening)
        if session is None:
            return None, []
        member, more = session.hello(hello, opening.now, pid)
        return member, effects + more

    def open_session(
        self, session_id: str, opening: Opening, group: str | None = None
    ) -> tuple[Session | None, list[Effect]]:
        """Return the session of this id, and open it if it is new. The session is None if it is over."""
        session = self.open.get(session_id)
        if session is not None:
            return session, []
        if self.has_ended(session_id):
            return None, []
        session = self.new_session(session_id, opening, group)
        self.take_up(session)
        return session, [Journal(session.id, session.whole(opening.now))]

    def new_session(self, session_id: str, opening: Opening, group: str | None = None) -> Session:
        """Return a session that is not in the table yet."""
        return Session(
            session_id,
            group,
            opening.now,
            self._boot,
            terms=opening.terms,
            timing=self._timing,
            own=self._own,
        )

    def take_up(self, session: Session) -> None:
        """Add a new session, or a session whose daemon died."""
        self.open[session.id] = session
        if session.group is not None:
            # Two sessions may name the same group, because a journal may have been copied.
            self._groups.setdefault((session.group, session.terms.destination), session)

    def session_of_worker(
        self, producer: str, session_id: str | None, group: str | None, opening: Opening
    ) -> tuple[Session | None, list[Effect]]:
        """Return the session of a worker whose counter file was found.

        This is the open session that knows the worker, or else the session that the counter file names. The session is
        None if there is none, or no room.
        """
        for session in self.open.values():
            if producer in session.workers:
                return session, []
        if not self.has_room_for(producer, session_id, group, opening.terms.destination):
            return None, []
        if session_id is not None:
            return self.open_session(session_id, opening)
        if group is not None:
            known = self._groups.get((group, opening.terms.destination))
            return (known, []) if known else self.open_session(opening.fresh_id, opening, group)
        return None, []

    def seal(self, session: Session, now: float) -> list[Effect]:
        """Make the event of a session that has ended. Later reports for it are refused."""
        return [session.report(now), *self._close(session)]

    def withdraw(self) -> list[Effect]:
        """Close every session without an event, because consent was withdrawn.

        The counts of running workers are ignored until those workers start again, even if consent is given again. The
        reason is that the counts without consent cannot be separated from the others.
        """
        return [effect for session in list(self.open.values()) for effect in self._close(session)]

    # --- time ------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Effect]:
        """Begin to end every session whose grace period is over."""
        return [effect for session in self.open.values() for effect in session.advance(now)]

    def to_seal(self, now: float) -> list[Session]:
        """Return the sessions that have ended and do not wait for anything."""
        return [session for session in self.open.values() if session.may_be_sealed(now)]

    def to_compact(self) -> list[tuple[Session, list[Worker]]]:
        """Return the workers that may be compacted, if enough workers have left."""
        return [(session, workers) for session in self.open.values() if (workers := session.compactable())]

    def next_due(self) -> float | None:
        """Return the monotonic time in seconds at which to call ``advance`` and ``to_seal`` next if nothing happens."""
        return min((due for session in self.open.values() if (due := session.due()) is not None), default=None)

    # --- what is over ----------------------------------------------------------------------------------------------

    def has_ended(self, session_id: str) -> bool:
        """Return True if the session was sealed, by this daemon or an earlier one."""
        return event_uuid(session_id, SESSION) in self._ended

    def remember_end(self, session_event_uuid: str) -> None:
        """Note that the session event of this uuid was made, by this daemon or an earlier one."""
        self._ended[session_event_uuid] = None
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def opens_none(self, hello: Hello, destination: str) -> bool:
        """Return True if no session of this destination would have to be opened for this hello."""
        if hello.session is not None:
            return hello.session in self.open or self.has_ended(hello.session)
        return hello.group is None or (hello.group, destination) in self._groups

    # --- bounds ----------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Return True if no session may be opened, because MAX_SESSIONS are open."""
        return len(self.open) >= MAX_SESSIONS

    def has_room_for(self, producer: str, session_id: str | None, group: str | None, destination: str) -> bool:
        """Return True if neither the producer nor a session that must be opened for it is beyond the bounds."""
        session = self.open.get(session_id) if session_id is not None else self._groups.get((group or "", destination))
        if session is not None:
            return session.has_room_for(producer)
        return not self.is_full or (session_id is not None and self.has_ended(session_id))

    # --- steps -----------------------------------------------------------------------------------------------------

    def _named(self, hello: Hello, opening: Opening) -> tuple[Session | None, list[Effect]]:
        if hello.session is not None:
            return self.open_session(hello.session, opening)
        assert hello.group is not None  # a hello without a session or a group does not get here
        known = self._groups.get((hello.group, opening.terms.destination))
        return (known, []) if known else self.open_session(opening.fresh_id, opening, hello.group)

    def _close(self, session: Session) -> list[Effect]:
        del self.open[session.id]
        if session.group is not None:
            key = session.group, session.terms.destination
            if self._groups.get(key) is session:
                del self._groups[key]
        self.remember_end(event_uuid(session.id, SESSION))
        return [Close(session.id)]
