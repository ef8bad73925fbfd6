"""Compares a session with a plain model of its workers, while daemons are killed.

Workers connect, count, report, disconnect and die. Daemons are killed between two writes. The next daemon rewrites the
journal and compacts workers. In any order of these steps, no count is lost, and no count counts twice. A once-only
event has one body, even if several workers report it.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest import mock

from brakit_sidecar.core import payload
from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from brakit_sidecar.core.frames import Hello, parse
from brakit_sidecar.core.schema import SESSION
from brakit_sidecar.core.session import session as session_module
from brakit_sidecar.core.session.effects import Close, Effect, Emit, Journal, Release
from brakit_sidecar.core.session.replay import replay
from brakit_sidecar.core.session.table import Opening, SessionTable
from brakit_sidecar.core.session.terms import Terms
from brakit_sidecar.core.session.worker import Phase
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.harness import new_id

if TYPE_CHECKING:
    from brakit_sidecar.core.session.member import Member
    from brakit_sidecar.core.session.session import Session

BOOT = "this boot"
COMPACT_AFTER = 2  # so that few workers are enough for a compaction
ROUTES = ["a" * 16, "b" * 16]


class DaemonKilled(Exception):
    """The daemon was killed between two writes."""


class File:
    """A worker's counter file. The next daemon can find the file as long as the file has a name."""

    def __init__(self) -> None:
        self.has_name = True
        self.is_retired = False
        self.counts: Counter[str] = Counter()
        self.rows: dict[str, tuple[int, ...]] = {}

    def read(self) -> CounterSnapshot:
        return CounterSnapshot(dict(self.counts), dict(self.rows))


class Worker:
    """All that a worker has reported and counted so far. A worker without a file sends increments as lines."""

    def __init__(self, pid: int, file: File | None) -> None:
        self.pid = pid
        self.file = file
        self.totals: Counter[str] = Counter()
        self.durations: Counter[str] = Counter()
        self.marks: set[str] = set()
        self.has_requests = False  # True once it has reported its first request
        self.is_alive = True


