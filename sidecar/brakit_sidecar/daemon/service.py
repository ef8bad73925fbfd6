"""The sessions' book: applies what connections report, carries out the effects, and seals.

Effects are carried out at once and in their order, so a record is in the journal before anything that follows from it.
Sealing drains the intake, which calls the book again. Those calls carry out their own effects, and none of them seals.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..core import counter_layout
from ..core.outbox import Reason
from ..core.protocol import Ended, Joined, TryLater
from ..core.refusal import Refusal
from ..core.session import effects as fx
from ..core.session.table import Opening
from ..core.session.terms import Terms
from ..host import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..core.frames import Frame, Hello
    from ..core.session.member import Member
    from ..core.session.session import Session
    from ..core.session.table import SessionTable
    from ..core.session.worker import Worker
    from .consent_gate import ConsentGate
    from .counter_files import CounterFile, CounterFiles
    from .interfaces import Drainer
    from .journal import Journal
    from .process_watcher import ProcessWatcher
    from .reporter import Reporter


@dataclass(eq=False)
class Service:
    """Implements SessionBook and Evictor."""

    table: SessionTable
    consent: ConsentGate
    counter_files: CounterFiles
    journal: Journal
    reporter: Reporter
    watcher: ProcessWatcher
    intake: Drainer
    wake: Callable[[], None]  # is called if a due time may have moved
    destination: str  # the digest of the daemon's own
    answer: Callable[[Any], Any] = lambda _question: Refusal.UNKNOWN_ASK
    refusals: Counter[Refusal] = field(default_factory=Counter)
    is_stopping: bool = False  # then no session is opened; its client is sent to the next daemon

    # --- SessionBook -----------------------------------------------------------------------------------------------

    def hello(self, hello: Hello, descriptor: int | None, pid: int) -> Joined | Ended | TryLater:
        """Join the session that the hello names, which is opened if it is new."""
        names_a_session = hello.session is not None or hello.group is not None
        allowed = self.consent.allows() if names_a_session else False
        file, refused = self._counter_file_of(hello, descriptor)
        destination = hello.destination or self.destination
        is_too_late = self.is_stopping and not self.table.opens_none(hello, destination)
        if not names_a_session or allowed is None or is_too_late:
            if file is not None:
                file.close()
            return TryLater() if names_a_session else Joined(None, refused=refused)
        assert hello.producer is not None  # a hello that names a session or a group names its producer
        member = None
        if allowed and not (file is not None and file.is_retired):
            member, too_many = self._join(hello, hello.producer, pid)
            refused = too_many or refused
        if member is None:
            if file is not None:
                self.counter_files.reject(hello.producer, file)
            return Ended(refused)
        if file is not None and (snapshot := self.counter_files.attach(member.session_id, member.producer, file)):
            self.table.open[member.session_id].counted(member.producer, snapshot)
        if self.counter_files.manager.unsent:  # a message is to be sent again soon
            self.wake()
        return Joined(member, takes_counter_file=file is not None, refused=refused)

    def _join(self, hello: Hello, producer: str, pid: int) -> tuple[Member | None, Refusal | None]:
        """Join the session of a hello. Returns why there is no room for it, else None."""
        terms = self.terms(hello.destination)
        if not self.table.has_room_for(producer, hello.session, hello.group, terms.destination):
            return None, Refusal.TOO_MANY
        known = len(self.table.open)
        opening = Opening(monotonic(), terms, str(uuid4()))
        member, effects = self.table.hello(hello, opening, pid)
        self.run(effects)
        if member is not None and hello.stamp is not None:
            self.compare_stamp(self.table.open[member.session_id], hello.stamp)
        if hello.is_owner or len(self.table.open) > known:  # a worker of an open session makes nothing due earlier
            self.wake()
        return member, None

    def receive_without_session(self, frame: Frame, destination: str | None) -> list[Refusal]:
        """Report the events of a frame. Returns what is refused."""
        for occurred in frame.events:
            self.reporter.report_without_session(occurred, destination)
        return [Refusal.NO_SESSION] if frame.needs_a_session else []

    def receive(self, member: Member, frame: Frame) -> list[Refusal]:
        """Apply a frame. Returns what is refused."""
        session = self.table.open.get(member.session_id)
        if session is None:
            return [Refusal.SESSION_ENDED] if frame.needs_a_session or frame.events else []
        for occurred in frame.events:
            if occurred.event.requests_in:  # a count of all producers
                self.read_counters(session)
        refused, effects = session.receive(member, frame, monotonic())
        self.run(effects)
        if frame.end is not None:
            self.wake()
        return refused

    def receive_increments(self, member: Member, lines: list[bytes]) -> bool:
        """Count lines that are increments and nothing else. Returns False, and counts none, if they are not."""
        return member.session_id in self.table.open and member.count(lines)

    def ask(self, member: Member | None, question: Any) -> Any:
        """Answer a question, after all that the member reported is journaled."""
        opens = isinstance(question, dict) and "open" in question and member is None
        if opens and (self.is_stopping or self.consent.allows() is None):
            return TryLater()
        session = None if member is None else self.table.open.get(member.session_id)
        if member is not None and session is not None:
            self.run(session.journal_member(member))
        return self.answer(question)

    def refused(self, reason: Refusal) -> None:
        """Count a refusal."""
        self.refusals[reason] += 1

    def closed(self, member: Member, *, is_evicted: bool = False) -> None:
        """Apply the disconnect of a member whose bytes were all read."""
        session = self.table.open.get(member.session_id)
        if session is not None:
            self.read_counter(session, member.producer)
            self.run(session.disconnect(member, monotonic(), is_evicted=is_evicted))
            self.wake()

    # --- Evictor ---------------------------------------------------------------------------------------------------

    def release_descriptors(self) -> None:
        """Close the descriptors of all counter files that can be opened again by their names."""
        self.counter_files.release_descriptors()

    def may_evict(self, member: Member) -> bool:
        """Return True if the member is a worker with a named counter file, or if its session is over."""
        if member.session_id not in self.table.open:
            return True
        file = self.counter_files.of(member.session_id, member.producer)
        return member.worker is not None and file is not None and file.has_name

    # --- effects ---------------------------------------------------------------------------------------------------

    def run(self, effects: Iterable[fx.Effect]) -> None:
        """Carry out the effects of one stimulus."""
        for effect in effects:
            match effect:
                case fx.Journal(session_id, records):
                    session = self.table.open.get(session_id)
                    if self.journal.append(session_id, records) and session is not None:
                        self.journal.rewrite(session_id, session.whole(monotonic()))
                case fx.Emit():
                    self.reporter.report(effect)
                case fx.WatchOwner(session_id, pid):
                    exited = partial(self._owner_exited, session_id, pid)
                    self.watcher.watch((session_id, f"owner {pid}"), pid, partial(process.exists, pid), exited)
                case fx.WatchWorker(session_id, producer, pid, are_short):
                    self.watcher.watch(
                        (session_id, producer),
                        pid,
                        partial(self.counter_files.is_in_use, session_id, producer),
                        partial(self._worker_exited, session_id, producer),
                        by_descriptor=not (are_short or self.intake.is_short_of_descriptors()),
                    )
                case fx.UnwatchWorker(session_id, producer):
                    self.watcher.unwatch((session_id, producer))
                case fx.Release(session_id, producer):
                    self.counter_files.release(session_id, producer)
                case fx.Close(session_id):  # pragma: no branch (the last one of a closed set)
                    # Only after the event is journaled, because until then all of this is needed.
                    self.watcher.unwatch_all(session_id)
                    self.counter_files.release_all(session_id)
                    self.journal.seal(session_id)

    # --- ends ------------------------------------------------------------------------------------------------------

    def seal(self, session: Session) -> None:
        """Make the event of a session that has ended, with all that was written before.

        A live worker that is found only now may report its own end first.
        """
        is_drained = self.intake.drain()
        now = monotonic()
        if session.id not in self.table.open or not session.may_be_sealed(now):  # consent was withdrawn, or it waits
            return
        if not is_drained:  # close the session's own workers, because what they write from now on is too late
            self.intake.drain(lambda member: member.worker is not None and member.session_id == session.id)
            if session.id not in self.table.open:
                return
        self.read_counters(session)
        self.run(self.table.seal(session, now))  # the reporter compares the config once more

    def compact(self, session: Session, workers: Iterable[Worker]) -> None:
        """Compact the workers whose processes have exited, after all that they wrote is read."""
        exited = [worker for worker in workers if self.counter_files.has_exited(session.id, worker.id, worker.pid)]
        if not exited or not self.intake.drain() or session.id not in self.table.open:
            return
        for worker in exited:
            self.read_counter(session, worker.id)
        self.run(session.compact(exited))

    def withdraw(self) -> int:
        """Close every session without an event and drop what is queued, because consent is withdrawn.

        Returns the number of events that are not sent for it.
        """
        joined = sum(bool(session.workers) for session in self.table.open.values())
        self.run(self.table.withdraw())
        self.wake()
        return joined + self.reporter.withdraw()

    # --- terms -----------------------------------------------------------------------------------------------------

    def terms(self, destination: str | None) -> Terms:
        """Return the terms of a session that is opened now. Without a named destination, it is the daemon's own."""
        return Terms(self.consent.last_anonymous_id, self.consent.last_stamp, destination or self.destination)

    def compare_stamp(self, session: Session, stamp: int) -> None:
        """Keep a session on this machine if the config has changed since one of its workers read it.

        The config may have said no meanwhile, and the counts of that time cannot be separated from the others.
        """
        if session.kept_local is None and not self.consent.has_stood_since(stamp):
            self.run(session.keep_local(Reason.CONFIG_CHANGED))

    def look_at_config(self) -> None:
        """Compare the config with the one under which each session was opened."""
        self.consent.allows()
        for session in self.table.open.values():
            self.compare_stamp(session, session.terms.stamp)

    # --- counter files ---------------------------------------------------------------------------------------------

    def _counter_file_of(self, hello: Hello, descriptor: int | None) -> tuple[CounterFile | None, Refusal | None]:
        """Return the counter file of a hello, or why it is refused. Without a descriptor it is opened by its name."""
        if descriptor is not None:
            file = self.counter_files.accept(descriptor, hello)
        elif hello.counter_file == counter_layout.VERSION and (hello.session is not None or hello.group is not None):
            file = self.counter_files.open_named(hello)
        else:
            return None, None
        return file, Refusal.BAD_COUNTER_FILE if file is None else None

    def read_counters(self, session: Session) -> None:
        """Merge what all workers of the session have counted by now."""
        for producer, snapshot in self.counter_files.snapshots(session.id):
            session.counted(producer, snapshot)
        session.flush()

    def read_counter(self, session: Session, producer: str) -> None:
        """Merge what one worker has counted by now."""
        snapshot = self.counter_files.snapshot(session.id, producer)
        if snapshot is not None:
            session.counted(producer, snapshot)

    # --- steps -----------------------------------------------------------------------------------------------------

    def _owner_exited(self, session_id: str, pid: int) -> None:
        self.run(self.table.open[session_id].owner_exited(pid, monotonic()))
        self.wake()

    def _worker_exited(self, session_id: str, producer: str) -> None:
        session = self.table.open[session_id]
        self.read_counter(session, producer)
        self.run(session.worker_exited(producer, monotonic()))
        self.wake()
