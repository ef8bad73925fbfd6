"""A producer that counts as Node does: it makes its counter file by name, writes cells by pwrite, and passes nothing.

Run as a program, it is such a worker in a process of its own, which does what each line of its stdin says.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid

from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_layout import CELL, COUNTER_CELLS, SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


def name_beside(socket_path: str, producer: str) -> str:
    """Return the path at which the daemon looks for the counter file of a producer."""
    return os.path.join(os.path.dirname(socket_path), f"counters-1-{producer}")


class NamedCounterFile:
    """A counter file that its producer has named, and keeps open."""

    def __init__(self, path: str, session: str | None = None, *, group: str | None = None, pid: int = 0) -> None:
        """``pid`` 0 stands for this process."""
        self.path = path
        self.fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o400)
        os.ftruncate(self.fd, SIZE)
        self.write(0, counter_layout.MAGIC)
        self.write(counter_layout.USED_ROWS, 1)
        self.write(counter_layout.PID, pid or os.getpid())
        if session is not None:
            self.write(counter_layout.KIND, counter_layout.OF_SESSION)
        elif group is not None:
            self.write(counter_layout.KIND, counter_layout.OF_GROUP)
        named = session or group
        if named is not None:
            os.pwrite(self.fd, uuid.UUID(named).bytes, CELL * counter_layout.ID)

    def __enter__(self) -> NamedCounterFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def write(self, cell: int, number: int) -> None:
        os.pwrite(self.fd, number.to_bytes(CELL, sys.byteorder), CELL * cell)

    def count(self, field: str, total: int) -> None:
        """Store a running total."""
        self.write(COUNTER_CELLS[field], total)

    @property
    def is_retired(self) -> bool:
        return os.pread(self.fd, CELL, CELL * counter_layout.RETIRED) not in (bytes(CELL), b"")

    @property
    def has_name(self) -> bool:
        return os.path.lexists(self.path) and os.path.samestat(os.lstat(self.path), os.fstat(self.fd))

    def close(self) -> None:
        """Close the descriptor. The file keeps its name."""
        os.close(self.fd)


class Worker:
    """A worker in a process of its own, which the test commands."""

    def __init__(self, socket_path: str, session: str, producer: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, socket_path, session, producer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def connect(self) -> None:
        """Connect and write the hello. Returns when the daemon has answered that it takes the file."""
        assert self._do("connect") == '{"counter_file":1}'

    def count(self, total: int) -> None:
        """Store the running total of requests."""
        self._do(f"count {total}")

    def count_and_die(self, total: int) -> None:
        """Store the running total of requests, and die by SIGKILL before anything else happens."""
        self.process.communicate(f"die {total}\n")

    def end(self) -> None:
        """Close the worker's stdin, at which it exits."""
        self.process.communicate()

    def _do(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


def main(socket_path: str, session: str, producer: str) -> None:
    file = NamedCounterFile(name_beside(socket_path, producer), session)
    stream = socket.socket(socket.AF_UNIX)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "connect":
            stream = socket.socket(socket.AF_UNIX)
            stream.connect(socket_path)
            hello = {"protocol": 1, "session": session, "producer": producer, "sdk": "node", "counter_file": 1}
            stream.sendall(json.dumps({"hello": hello}).encode() + b"\n")
            print(stream.makefile().readline().strip(), flush=True)
        else:
            file.count("request_count", int(rest[0]))
            if command == "die":
                os.kill(os.getpid(), 9)
            print("counted", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
