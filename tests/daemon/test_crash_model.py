"""A session against a plain model: workers that come, count, say, leave and die, while daemons are killed, come again,
write their journals anew, and merge the accounts of those that are gone for good. Whatever happens, nothing is lost
and nothing counts twice; and what a session sends once is one body, whoever says it again.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from brakit_sidecar.core import payload
from brakit_sidecar.core.counter_snapshot import CounterSnapshot
from brakit_sidecar.core.frames import Hello, parse
from brakit_sidecar.core.schema import SESSION
from brakit_sidecar.daemon import records, sessions
from brakit_sidecar.daemon.counter_files import Origin
from brakit_sidecar.daemon.journal_replay import recovered
from brakit_sidecar.daemon.sessions import Sessions
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from brakit_sidecar.daemon.session import Session

BOOT = "this boot"
COMPACT_AFTER = 2  # so that few are many
ROUTES = ["a" * 16, "b" * 16]


class DaemonKilled(Exception):
    """In the middle of something."""


class File:
    """A worker's memory: its file lives as long as it has a name, and its worker as long as it says."""

    def __init__(self, session: str, step: Callable[[], None]) -> None:
        self._step = step
        self.origin = Origin(1, session, None, 0, is_retired=False)
        self.is_in_use = True
        self.has_name = True
        self.counts: Counter[str] = Counter()
        self.rows: dict[str, tuple[int, ...]] = {}

    def read(self) -> CounterSnapshot:
        return CounterSnapshot(dict(self.counts), dict(self.rows))

    def let_go(self) -> None:
        pass

    def close(self) -> None:
        pass

    def retire(self) -> None:
        self._step()
        self.origin = self.origin._replace(is_retired=True)
        self.has_name = False


class Worker:
    """What it has said and counted in all its life; a raw one says its totals, another counts in its memory."""

    def __init__(self, pid: int, file: File | None) -> None:
        self.pid = pid
        self.file = file
        self.totals: Counter[str] = Counter()
        self.durations: Counter[str] = Counter()
        self.marks: set[str] = set()
        self.has_requests = False  # and has said so
        self.is_alive = True


