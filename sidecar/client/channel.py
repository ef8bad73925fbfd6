"""A Unix stream socket that never blocks and never raises.

What the kernel does not take at once is kept (never more than one line) and goes first with the next one.
"""

from __future__ import annotations

import socket

_QUIET = getattr(socket, "MSG_NOSIGNAL", 0)  # an application may have given SIGPIPE its deadly default back


class Channel:
    __slots__ = ("_rest", "_socket")

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._rest = b""

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self, path: str) -> bool:
        """Connects, if that can be done at once: non-blocking before connect, as a full backlog would wait forever."""
        self.close()
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.setblocking(False)
            stream.connect(path)
        except OSError:
            stream.close()
            return False
        self._socket = stream
        return True

    def is_ready(self) -> bool:
        """Whether the next line would be taken now. Sends what was kept."""
        if self._rest:
            self._write(self._rest)
        return self.is_open and not self._rest

    def send(self, line: bytes) -> None:
        """Takes one line; only when ready."""
        self._write(line)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""

    def _write(self, data: bytes) -> None:
        if self._socket is None:
            return
        try:
            sent = self._socket.send(data, _QUIET)
        except BlockingIOError:
            sent = 0
        except OSError:  # the daemon is gone
            self.close()
            return
        self._rest = data[sent:]
