"""A daemon that reads counter files, and a worker that passes one with hand-written lines."""

from __future__ import annotations

import json
import os
import socket
import uuid
from array import array
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from brakit_sidecar.client import counter_file
from brakit_sidecar.core.counter_layout import SIZE

from tests.harness import Wire, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from brakit_sidecar.client.counter_file import CounterFile

    from tests.harness import Endpoint, Place


def make_counter_file(directory: str) -> CounterFile:
    """Make a counter file as workers make it."""
    made = counter_file.shared(directory)
    assert made is not None
    return made


def fd_of(made: CounterFile) -> int:
    """Return the descriptor of a counter file that has one."""
    assert made.fd is not None
    return made.fd


class CountingDaemon:
    """A daemon that all tests of a file share. A test uses new sessions, and checks which refusals it added."""

    def __init__(self, endpoint: Endpoint | None, place: Place) -> None:
        self.endpoint = endpoint
        self.place = place
        self.pid = place.serve().pid

    def worker(self) -> CountingWorker:
        return CountingWorker(self.place.socket_path)

    def owner(self, session: str) -> Wire:
        """Connect the owner of a session. Returns when the session is open."""
        owner = Wire(self.place.socket_path).hello(session, role="owner")
        owner.sync()
        return owner

    def status(self) -> dict[str, Any]:
        with Wire(self.place.socket_path).hello() as wire:
            status: dict[str, Any] = wire.ask()[0]
            return status

    def refused(self) -> Counter[str]:
        return Counter(self.status()["refused"])

    def fields(self, session: str) -> dict[str, Any]:
        """Return the fields of the session's event as they would be sent now."""
        (fields,) = [found["fields"] for found in self.status()["sessions"] if found["id"] == session]
        return dict(fields)

    def is_sealed(self, session: str) -> bool:
        return session not in {found["id"] for found in self.status()["sessions"]}

    def finish(self, session: str) -> dict[str, Any]:
        """End the session as its owner. Returns the properties of its event."""
        assert self.endpoint is not None
        endpoint = self.endpoint
        expected = str(uuid.uuid5(uuid.UUID(session), "session"))
        with self.owner(session) as owner:
            owner.send(end={"exit_reason": "clean"})
            wait_until(lambda: any(body["uuid"] == expected for body in endpoint.bodies), "the session event")
        (properties,) = [body["properties"] for body in endpoint.bodies if body["uuid"] == expected]
        return dict(properties)

    def descriptors(self, *, only: Callable[[os.stat_result], bool] = lambda _info: True) -> int:
        """Return how many descriptors the daemon has open."""
        found = 0
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            with suppress(FileNotFoundError):
                found += only(os.stat(f"/proc/{self.pid}/fd/{fd}"))
        return found

    def counter_files(self) -> int:
        """Return how many open descriptors are counter files: 0 between tests, because each test ends its session."""
        return self.descriptors(only=lambda info: info.st_size == SIZE)


class CountingWorker(Wire):
    """A producer that can pass descriptors with its lines."""

    def send_hello(self, session: str, *fds: int, **more: Any) -> CountingWorker:
        """Send a hello with these descriptors. Further keys replace those of the hello."""
        hello = {"protocol": 1, "session": session, "producer": new_id(), "sdk": "python", "counter_file": 1, **more}
        return self.write_with(json.dumps({"hello": hello}).encode() + b"\n", *fds)

    def write_with(self, data: bytes, *fds: int) -> CountingWorker:
        sent = self.stream.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))])
        assert sent == len(data)
        return self

    def __enter__(self) -> CountingWorker:
        return self

    def write(self, data: bytes) -> CountingWorker:
        super().write(data)
        return self

    def send(self, **frame: Any) -> CountingWorker:
        super().send(**frame)
        return self

    def replies(self) -> list[dict[str, Any]]:
        """Return all that the daemon has sent in reply to the lines so far."""
        self.send(ask="identity")
        replies: list[dict[str, Any]] = []
        for line in self.lines():
            if "answer" in line:
                return replies
            replies.append(line)
        raise AssertionError("the daemon closed the connection before it answered")
