"""A session's life: opened by the first hello that names it, joined, left, ended, sealed. Time is a guest: every method
takes ``now`` (monotonic seconds), and ``next_due`` says when to look again.

A session ends by the owner's word; by the owner's vanishing, once its process is gone or the grace is over; and where
nobody owns it, when its last producer has been gone for the grace. It is then *ending*: living workers may say goodbye.
Sealed, it is one event, and only its id is remembered. Whatever a next daemon could not find out by itself is handed
to ``keep``, as records for the journal, before anybody acts on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from ..core.frames import Frame
from ..core.payload import event_uuid
from ..core.schema import SESSION
from ..core.session.line_batch import LineBatch
from . import records
from .records import COMMANDS, NS_PER_S
from .session import GOODBYE_S, Ending, Member, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ..core.frames import Hello, Occurred
    from ..core.refusal import Refusal
    from .records import Record
    from .session import Memory

COMPACT_AFTER = 64  # departures until accounts are merged: an account may take 200 KiB, and a reload brings another
REMEMBERED = 10_000  # ended sessions, 160 KB: a producer that lives longer than so many of them opens a new one


class Sessions:
    def __init__(
        self,
        changed: Callable[[], None] = lambda: None,
        keep: Callable[[Session, list[Record]], None] = lambda _session, _records: None,
        boot: str = "",
        exists: Callable[[int], bool] = lambda _pid: True,
        whose: Callable[[], str | None] = lambda: None,
    ) -> None:
        """``changed`` is called when a due time may have moved; ``keep`` with what is new for a session's journal.
        ``exists``: whether there is a process of that number. ``whose``: the anonymous id as of now.
        """
        self.open: dict[str, Session] = {}
        self._groups: dict[str, Session] = {}
        self._ended = bytearray()  # the uuids of their events: an id takes 16 bytes here, and 200 in a dict
        self._changed = changed
        self._keep = keep
        self._boot = boot
        self._exists = exists
        self._whose = whose

    def has_ended(self, session_id: str) -> bool:
        uuid = UUID(event_uuid(session_id, SESSION)).bytes
        return self._ended.find(uuid) % len(uuid) == 0  # not found is -1

    def has_open(self, hello: Hello) -> bool:
        """Whether it names no session that would have to be opened."""
        if hello.session is not None:
            return hello.session in self.open or self.has_ended(hello.session)
        return hello.group is None or hello.group in self._groups

    def remember_end(self, session_events_uuid: str) -> None:
        """A session was reported by the event of that uuid: here, or by a daemon before this one."""
        self._ended += UUID(session_events_uuid).bytes
        if len(self._ended) > 16 * REMEMBERED:
            del self._ended[:16]

    def open_session(self, session_id: str, now: float, group: str | None = None) -> Session | None:
        """The session of that id, opened where it is new; None where it has ended."""
        session = self.open.get(session_id)
        if session is None:
            if self.has_ended(session_id):
                return None
            session = Session(session_id, group, now, self._boot)
            self.take_up(session)
            self._keep(session, [records.opened(session)])
        return session

    def take_up(self, session: Session) -> None:
        """A session is open: a new one, or one that lost its daemon."""
        self.open[session.id] = session
        session.whose = self._whose()
        if session.group is not None:
            self._groups[session.group] = session
        self._changed()

    def join(
        self, hello: Hello, connection: Hashable, now: float, memory: Memory | None = None, pid: int = 0
    ) -> Session | None:
        """A producer said hello. None where it names no session, or one that has ended, or where it is known to be
        gone for good; the memory is then not kept.
        """
        if hello.producer is None:
            return None
        if hello.session is not None:
            session = self.open_session(hello.session, now)
        elif hello.group is not None:
            session = self._groups.get(hello.group) or self.open_session(str(uuid4()), now, hello.group)
        else:
            return None
        if session is None or session.has_departed(hello.producer):
            return None
        session.members[connection] = Member(hello.producer, hello.is_owner, LineBatch())
        session.awaited.discard(hello.producer)
        session.last_words.pop(hello.producer, None)
        if memory is not None:
            session.gather_from(hello.producer)  # one that comes back brings the same memory, or says so in its cells
            if hello.producer in session.memories:
                session.memories[hello.producer].close()
            session.memories[hello.producer] = memory
        elif pid:
            session.pids[hello.producer] = pid
        if hello.is_owner:
            session.owner_lost_at = None
            session.owner_is_dead = False
            session.state.producer(hello.producer)
        else:
            session.workers.add(hello.producer)
            session.state.greet(hello.producer, hello.sdk, int(now * NS_PER_S))
        self._keep(session, [records.joined(session, hello.producer)])
        self._changed()
        return session

    def adopt(self, producer: str, memory: Memory, now: float, *, is_alive: bool) -> Session | None:
        """A memory was found whose worker had lost its daemon, or never had one. None where it belongs to no session,
        or to one that is over.
        """
        origin = memory.origin
        session = next((session for session in self.open.values() if producer in session.workers), None)
        if session is None and not origin.is_retired:
            session = self.open.get(origin.session or "") or self._groups.get(origin.group or "")
            if session is None and (origin.session or origin.group):
                session = self.open_session(origin.session or str(uuid4()), now, origin.group)
        if session is None or session.has_departed(producer):
            return None
        session.memories[producer] = memory
        session.gather_from(producer)
        session.workers.add(producer)
        self._keep(session, [records.joined(session, producer)])
        self._keep_news(session, producer)
        if is_alive:
            session.awaited.add(producer)
        elif session.parted is None and not session.members:  # its hello may still wait to be read
            self._left(session, producer, now)
        self._changed()
        return session

    def own_by_process(self, session: Session, pid: int) -> None:
        session.owner_pid = pid
        self._keep(session, [records.opened(session)])

    def say(
        self, session: Session, connection: Hashable, frame: Frame, now: float
    ) -> tuple[list[Occurred], list[Refusal]]:
        """Takes in a frame of a member. Returns the events to send, and what was refused."""
        member = session.members[connection]
        member.burst.flush(session.state.producer(member.producer))
        return self._apply(session, member.producer, frame, now)

    def _apply(self, session: Session, producer: str, frame: Frame, now: float) -> tuple[list[Occurred], list[Refusal]]:
        elapsed_ms = int((now - session.opened_at) * 1000)
        if any(occurred.event.requests_in for occurred in frame.events):  # a count of all producers
            session.gather()
        outcome = session.state.apply(producer, frame, int(now * NS_PER_S), elapsed_ms)
        if frame.scalars or frame.members or frame.marks or frame.events:  # counts change all the time: see snapshot
            self._keep_news(session, producer)
        return outcome

    def snapshot(self, session: Session) -> None:
        """What was counted by now is kept."""
        session.gather()
        for producer in session.state.producers:
            self._keep_news(session, producer)

    def settle(self, session: Session, connection: Hashable) -> None:
        """What was said on the connection is kept: the daemon is about to answer it."""
        member = session.members.get(connection)
        if member is not None and session.id in self.open:
            member.burst.flush(session.state.producer(member.producer))
            self._keep_news(session, member.producer)

    def _keep_news(self, session: Session, producer: str) -> None:
        if news := records.news(session, producer):
            self._keep(session, news)

    def remark(self, session: Session, occurred: Occurred, now: float) -> list[Occurred]:
        """An event that a command says of a session that it is no producer of. Returns the events to send."""
        frame = Frame()
        frame.events.append(occurred)
        return self._apply(session, COMMANDS, frame, now)[0]

    def count(self, session: Session, connection: Hashable, lines: list[bytes]) -> bool:
        """Takes in lines that are increments and nothing else, without parsing each. False where they are not."""
        member = session.members[connection]
        if member.burst.is_full:
            member.burst.flush(session.state.producer(member.producer))
        return member.burst.take(lines)

    def part(self, session: Session, connection: Hashable, exit_reason: str, now: float) -> None:
        """A producer said that it is done. From the owner: the session is."""
        member = session.members.get(connection)
        if member is None:
            return
        session.last_words[member.producer] = exit_reason
        if session.id in self.open:
            self._keep(session, [records.parted(member.producer, exit_reason, now)])
        if member.is_owner:
            self.end(session, exit_reason, now, now)
        self._changed()

    def leave(self, session: Session, connection: Hashable, now: float) -> None:
        """A connection closed."""
        member = session.members.pop(connection, None)
        if member is None:
            return
        member.burst.flush(session.state.producer(member.producer))
        session.gather_from(member.producer)
        if session.id in self.open:
            self._keep_news(session, member.producer)
        if member.is_owner:
            if not session.has_owner:
                session.owner_lost_at = now
                if session.owner_is_dead:
                    self.end(session, "crash", now, now)
        elif member.producer not in session.present:
            self._left(session, member.producer, now)
        self._changed()

    def awaited_in_vain(self, session: Session, producer: str, now: float) -> None:
        """A process that might have come back is gone."""
        if producer in session.awaited:
            session.awaited.discard(producer)
            session.gather_from(producer)
            self._left(session, producer, now)
            self._changed()

    def _left(self, session: Session, producer: str, now: float) -> None:
        session.parted = producer, now
        if session.id in self.open:
            self._keep(session, [records.left(producer, now)])
            session.departures += 1

    def merge_departed(self, take_in_all: Callable[[], bool]) -> dict[str, Memory]:
        """Where many have left. A producer belongs to one process: once that has ended, and all that it wrote is taken
        in, nobody can come back as it. ``take_in_all``: whether it could be. Returns the memories that nobody needs any
        more, by producer.
        """
        needless: dict[str, Memory] = {}
        for session in [session for session in self.open.values() if session.departures >= COMPACT_AFTER]:
            session.departures = 0
            assert session.parted is not None
            left = session.workers - session.departed - session.present - {session.parted[0]}
            gone = [producer for producer in left if self._is_gone(session, producer)]
            if gone and take_in_all() and session.id in self.open:  # it may say that consent is gone
                needless |= self._merge(session, [producer for producer in gone if producer not in session.present])
        return needless

    def _merge(self, session: Session, gone: list[str]) -> dict[str, Memory]:
        for producer in gone:
            session.gather_from(producer)
            self._keep_news(session, producer)
        self._keep(session, [records.departed(gone)])
        session.state.merge_departed(gone)
        for producer in gone:
            session.last_words.pop(producer, None)
            session.pids.pop(producer, None)
        return {producer: session.memories.pop(producer) for producer in gone if producer in session.memories}

    def _is_gone(self, session: Session, producer: str) -> bool:
        if (memory := session.memories.get(producer)) is not None:
            return not memory.is_in_use
        pid = session.pids.get(producer)
        return pid is not None and not self._exists(pid)

    def counts_by_name(self, session: Session, connection: Hashable) -> bool:
        """Whether the connection is a worker's that counts in a memory which is found again by its name."""
        member = session.members.get(connection)
        if member is None or member.is_owner:
            return False
        memory = session.memories.get(member.producer)
        return memory is not None and memory.has_name

    def hang_up(self, session: Session, connection: Hashable) -> None:
        """A worker's connection is closed by us, and all of it is read. Who did not say goodbye counts on, and may come
        back.
        """
        member = session.members.get(connection)
        if member is not None and session.id in self.open and member.producer not in session.last_words:
            session.awaited.add(member.producer)

    def owner_ended(self, session: Session, now: float) -> None:
        """The owner's process is gone: once its connection is read to the end, no word of it can come."""
        session.owner_pid = None
        session.owner_is_dead = True
        if not session.has_owner:
            self.end(session, "crash", now if session.owner_lost_at is None else session.owner_lost_at, now)

    def end(
        self, session: Session, exit_reason: str, ended_at: float, now: float, goodbye_s: float = GOODBYE_S
    ) -> None:
        """Begins the end; living workers have ``goodbye_s`` from now to say goodbye. The first end counts."""
        if session.ending is None:
            session.ending = Ending(exit_reason, ended_at, now + goodbye_s)
            self._keep(session, [records.ending(session)])
            self._changed()

    def due(self, now: float) -> list[Session]:
        """The sessions to seal now. Ends those whose grace is over."""
        for session in self.open.values():
            due = session.due()
            if session.ending is None and due is not None and due <= now:
                self.end(session, *session.silent_end(now), now)
        return [s for s in self.open.values() if s.ending and (s.ending.seal_by <= now or not s.live_producers)]

    def may_still_hear(self, session: Session, now: float) -> bool:
        """Whether somebody living has goodbye time left."""
        return bool(session.ending and session.ending.seal_by > now and session.live_producers)

    def next_due(self) -> float | None:
        return min((due for due in map(Session.due, self.open.values()) if due is not None), default=None)

    def seal(self, session: Session) -> None:
        """It is over: what is said of it from now on is refused. Its memories are still there, until it is reported."""
        session.gather()
        del self.open[session.id]
        if session.group is not None:
            del self._groups[session.group]
        self.remember_end(event_uuid(session.id, SESSION))
