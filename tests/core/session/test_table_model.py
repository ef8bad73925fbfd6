"""Compares the table of sessions with a plain model after each tick, in any order of hellos, ends and exits."""

from __future__ import annotations

from brakit_sidecar.core.session.timing import USUAL_TIMING
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core.session.story import Story, hello
from tests.harness import new_id

TICK_S = 0.25  # exact in binary; the grace and goodbye times are whole ticks
CONNECTIONS = ["1", "2", "3", "4"]
PRODUCERS = ["p", "q"]


class ModelSession:
    """One session as the contract describes it. The model counts ticks and computes no due times."""

    def __init__(self) -> None:
        self.age = 0
        self.members: dict[str, tuple[str, bool]] = {}  # connection: producer, is_owner
        self.ends: dict[str, str] = {}
        self.ever_joined = False
        self.owner_lost_for: int | None = None
        self.owner_dead = False
        self.last_left: str | None = None
        self.empty_for = 0  # ticks since the last worker left
        self.ending: str | None = None
        self.ended_at = 0
        self.ending_for = 0

    def owners(self) -> list[str]:
        return [connection for connection, (_, is_owner) in self.members.items() if is_owner]

    def has_live_workers(self) -> bool:
        return any(not is_owner and producer not in self.ends for producer, is_owner in self.members.values())

    def begin_end(self, reason: str, ticks_ago: int = 0) -> None:
        if self.ending is None:
            self.ending, self.ended_at, self.ending_for = reason, self.age - ticks_ago, 0

    def tick(self) -> None:
        self.age += 1
        self.ending_for += 1
        self.empty_for += 1
        if self.owner_lost_for is not None:
            self.owner_lost_for += 1

    def is_over(self) -> bool:
        grace, goodbye, unjoined = (int(seconds / TICK_S) for seconds in USUAL_TIMING)
        if self.ending is None and not self.owners():
            if self.owner_lost_for is not None:
                if self.owner_lost_for >= grace:
                    self.begin_end("crash", self.owner_lost_for)
            elif not self.members and self.last_left is not None:
                if self.empty_for >= grace:
                    self.begin_end(self.ends.get(self.last_left, "crash"), self.empty_for)
            elif not self.members and self.age >= unjoined:
                self.begin_end("unknown")
        return self.ending is not None and (self.ending_for >= goodbye or not self.has_live_workers())


class TableMachine(RuleBasedStateMachine):
    """One session at a time, with stimuli between ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story()
        self.model: ModelSession | None = None
        self.session_id = new_id()

    def free(self) -> list[str]:
        taken = self.model.members if self.model else {}
        return [connection for connection in CONNECTIONS if connection not in taken]

    @rule(producer=st.sampled_from(PRODUCERS), is_owner=st.booleans())
    def hello(self, producer: str, is_owner: bool) -> None:
        if not self.free():
            return
        connection = self.free()[0]
        producer = "the owner" if is_owner else producer
        assert self.story.connect(hello(producer, self.session_id, is_owner=is_owner), connection) is not None
        model = self.model = self.model or ModelSession()
        model.members[connection] = (producer, is_owner)
        model.ends.pop(producer, None)
        model.ever_joined = True
        if is_owner:
            model.owner_lost_for, model.owner_dead = None, False

    @precondition(lambda self: self.model is None)
    @rule()
    def a_command_opens_the_session(self) -> None:
        assert self.story.open(self.session_id) is not None
        self.model = ModelSession()

    @precondition(lambda self: self.model and self.model.members)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        assert self.model
        connection = data.draw(st.sampled_from(sorted(self.model.members)))
        self.story.close(connection)
        producer, is_owner = self.model.members.pop(connection)
        if not is_owner:
            if all(producer != other for other, _ in self.model.members.values()):
                self.model.last_left, self.model.empty_for = producer, 0
        elif not self.model.owners():
            self.model.owner_lost_for = 0
            if self.model.owner_dead:
                self.model.begin_end("crash")

    @precondition(lambda self: self.model and self.model.members)
    @rule(data=st.data(), reason=st.sampled_from(["clean", "sigint", "sigterm", "unknown"]))
    def end(self, data: st.DataObject, reason: str) -> None:
        assert self.model
        connection = data.draw(st.sampled_from(sorted(self.model.members)))
        self.story.end(connection, reason)
        producer, is_owner = self.model.members[connection]
        self.model.ends[producer] = reason
        if is_owner:
            self.model.begin_end(reason)

    @precondition(lambda self: self.model and (self.model.owners() or self.model.owner_lost_for is not None))
    @rule()
    def the_owners_process_exits(self) -> None:
        assert self.model
        self.story.run(self.story.session.owner_exited(4711, self.story.now))
        self.model.owner_dead = True
        if not self.model.owners():
            self.model.begin_end("crash", self.model.owner_lost_for or 0)

    @rule(ticks=st.sampled_from([1, 1, 1, 2, 3, 10, 20]))
    def time_passes(self, ticks: int) -> None:
        self.seal_what_is_over()  # a change wakes the daemon at once
        for _ in range(ticks):
            next_due = self.story.table.next_due()
            self.story.now += TICK_S
            if self.model:
                self.model.tick()
            if self.seal_what_is_over():
                # The table had announced a due time, and the session was not over before that time.
                assert next_due is not None
                assert next_due <= self.story.now

    @precondition(lambda self: self.model and not self.model.ever_joined)
    @rule()
    def ten_minutes_pass(self) -> None:
        self.time_passes(ticks=int(USUAL_TIMING.unjoined_s / TICK_S))
        assert self.model is None

    def seal_what_is_over(self) -> bool:
        story = self.story
        story.run(story.table.advance(story.now))
        due = story.table.to_seal(story.now)
        is_over = self.model is not None and self.model.is_over()
        assert len(due) == is_over
        if not is_over:
            return False
        (session,) = due
        assert self.model
        assert session.ending
        assert session.ending.exit_reason == self.model.ending
        assert session.age_s(story.now) == self.model.ended_at * TICK_S
        story.seal()
        story.members.clear()
        assert story.table.has_ended(self.session_id)
        assert story.open(self.session_id) is None
        self.model, self.session_id = None, new_id()
        return True

    @invariant()
    def the_table_holds_what_the_model_holds(self) -> None:
        assert len(self.story.table.open) == (self.model is not None)
        if self.model:
            live = {worker.id for worker in self.story.session.workers.values() if worker.is_live}
            connected = {producer for producer, is_owner in self.model.members.values() if not is_owner}
            assert live == connected - self.model.ends.keys()


TableMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestTable = TableMachine.TestCase