class Killed(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.few = mock.patch.object(session_module, "COMPACT_AFTER", COMPACT_AFTER)
        self.few.start()
        self.session_id = new_id()
        self.now = 100.0
        self.journal: list[dict[str, Any]] = []
        self.workers: dict[str, Worker] = {}
        self.first_requests: set[str] = set()  # the bodies of the event that daemons were about to send
        self.table: SessionTable | None = None  # the running daemon's table; None if no daemon runs
        self.members: dict[str, Member] = {}
        self.attached: set[str] = set()  # producers whose counter files the running daemon reads
        self.writes_left: int | None = None  # writes until the daemon is killed; None if it is not killed

    def teardown(self) -> None:
        self.few.stop()

    # --- the daemon ------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.table = SessionTable(BOOT)
        self._owner_connects()

    @precondition(lambda self: self.table)
    @rule()
    def the_daemon_is_killed(self) -> None:
        self._kill()

    def _kill(self) -> None:
        self.table = None
        self.members.clear()
        self.attached.clear()

    @precondition(lambda self: not self.table)
    @rule()
    def a_daemon_starts(self) -> None:
        self.now += 1
        self.table = SessionTable(BOOT)
        fresh = self.table.new_session(self.session_id, Opening(0.0, Terms(None)))
        found, events, foreign = replay(fresh, self.journal, self.now, BOOT, destination="", api_key="")
        assert found is not None
        assert not foreign
        self.table.take_up(found)
        self._rewrite()
        for event in events:
            self._freeze(event.uuid, event.distinct_id, event.body.decode())
        for producer, worker in self.workers.items():
            if worker.file is not None and worker.file.has_name:
                self._find(producer, worker, worker.file)
        self._owner_connects()
        for producer in self._living():
            self._connect(producer)

    def _find(self, producer: str, worker: Worker, file: File) -> None:
        assert self.table
        named = None if file.is_retired else self.session_id
        session, effects = self.table.session_of_worker(producer, named, None, Opening(self.now, Terms(None), new_id()))
        self._run(effects)
        known = None if session is None else session.workers.get(producer)
        if session is None or (known is not None and known.phase is Phase.COMPACTED):
            file.is_retired, file.has_name = True, False
            return
        self.attached.add(producer)
        self._run(session.found(producer, file.read(), self.now, worker.pid, is_alive=worker.is_alive))

    @precondition(lambda self: self.table)
    @rule()
    def the_journal_is_rewritten(self) -> None:
        self._rewrite()

    def _rewrite(self) -> None:
        self.journal = json.loads(json.dumps(self.session.whole(self.now)))

    @precondition(lambda self: self.table)
    @rule()
    def a_snapshot_is_journaled(self) -> None:
        self._read_counters()
        self._run(self.session.journal_changes())

    # --- the workers -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.table)
    @rule(has_file=st.booleans())
    def a_worker_starts(self, has_file: bool) -> None:
        producer = new_id()
        self.workers[producer] = Worker(1000 + len(self.workers), File() if has_file else None)
        self._connect(producer)

    @precondition(lambda self: self._living())
    @rule(data=st.data(), count=st.integers(1, 9), field=st.sampled_from(["request_count", "insight_count"]))
    def a_worker_counts(self, data: st.DataObject, count: int, field: str) -> None:
        """Count in the counter file, or send a line that the daemon journals before its answer."""
        self._count(self._one_of(data)[0], field, count)

    def _count(self, producer: str, field: str, count: int) -> None:
        worker = self.workers[producer]
        if worker.file is None and self.table is None:
            return
        worker.totals[field] += count
        if worker.file is not None:
            worker.file.counts[field] += count
        else:
            self._send(producer, incr={field: count})

    @precondition(lambda self: self._living())
    @rule(data=st.data(), route=st.sampled_from(ROUTES))
    def a_worker_serves_a_route(self, data: st.DataObject, route: str) -> None:
        producer, worker = self._one_of(data)
        if worker.file is None and self.table is None:
            return
        worker.durations[route] += 1
        if worker.file is not None:
            number = worker.durations[route]
            worker.file.rows[route] = (number * 7_000_000, number, 0, 0, 0, 0, 0)
        else:
            self._send(producer, observe={route: [7]})

    @precondition(lambda self: self.table and self._living())
    @rule(data=st.data(), mark=st.sampled_from(["c" * 16, "d" * 16, "e" * 16]))
    def a_worker_marks(self, data: st.DataObject, mark: str) -> None:
        producer, worker = self._one_of(data)
        worker.marks.add(mark)
        self._send(producer, mark={"insight_count": [mark]})

    @precondition(lambda self: self._living())
    @rule(data=st.data(), writes=st.none() | st.integers(0, 3))
    def a_worker_has_its_first_request(self, data: st.DataObject, writes: int | None) -> None:
        """Let a worker report its first request. The daemon may be killed before any of its writes."""
        producer, worker = self._one_of(data)
        worker.has_requests = True
        self.now += 1
        self.writes_left = writes
        try:
            if self.table is not None:
                self._send(producer, event={"name": "first_request", "port": len(self.workers)})
        except DaemonKilled:
            self._kill()
        self.writes_left = None

    @precondition(lambda self: self._living())
    @rule(data=st.data(), reports_end=st.booleans(), writes=st.none() | st.integers(0, 8))
    def a_worker_exits(self, data: st.DataObject, reports_end: bool, writes: int | None) -> None:
        """Let a worker exit. The daemon may be killed meanwhile, after the given number of writes."""
        self._exit(self._one_of(data)[0], reports_end=reports_end, writes=writes)

    @precondition(lambda self: self.table)
    @rule(number=st.integers(1, 4), has_file=st.booleans(), writes=st.none() | st.integers(0, 12))
    def workers_start_count_and_exit(self, number: int, has_file: bool, writes: int | None) -> None:
        """Let workers start, count and exit, as in a server that replaces each worker after some requests."""
        for left in reversed(range(number)):
            self.a_worker_starts(has_file)
            producer = [*self.workers][-1]
            self._count(producer, "request_count", 1)
            self._exit(producer, reports_end=True, writes=None if left else writes)

    def _exit(self, producer: str, *, reports_end: bool, writes: int | None) -> None:
        worker = self.workers[producer]
        if self.table is not None:
            self._leave(producer, reports_end=reports_end, writes=writes)
        if worker.file is not None:
            self._count(producer, "request_count", 1)  # exit handlers that run after ours may still count
        worker.is_alive = False
        if self.table is not None:
            self.writes_left = writes
            try:
                self._compact()
            except DaemonKilled:
                self._kill()
            self.writes_left = None

    def _leave(self, producer: str, *, reports_end: bool, writes: int | None) -> None:
        self.writes_left = writes
        try:
            if reports_end:
                self._send(producer, end={"exit_reason": "clean"})
            self._disconnect(producer)
        except DaemonKilled:
            self._kill()
        self.writes_left = None

    def _compact(self) -> None:
        assert self.table
        for session, workers in self.table.to_compact():
            exited = [worker for worker in workers if not self.workers[worker.id].is_alive]
            self._read_counters()
            self._run(session.compact(exited))

    @precondition(lambda self: self.table and self._living())
    @rule(data=st.data())
    def a_worker_is_evicted_and_reconnects(self, data: st.DataObject) -> None:
        producer, worker = self._one_of(data)
        if worker.file is not None:
            self._disconnect(producer, is_evicted=True)
            assert self.session.workers[producer].phase is Phase.RECONNECTING
            self._connect(producer)

    # --- invariants --------------------------------------------------------------------------------------------------

    @invariant()
    def the_session_is_the_sum_of_all_its_workers(self) -> None:
        if self.table is None:
            return
        self._read_counters()
        found = self.session.totals.report(SESSION, {}, {})
        workers = self.workers.values()
        marks = {mark for worker in workers for mark in worker.marks}
        assert found["request_count"] == sum(worker.totals["request_count"] for worker in workers)
        assert found["insight_count"] == sum(worker.totals["insight_count"] for worker in workers) + len(marks)
        assert found["endpoint_count"] == len({route for worker in workers for route in worker.durations})
        assert found["avg_duration_ms"] == (7 if found["endpoint_count"] else 0)

    @invariant()
    def the_first_request_is_one_body_once_a_live_worker_has_reported_it(self) -> None:
        assert len(self.first_requests) <= 1
        if self.table is not None and any(self.workers[producer].has_requests for producer in self._living()):
            (body,) = self.first_requests
            took = json.loads(body)["properties"]["time_to_first_request_ms"]
            assert took == self.session.totals.total("time_to_first_request_ms")

    @invariant()
    def live_workers_are_those_whose_processes_live(self) -> None:
        if self.table is not None:
            live = {worker.id for worker in self.session.workers.values() if worker.is_live}
            assert live == {*self._living()}

    # --- helpers -----------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        assert self.table
        (session,) = self.table.open.values()
        return session

    def _run(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Journal):
                for record in effect.records:
                    self._step()
                    self.journal.append(json.loads(json.dumps(record)))
            elif isinstance(effect, Emit):
                uuid, distinct_id = payload.event_uuid(self.session_id, effect.event), new_id()
                body = payload.body(
                    effect.event,
                    effect.values,
                    api_key="",
                    distinct_id=distinct_id,
                    uuid=uuid,
                    timestamp="2026-11-22T14:08:28.998Z",
                )
                self._step()
                self._freeze(uuid, distinct_id, body.decode())
            elif isinstance(effect, Release):
                self._step()
                self.attached.discard(effect.producer)
                file = self.workers[effect.producer].file
                if file is not None:
                    file.is_retired, file.has_name = True, False
            assert not isinstance(effect, Close)

    def _step(self) -> None:
        """Kill the daemon before it changes a file, if it has no writes left."""
        if self.writes_left == 0:
            raise DaemonKilled
        if self.writes_left is not None:
            self.writes_left -= 1

    def _living(self) -> list[str]:
        return [producer for producer, worker in self.workers.items() if worker.is_alive]

    def _one_of(self, data: st.DataObject) -> tuple[str, Worker]:
        number = data.draw(st.integers(0, len(self._living()) - 1))
        producer = self._living()[number]
        return producer, self.workers[producer]

    def _read_counters(self) -> None:
        for producer in self.attached:
            self._read_counter(producer)
        self.session.flush()

    def _read_counter(self, producer: str) -> None:
        file = self.workers[producer].file
        assert file is not None
        self.session.counted(producer, file.read())

    def _owner_connects(self) -> None:
        assert self.table
        hello = Hello(self.session_id, None, "the owner", "python", True)
        member, effects = self.table.hello(hello, Opening(self.now, Terms(None)))
        assert member is not None
        self._run(effects)

    def _connect(self, producer: str) -> None:
        """Connect and report everything again, except increments."""
        assert self.table
        worker = self.workers[producer]
        hello = Hello(self.session_id, None, producer, "python", False)
        member, effects = self.table.hello(hello, Opening(self.now, Terms(None)), worker.pid)
        assert member is not None
        self._run(effects)
        self.members[producer] = member
        if worker.file is not None:
            self.attached.add(producer)
        if worker.marks:
            self._send(producer, mark={"insight_count": sorted(worker.marks)})
        if worker.has_requests:
            self._send(producer, event={"name": "first_request", "port": 0})

    def _disconnect(self, producer: str, *, is_evicted: bool = False) -> None:
        if producer in self.attached:
            self._read_counter(producer)
        self._run(self.session.disconnect(self.members.pop(producer), self.now, is_evicted=is_evicted))

    def _send(self, producer: str, **keys: Any) -> None:
        member = self.members[producer]
        _refused, effects = self.session.receive(member, parse(json.dumps(keys).encode()), self.now)
        self._run(effects)
        self._run(self.session.journal_member(member))

    def _freeze(self, uuid: str, distinct_id: str, body: str) -> None:
        """Journal the body of an event, which may or may not have been sent before the daemon is killed."""
        self.journal.append({"frozen": ["first_request", uuid, distinct_id, body, "", 7]})
        self.first_requests.add(body)


Killed.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestKilled = Killed.TestCase
