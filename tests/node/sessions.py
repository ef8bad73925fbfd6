"""What a test sees of a place's sessions: their fields, the refusals, and the counter files beside the socket."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.harness import Place, Wire, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .fake_daemon import FakeDaemon
    from .workers import Worker


@contextmanager
def owned(place: Place, session: str = "") -> Iterator[str]:
    """Own a session, which then lasts until the end of the block, whatever its workers do."""
    session = session or new_id()
    with Wire(place.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        yield session
        owner.send(end={"exit_reason": "clean"}).sync()


def shown(place: Place, session: str) -> dict[str, Any]:
    """Return the session's fields as they would be sent now. Returns {} if the daemon has no such session."""
    with Wire(place.socket_path).hello() as wire:
        for found in wire.ask()[0]["sessions"]:
            if found["id"] == session:
                fields: dict[str, Any] = found["fields"]
                return fields
    return {}


def until_shown(place: Place, session: str, **expected: Any) -> None:
    """Wait until the daemon shows the expected fields."""
    found: dict[str, Any] = {}

    def has_come() -> bool:
        nonlocal found
        found = shown(place, session)
        return all(found.get(name) == value for name, value in expected.items())

    try:
        wait_until(has_come)
    except AssertionError:
        assert {name: found.get(name) for name in expected} == expected
        raise


def refused(place: Place) -> dict[str, int]:
    """Return how often the daemon has refused something, by reason."""
    with Wire(place.socket_path).hello() as wire:
        counted: dict[str, int] = wire.ask()[0]["refused"]
    return counted


def counts_by_line(worker: Worker, daemon: FakeDaemon) -> bool:
    """Let the worker count an error. Returns whether it reports that as a line, besides its counter file."""
    totals, marks = daemon.frames_with("total"), daemon.frames_with("mark")
    worker.do("t.incr('error_count'); t.mark('finding_count', String(Math.random()))")
    wait_until(lambda: daemon.frames_with("mark") > marks, "the mark, which is a line in any case")
    return daemon.frames_with("total") > totals


def counter_files(place: Place) -> list[str]:
    """Return the paths of the counter files beside the socket."""
    directory = os.path.dirname(place.socket_path)
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return [os.path.join(directory, name) for name in names if name.startswith("counters-")]