class Killed(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.few = mock.patch.object(sessions, "COMPACT_AFTER", COMPACT_AFTER)
        self.few.start()
        self.session_id = new_id()
        self.now = 100.0
        self.journal: list[dict[str, Any]] = []
        self.workers: dict[str, Worker] = {}
        self.first_requests: set[str] = set()  # the bodies that a daemon was about to send
        self.daemon: Sessions | None = None
        self.writes_left: int | None = None  # until it is killed; None where it lives on

    def teardown(self) -> None:
        self.few.stop()

    # --- the daemon ------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.daemon = self._new_daemon()
        self._owner_comes()

    @precondition(lambda self: self.daemon)
    @rule()
    def the_daemon_is_killed(self) -> None:
        self.daemon = None

    @precondition(lambda self: not self.daemon)
    @rule()
    def a_daemon_comes(self) -> None:
        self.now += 1
        found, events = recovered(self.session_id, self.journal, self.now, BOOT, api_key="")
        assert found is not None
        self.daemon = self._new_daemon()
        self.daemon.take_up(found)
        self.journal = [*map(_written, records.whole(found, self.now))]
        for event in events:
            self._sends(event.uuid, event.distinct_id, event.body.decode())
        for producer, worker in self.workers.items():
            file = worker.file
            if file is not None and file.has_name:
                adopted = self.daemon.adopt(producer, file, self.now, is_alive=file.is_in_use)
                if adopted is None:
                    file.retire()
        self._owner_comes()
        for producer, worker in self.workers.items():
            if worker.is_alive:
                self._comes(producer)

    @precondition(lambda self: self.daemon)
    @rule()
    def the_journal_is_written_anew(self) -> None:
        self.journal = [*map(_written, records.whole(self.session, self.now))]

    @precondition(lambda self: self.daemon)
    @rule()
    def a_snapshot_is_taken(self) -> None:
        assert self.daemon
        self.daemon.snapshot(self.session)

    # --- the workers -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.daemon)
    @rule(counts_in_memory=st.booleans())
    def a_worker_comes(self, counts_in_memory: bool) -> None:
        producer = new_id()
        pid = 1000 + len(self.workers)
        self.workers[producer] = Worker(pid, File(self.session_id, self._step) if counts_in_memory else None)
        self._comes(producer)

    @precondition(lambda self: self._living())
    @rule(data=st.data(), count=st.integers(1, 9), field=st.sampled_from(["request_count", "insight_count"]))
    def one_counts(self, data: st.DataObject, count: int, field: str) -> None:
        """Without a word, where it has a memory; a raw one is answered, so that it is heard for good."""
        self._counts(self._one_of(data)[0], field, count)

    def _counts(self, producer: str, field: str, count: int) -> None:
        worker = self.workers[producer]
        if worker.file is None and self.daemon is None:
            return
        worker.totals[field] += count
        if worker.file is not None:
            worker.file.counts[field] += count
        else:
            self._says(producer, incr={field: count})

    @precondition(lambda self: self._living())
    @rule(data=st.data(), route=st.sampled_from(ROUTES))
    def one_serves(self, data: st.DataObject, route: str) -> None:
        producer, worker = self._one_of(data)
        if worker.file is None and self.daemon is None:
            return
        worker.durations[route] += 1
        if worker.file is not None:
            number = worker.durations[route]
            worker.file.rows[route] = (number * 7_000_000, number, 0, 0, 0, 0, 0)
        else:
            self._says(producer, observe={route: [7]})

    @precondition(lambda self: self.daemon and self._living())
    @rule(data=st.data(), mark=st.sampled_from(["c" * 16, "d" * 16, "e" * 16]))
    def one_marks(self, data: st.DataObject, mark: str) -> None:
        producer, worker = self._one_of(data)
        worker.marks.add(mark)
        self._says(producer, mark={"insight_count": [mark]})

    @precondition(lambda self: self._living())
    @rule(data=st.data(), writes=st.none() | st.integers(0, 3))
    def one_has_its_first_request(self, data: st.DataObject, writes: int | None) -> None:
        """The daemon may be killed before it hears of that, and amid it."""
        producer, worker = self._one_of(data)
        worker.has_requests = True
        self.now += 1
        self.writes_left = writes
        try:
            if self.daemon is not None:
                self._says(producer, event={"name": "first_request", "port": len(self.workers)})
        except DaemonKilled:
            self.daemon = None
        self.writes_left = None

    @precondition(lambda self: self._living())
    @rule(data=st.data(), goodbye=st.booleans(), writes=st.none() | st.integers(0, 8))
    def one_dies(self, data: st.DataObject, goodbye: bool, writes: int | None) -> None:
        """And maybe the daemon with it, after so many records."""
        self._dies(self._one_of(data)[0], goodbye=goodbye, writes=writes)

    @precondition(lambda self: self.daemon)
    @rule(number=st.integers(1, 4), counts_in_memory=st.booleans(), writes=st.none() | st.integers(0, 12))
    def some_come_count_and_die(self, number: int, counts_in_memory: bool, writes: int | None) -> None:
        """As a server's workers do that are replaced after so many requests."""
        for left in reversed(range(number)):
            self.a_worker_comes(counts_in_memory)
            producer = [*self.workers][-1]
            self._counts(producer, "request_count", 1)
            self._dies(producer, goodbye=True, writes=None if left else writes)

    def _dies(self, producer: str, *, goodbye: bool, writes: int | None) -> None:
        worker = self.workers[producer]
        worker.is_alive = False
        if self.daemon is not None:
            self._leaves(producer, goodbye=goodbye, writes=writes)
        if worker.file is not None:
            self._counts(producer, "request_count", 1)  # as handlers may that run at its exit after ours
            worker.file.is_in_use = False

    def _leaves(self, producer: str, *, goodbye: bool, writes: int | None) -> None:
        assert self.daemon
        self.writes_left = writes
        try:
            if goodbye:
                self.daemon.part(self.session, producer, "clean", self.now)
            self.daemon.leave(self.session, producer, self.now)
            for memory in self.daemon.merge_departed(lambda: True).values():
                memory.retire()
        except DaemonKilled:
            self.daemon = None
        self.writes_left = None

    @precondition(lambda self: self.daemon and self._living())
    @rule(data=st.data())
    def one_is_hung_up_on_and_comes_back(self, data: st.DataObject) -> None:
        assert self.daemon
        producer, worker = self._one_of(data)
        if worker.file is not None:
            self.daemon.hang_up(self.session, producer)
            self.daemon.leave(self.session, producer, self.now)
            assert producer in self.session.awaited
            self._comes(producer)

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def the_session_is_the_sum_of_all_its_workers(self) -> None:
        if self.daemon is None:
            return
        self.session.gather()
        found = self.session.state.report(SESSION, {}, {})
        everyone = self.workers.values()
        marks = {mark for worker in everyone for mark in worker.marks}
        assert found["request_count"] == sum(worker.totals["request_count"] for worker in everyone)
        assert found["insight_count"] == sum(worker.totals["insight_count"] for worker in everyone) + len(marks)
        assert found["endpoint_count"] == len({route for worker in everyone for route in worker.durations})
        rows = self.session.state.total("endpoint_count"), found["avg_duration_ms"]
        assert rows[1] == (7 if rows[0] else 0)

    @invariant()
    def the_first_request_is_one_body_as_soon_as_one_who_lives_has_said_it(self) -> None:
        assert len(self.first_requests) <= 1
        if self.daemon is not None and any(self.workers[producer].has_requests for producer in self._living()):
            (body,) = self.first_requests
            took = json.loads(body)["properties"]["time_to_first_request_ms"]
            assert took == self.session.state.total("time_to_first_request_ms")

    @invariant()
    def who_lives_is_live_and_the_others_are_not(self) -> None:
        if self.daemon is not None:
            assert self.session.live_producers == {p for p, worker in self.workers.items() if worker.is_alive}

    # --- how ---------------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        assert self.daemon
        (session,) = self.daemon.open.values()
        return session

    def _new_daemon(self) -> Sessions:
        return Sessions(keep=self._keep, boot=BOOT, exists=self._exists)

    def _keep(self, _session: Session, news: list[dict[str, Any]]) -> None:
        for record in news:
            self._step()
            self.journal.append(_written(record))

    def _step(self) -> None:
        """Before each change of a file."""
        if self.writes_left == 0:
            raise DaemonKilled
        if self.writes_left is not None:
            self.writes_left -= 1

    def _exists(self, pid: int) -> bool:
        return any(worker.pid == pid and worker.is_alive for worker in self.workers.values())

    def _living(self) -> list[str]:
        return [producer for producer, worker in self.workers.items() if worker.is_alive]

    def _one_of(self, data: st.DataObject) -> tuple[str, Worker]:
        number = data.draw(st.integers(0, len(self._living()) - 1))
        producer = self._living()[number]
        return producer, self.workers[producer]

    def _owner_comes(self) -> None:
        assert self.daemon
        assert self.daemon.join(Hello(self.session_id, None, "the owner", "python", True), "the owner", self.now)

    def _comes(self, producer: str) -> None:
        """It says everything again, but its increments."""
        assert self.daemon
        worker = self.workers[producer]
        hello = Hello(self.session_id, None, producer, "python", False)
        assert self.daemon.join(hello, producer, self.now, worker.file, worker.pid)
        if worker.marks:
            self._says(producer, mark={"insight_count": sorted(worker.marks)})
        if worker.has_requests:
            self._says(producer, event={"name": "first_request", "port": 0})

    def _says(self, producer: str, **said: Any) -> None:
        assert self.daemon
        occurred, _refused = self.daemon.say(self.session, producer, parse(json.dumps(said).encode()), self.now)
        for event, fields in occurred:
            uuid, distinct_id = payload.event_uuid(self.session_id, event), new_id()
            values = self.session.state.report(event, fields, {})
            body = payload.body(
                event, values, api_key="", distinct_id=distinct_id, uuid=uuid, timestamp="2026-11-22T14:08:28.998Z"
            )
            self._step()
            self._sends(uuid, distinct_id, body.decode())
        self.daemon.settle(self.session, producer)

    def _sends(self, uuid: str, distinct_id: str, body: str) -> None:
        """It is frozen first; whether it gets through, and has its receipt, nobody knows."""
        self.journal.append({"frozen": ["first_request", uuid, distinct_id, body]})
        self.first_requests.add(body)


_written = partial(lambda record: json.loads(json.dumps(record)))

Killed.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestKilled = Killed.TestCase
