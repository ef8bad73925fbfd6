"""A listener in the daemon's place. It records what producers write, and answers each hello as a test wants."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from tests.harness import Place


class FakeDaemon:
    """Listens at a place's socket, and answers each hello with ``answer``, or closes the connection."""

    def __init__(self, place: Place, answer: dict[str, Any] | None = None, *, closes: bool = False) -> None:
        os.makedirs(os.path.dirname(place.socket_path), mode=0o700, exist_ok=True)
        self._answer = answer
        self._closes = closes
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(place.socket_path)
        self._listener.listen()
        self.received: list[bytearray] = []  # of each connection
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.close()

    @property
    def frames(self) -> list[dict[str, Any]]:
        """Return the complete lines that all producers have written so far."""
        return [json.loads(line) for received in self.received for line in bytes(received).split(b"\n")[:-1]]

    def frames_with(self, key: str) -> int:
        """Return how many lines have that key."""
        return sum(key in frame for frame in self.frames)

    def last_total(self, field: str) -> int:
        """Return the last total of a count field, 0 if none was written."""
        totals = [frame["total"][field] for frame in self.frames if field in frame.get("total", {})]
        return max(totals, default=0)

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self._listener.accept()
                self.received.append(bytearray())
                threading.Thread(target=self._read, args=(connection, self.received[-1]), daemon=True).start()

    def _read(self, connection: socket.socket, received: bytearray) -> None:
        with connection, suppress(OSError):
            while chunk := connection.recv(65536):
                is_hello = b"\n" not in received
                received += chunk
                if is_hello and b"\n" in received:
                    if self._closes:
                        return
                    if self._answer is not None:
                        connection.sendall(json.dumps(self._answer).encode() + b"\n")
