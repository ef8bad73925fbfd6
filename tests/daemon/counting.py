"""A worker that passes a counter file to the daemon with hand-written lines."""

from __future__ import annotations

import json
import socket
from array import array
from typing import TYPE_CHECKING, Any

from brakit_sidecar.client import counter_file

from tests.harness import Wire, new_id

if TYPE_CHECKING:
    from brakit_sidecar.client.counter_file import CounterFile


def make_counter_file(directory: str) -> CounterFile:
    """Make a counter file as workers make it."""
    made = counter_file.shared(directory)
    assert made is not None
    return made


def fd_of(made: CounterFile) -> int:
    """Return the descriptor of a counter file that has one."""
    assert made.fd is not None
    return made.fd


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
