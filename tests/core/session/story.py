"""A table of sessions, driven by stimuli at given seconds. A connection is named after its producer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from brakit_sidecar.core.frames import Hello, parse
from brakit_sidecar.core.session.effects import Close, Effect, Emit, Journal
from brakit_sidecar.core.session.table import Opening, SessionTable
from brakit_sidecar.core.session.terms import Terms

if TYPE_CHECKING:
    from brakit_sidecar.core.counter_snapshot import CounterSnapshot
    from brakit_sidecar.core.frames import Frame, Occurred
    from brakit_sidecar.core.session.member import Member
    from brakit_sidecar.core.session.session import Session

SESSION_ID = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01"
GROUP_ID = "7b1d6f0c-1111-5222-8333-444455556666"
BOOT = "this boot"
ANONYMOUS_ID = "8c0a1f7e-2222-4333-8444-555566667777"


def hello(
    producer: str, session: str | None = SESSION_ID, group: str | None = None, *, is_owner: bool = False
) -> Hello:
    """Return the hello of a producer or an owner."""
    return Hello(session, group, producer, "python", is_owner)


def frame(**keys: Any) -> Frame:
    """Return the frame of a good line."""
    parsed = parse(json.dumps(keys).encode())
    assert not parsed.refused
    return parsed


class Story:
    """The table, its members by connection, the effects so far, and the journal of the effects."""

    def __init__(self) -> None:
        self.table = SessionTable(BOOT)
        self.now = 1000.0
        self.members: dict[str, Member] = {}
        self.effects: list[Effect] = []
        self.fresh_ids = (f"00000000-0000-4000-8000-{number:012}" for number in range(10_000))

    def at(self, second: float) -> Story:
        """Set the time."""
        self.now = 1000.0 + second
        return self

    @property
    def opening(self) -> Opening:
        """Return the values with which a session opens now."""
        return Opening(self.now, Terms(ANONYMOUS_ID), next(self.fresh_ids))

    def run(self, effects: list[Effect]) -> Story:
        """Record the effects of a stimulus."""
        self.effects += effects
        return self

    def open(self, session_id: str = SESSION_ID) -> Session | None:
        """Open a session as a command does."""
        session, effects = self.table.open_session(session_id, self.opening)
        self.run(effects)
        return session

    def connect(self, greeting: Hello, connection: str | None = None, pid: int = 0) -> Member | None:
        """Send a hello on a connection, which is named after its producer if no other name is given."""
        member, effects = self.table.hello(greeting, self.opening, pid)
        self.run(effects)
        if member is not None:
            assert greeting.producer is not None
            self.members[connection or greeting.producer] = member
        return member

    def worker(self, producer: str, connection: str | None = None, pid: int = 0) -> Story:
        """Connect a worker to the session."""
        assert self.connect(hello(producer), connection, pid)
        return self

    def owner(self, connection: str = "owner", pid: int = 0) -> Story:
        """Connect an owner of the session."""
        assert self.connect(hello(connection, is_owner=True), pid=pid)
        return self

    def group(self, producer: str, group: str = GROUP_ID) -> str:
        """Connect a worker that knows only its process group. Returns the id of its session."""
        member = self.connect(hello(producer, None, group))
        assert member is not None
        return member.session_id

    def send(self, connection: str, **keys: Any) -> Story:
        """Send a line on a connection."""
        member = self.members[connection]
        _refused, effects = self.table.open[member.session_id].receive(member, frame(**keys), self.now)
        return self.run(effects)

    def end(self, connection: str, exit_reason: str = "clean") -> Story:
        """Report an end on a connection."""
        return self.send(connection, end={"exit_reason": exit_reason})

    def close(self, connection: str, *, is_evicted: bool = False) -> Story:
        """Close a connection."""
        member = self.members.pop(connection)
        session = self.table.open.get(member.session_id)
        if session is not None:
            self.run(session.disconnect(member, self.now, is_evicted=is_evicted))
        return self

    def counted(self, producer: str, snapshot: CounterSnapshot) -> Story:
        """Report a snapshot of a producer's counter file."""
        self.session.counted(producer, snapshot)
        return self

    @property
    def session(self) -> Session:
        """Return the one open session."""
        (session,) = self.table.open.values()
        return session

    def due(self, second: float) -> list[tuple[str, float]]:
        """Return the exit reason and duration of each session to seal at that second."""
        self.at(second)
        self.run(self.table.advance(self.now))
        return [(s.ending.exit_reason, s.age_s(self.now)) for s in self.table.to_seal(self.now) if s.ending]

    def seal(self) -> Emit:
        """Seal the one session. Returns its event."""
        emit, close = self.table.seal(self.session, self.now)
        assert isinstance(emit, Emit)
        assert isinstance(close, Close)
        return emit

    def emitted(self) -> list[str]:
        """Return the names of the events so far."""
        return [effect.event.name for effect in self.effects if isinstance(effect, Emit)]

    def journal(self) -> list[dict[str, Any]]:
        """Return the records so far, as they would be read from a file."""
        records = [record for effect in self.effects if isinstance(effect, Journal) for record in effect.records]
        return [json.loads(json.dumps(record)) for record in records]


def occurred(name: str, **fields: Any) -> Occurred:
    """Return an event as a line reports it."""
    (event,) = frame(event={"name": name, **fields}).events
    return event
