"""One session while it is open. Every stimulus is a method that returns the effects which the daemon must carry out.

A session with an owner ends when the owner reports the end. If the owner is lost, the session ends when the owner's
process has exited or the grace period is over. A session without an owner ends when the grace period after its last
worker is over. A session that ends is first *ending*: its live workers may still report.

A journal record comes before the effects that it explains, so that the next daemon knows what this daemon did.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ..frames import Frame
from ..schema import SESSION
from . import records
from .effects import Emit, Journal, Release, UnwatchWorker, WatchOwner, WatchWorker
from .member import Member
from .owner import Owner
from .records import COMMANDS, NOT_PRODUCERS, NS_PER_S
from .terms import Terms
from .timing import USUAL_TIMING
from .totals import COMPACTED, SessionTotals
from .worker import Phase, Stimulus, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..counter_snapshot import CounterSnapshot
    from ..frames import Hello, Occurred
    from ..outbox import Reason
    from ..refusal import Refusal
    from .effects import Effect
    from .records import Record
    from .timing import Timing

UNKNOWN_TERMS = Terms(None)  # nothing is sent under these
COMPACT_AFTER = 64  # workers that left; a worker's totals take up to 200 KiB, and each reload adds a worker
# Four times the largest session that the benchmarks measure. A usual producer takes 14 KiB, so 56 MiB; one that fills
# its counter file takes 300 KiB. Compacted workers do not count, so a session may have any number one after another.
MAX_PRODUCERS = 4096


class Ending(NamedTuple):
    """The end of a session. Live workers may report their own end until ``seal_by``. Times are monotonic seconds."""

    exit_reason: str
    ended_at: float  # the end of the session's duration
    seal_by: float


class Session:
    """One run of an application."""

    def __init__(
        self,
        session_id: str,
        group: str | None,
        now: float,
        boot: str,
        *,
        terms: Terms = UNKNOWN_TERMS,
        timing: Timing = USUAL_TIMING,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        """``own``: the fields that only the daemon knows."""
        self.id = session_id
        self.group = group
        self.boot = boot  # the boot to which its times belong, because the monotonic clock starts anew at each boot
        self.terms = terms
        self.kept_local: Reason | None = None  # why its events are not sent; None if they are
        self.opened_at = now
        self.totals = SessionTotals()
        self.workers: dict[str, Worker] = {}
        self.members: set[Member] = set()  # the connections of its owner and of its workers
        self.owner = Owner()
        self.last_left: Worker | None = None
        self.ending: Ending | None = None
        self._left_since_compaction = 0
        self.timing = timing
        self._own = own or {}

    # --- stimuli ---------------------------------------------------------------------------------------------------

    def own_by_process(self, pid: int) -> list[Effect]:
        """Note that the process ``pid`` owns the session without a connection."""
        self.owner.pid = pid
        return [Journal(self.id, [self._opened()]), WatchOwner(self.id, pid)]

    def hello(self, hello: Hello, now: float, pid: int = 0) -> tuple[Member | None, list[Effect]]:
        """Join a connection. The member is None if the worker was compacted, because its process has then exited."""
        producer = hello.producer
        assert producer is not None  # a hello that names a session or a group names its producer
        effects: list[Effect] = []
        worker = None
        if hello.is_owner:
            self.owner.connect()
            if pid:
                effects.append(WatchOwner(self.id, pid))
        else:
            worker = self._worker(producer)
            if worker.phase is Phase.COMPACTED:
                return None, []
            if worker.connections == 0 and worker.is_present:  # its process was watched
                effects.append(UnwatchWorker(self.id, producer))
            worker.apply(Stimulus.HELLO)
            worker.connections += 1
            worker.exit_reason, worker.pid = None, pid
            self.totals.greet(producer, hello.sdk, int(now * NS_PER_S))
        totals = self.totals.producer(producer)
        member = Member(self.id, producer, totals, worker)
        self.members.add(member)
        return member, [Journal(self.id, [records.joined(totals, is_worker=worker is not None)]), *effects]

    def receive(self, member: Member, frame: Frame, now: float) -> tuple[list[Refusal], list[Effect]]:
        """Apply a frame of a member. Returns the refusals and the effects."""
        member.flush()
        refused, effects = self._apply(member.producer, frame, now)
        if frame.end is not None:
            effects += self._report_end(member, frame.end, now)
        return refused, effects

    def receive_event(self, occurred: Occurred, now: float) -> list[Effect]:
        """Apply an event that a command reports. A command is not a producer of the session."""
        frame = Frame()
        frame.events.append(occurred)
        return self._apply(COMMANDS, frame, now)[1]

    def counted(self, producer: str, snapshot: CounterSnapshot) -> None:
        """Merge the content of a producer's counter file."""
        self.totals.producer(producer).merge_snapshot(snapshot)
        worker = self.workers.get(producer)
        if snapshot.end is not None and worker is not None:
            worker.exit_reason = snapshot.end
            worker.apply(Stimulus.END)

    def disconnect(self, member: Member, now: float, *, is_evicted: bool = False) -> list[Effect]:
        """Note that a connection closed. The caller must have read all of its bytes.

        ``is_evicted`` is True if the daemon closed the connection. A worker that has not reported its end then goes on
        counting in its counter file, and may reconnect.
        """
        self.members.discard(member)
        member.flush()
        effects = self._journal_changes(member.producer)
        worker = member.worker
        if worker is None:
            over_since = self.owner.disconnect(now)
            return effects + (self.end("crash", over_since, now) if over_since is not None else [])
        worker.connections -= 1
        if worker.connections or worker.phase not in (Phase.CONNECTED, Phase.FINISHED):
            return effects
        if is_evicted and worker.phase is Phase.CONNECTED:
            worker.apply(Stimulus.EVICT)
            return [*effects, WatchWorker(self.id, worker.id, worker.pid, are_descriptors_short=True)]
        worker.apply(Stimulus.DISCONNECT)
        return effects + self._left(worker, now)

    def found(self, producer: str, snapshot: CounterSnapshot, now: float, pid: int, *, is_alive: bool) -> list[Effect]:
        """Note that the counter file of a worker without a connection was found.

        ``is_alive`` is True if the worker's process is alive.
        """
        worker = self._worker(producer)
        worker.pid = pid
        worker.apply(Stimulus.FOUND_ALIVE if is_alive else Stimulus.FOUND_DEAD)
        if worker.exit_reason is not None and is_alive:
            worker.apply(Stimulus.END)
        self.counted(producer, snapshot)
        effects: list[Effect] = [Journal(self.id, [records.joined(worker.totals, is_worker=True)])]
        effects += self._journal_changes(producer)
        if is_alive:
            effects.append(WatchWorker(self.id, producer, pid))
        elif self.last_left is None and not self.members:
            effects += self._left(worker, now)
        else:  # another worker is known to have left later, or a connection may still report
            effects.append(Journal(self.id, [records.left(producer, worker.left_at)]))
        return effects

    def worker_exited(self, producer: str, now: float) -> list[Effect]:
        """Note that the process of a worker without a connection has exited."""
        worker = self.workers.get(producer)
        if worker is None or worker.connections or not worker.is_present:
            return []
        worker.apply(Stimulus.PROCESS_EXIT)
        return self._left(worker, now)

    def owner_exited(self, pid: int, now: float) -> list[Effect]:
        """Note that the process ``pid`` has exited. It owned the session, with or without a connection."""
        over_since = self.owner.process_exited(pid, now)
        return [] if over_since is None else self.end("crash", over_since, now)

    def end(self, exit_reason: str, ended_at: float, now: float, goodbye_s: float | None = None) -> list[Effect]:
        """Begin to end the session. Does nothing if it is already ending.

        Live workers may report their own end for ``goodbye_s`` seconds from ``now`` on. If ``goodbye_s`` is None, the
        session's usual goodbye time applies.
        """
        if self.ending is not None:
            return []
        wait_s = self.timing.goodbye_s if goodbye_s is None else goodbye_s
        self.ending = Ending(exit_reason, ended_at, now + wait_s)
        return [Journal(self.id, [records.ending(exit_reason, ended_at)])]

    # --- the journal -----------------------------------------------------------------------------------------------

    def journal_changes(self) -> list[Effect]:
        """Journal the counts of all producers that are not journaled yet."""
        self.flush()
        return [effect for producer in self.totals.producers for effect in self._journal_changes(producer)]

    def journal_member(self, member: Member) -> list[Effect]:
        """Journal the member's reports before the member gets an answer.

        The answer acknowledges all of these reports.
        """
        member.flush()
        return self._journal_changes(member.producer)

    def whole(self, now: float) -> list[Record]:
        """Return records that restore the session. They replace all records that were written before."""
        lines = [self._opened(), *map(records.occurred, sorted(self.totals.occurred))]
        if self.kept_local is not None:
            lines.append(records.kept_local(self.kept_local))
        for producer, totals in self.totals.producers.items():
            worker = self.workers.get(producer)
            if producer not in NOT_PRODUCERS:
                lines.append(records.joined(totals, is_worker=worker is not None))
            lines += records.whole(totals)
            if worker is not None and worker.exit_reason is not None:
                lines.append(records.end(producer, worker.exit_reason, now))
        if compacted := [worker.id for worker in self.workers.values() if worker.phase is Phase.COMPACTED]:
            lines.append(records.compacted(compacted))
        gone = [
            worker for worker in self.workers.values() if worker.phase is Phase.GONE and worker is not self.last_left
        ]
        lines += [records.left(worker.id, worker.left_at) for worker in gone]
        if self.last_left is not None and self.last_left.phase is Phase.GONE:  # the worker that left last comes last
            lines.append(records.left(self.last_left.id, self.last_left.left_at))
        if self.ending is not None:
            lines.append(records.ending(self.ending.exit_reason, self.ending.ended_at))
        return lines

    # --- compaction ------------------------------------------------------------------------------------------------

    def compactable(self) -> list[Worker]:
        """Return the workers that may be compacted. The list is empty until COMPACT_AFTER more workers have left.

        The worker that left last is not in the list, because its exit reason is still needed. Every other worker that
        left may be compacted after its process has exited and all that the process wrote is read.
        """
        if self._left_since_compaction < COMPACT_AFTER:
            return []
        self._left_since_compaction = 0
        return [
            worker for worker in self.workers.values() if worker.phase is Phase.GONE and worker is not self.last_left
        ]

    def compact(self, workers: Iterable[Worker]) -> list[Effect]:
        """Replace the totals of these workers by one sum, to save memory. Skips workers that have reconnected."""
        gone = [worker for worker in workers if worker.phase is Phase.GONE and worker is not self.last_left]
        if not gone:
            return []
        # All records are in one append. A journal that is rewritten between the changes and the compaction would
        # otherwise count the changes twice.
        journaled = [record for worker in gone for record in records.changed(worker.totals)]
        journaled.append(records.compacted(worker.id for worker in gone))
        self.totals.compact(worker.id for worker in gone)
        for worker in gone:
            worker.apply(Stimulus.COMPACT)
            worker.totals = self.totals.producer(COMPACTED)
        return [Journal(self.id, journaled), *(Release(self.id, worker.id) for worker in gone)]

    def keep_local(self, reason: Reason) -> list[Effect]:
        """Keep every later event of the session on this machine. The first reason stays."""
        if self.kept_local is not None:
            return []
        self.kept_local = reason
        return [Journal(self.id, [records.kept_local(reason)])]

    # --- time ------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Effect]:
        """Begin to end the session if its grace period is over."""
        due = self.due()
        if self.ending is not None or due is None or due > now:
            return []
        if self.owner.lost_at is not None:
            return self.end("crash", self.owner.lost_at, now)
        if self.last_left is None:
            return self.end("unknown", now, now)
        assert self.last_left.left_at is not None  # the time is known for the worker that left last
        return self.end(self.last_left.exit_reason or "crash", self.last_left.left_at, now)

    def due(self) -> float | None:
        """Return the monotonic time in seconds at which to call ``advance`` next if nothing happens."""
        if self.ending is not None:
            return self.ending.seal_by
        if self.owner.exists:
            return None
        if self.owner.lost_at is not None:
            return self.owner.lost_at + self.timing.grace_s
        if self.members or any(worker.is_present for worker in self.workers.values()):
            return None
        if self.last_left is None or self.last_left.left_at is None:
            return self.opened_at + self.timing.unjoined_s
        return self.last_left.left_at + self.timing.grace_s

    def may_be_sealed(self, now: float) -> bool:
        """Return True if the session has ended, and its goodbye time is over or none of its workers is live."""
        return self.ending is not None and (self.ending.seal_by <= now or not self.has_live_workers)

    def stop_waiting(self) -> None:
        """End the goodbye time now."""
        if self.ending is not None:
            self.ending = self.ending._replace(seal_by=self.ending.ended_at)

    # --- what it holds ---------------------------------------------------------------------------------------------

    @property
    def has_live_workers(self) -> bool:
        """Return True if a worker may still send reports."""
        return any(worker.is_live for worker in self.workers.values())

    def has_room_for(self, producer: str) -> bool:
        """Return True if the session knows the producer, or has room for one more."""
        known = producer in self.workers or producer in self.totals.producers
        return known or len(self.totals.producers) < MAX_PRODUCERS

    def age_s(self, now: float) -> float:
        """Return how long the session has lasted, in seconds."""
        return (self.ending.ended_at if self.ending else now) - self.opened_at

    def flush(self) -> None:
        """Add the increments of all connections to the producers' totals."""
        for member in self.members:
            member.flush()

    def report(self, now: float) -> Emit:
        """Return the session event. All fields have their current values except ``first_session``, which is False."""
        self.flush()
        own = {
            **self._own,
            "first_session": False,
            "session_duration_s": math.ceil(self.age_s(now)),
            "exit_reason": self.ending.exit_reason if self.ending else "unknown",
        }
        values = self.totals.report(SESSION, {}, own)
        return Emit(self.id, SESSION, values, self.terms, self.kept_local, workers=len(self.workers))

    # --- steps of several stimuli ----------------------------------------------------------------------------------

    def _worker(self, producer: str) -> Worker:
        worker = self.workers.get(producer)
        if worker is None:
            worker = self.workers[producer] = Worker(producer, self.totals.producer(producer))
        return worker

    def _apply(self, producer: str, frame: Frame, now: float) -> tuple[list[Refusal], list[Effect]]:
        elapsed_ms = int((now - self.opened_at) * 1000)
        to_send, refused = self.totals.apply(producer, frame, int(now * NS_PER_S), elapsed_ms)
        effects: list[Effect] = []
        if frame.scalars or frame.members or frame.marks or frame.events:  # counts are journaled by journal_changes
            effects = self._journal_changes(producer)
        for event, fields in to_send:
            values = self.totals.report(event, fields, self._own)
            effects.append(Emit(self.id, event, values, self.terms, self.kept_local))
        return refused, effects

    def _report_end(self, member: Member, exit_reason: str, now: float) -> list[Effect]:
        effects: list[Effect] = [Journal(self.id, [records.end(member.producer, exit_reason, now)])]
        if member.worker is None:
            return effects + self.end(exit_reason, now, now)
        member.worker.exit_reason = exit_reason
        member.worker.apply(Stimulus.END)
        return effects

    def _left(self, worker: Worker, now: float) -> list[Effect]:
        worker.left_at = now
        self.last_left = worker
        self._left_since_compaction += 1
        return [Journal(self.id, [records.left(worker.id, now)])]

    def _journal_changes(self, producer: str) -> list[Effect]:
        changed = records.changed(self.totals.producer(producer))
        return [Journal(self.id, changed)] if changed else []

    def _opened(self) -> Record:
        return records.opened(self.opened_at, self.boot, self.group, self.owner.pid, self.terms)
