"""A Unix stream socket that never blocks and never raises.

What the kernel does not take at once is kept (never more than one line) and goes first with the next one.
"""

from __future__ import annotations

import sys

from ..host import peercred
from . import descriptors

try:
    import _socket as socket  # what the module socket is made of; that one brings selectors and enum
except ImportError:  # another implementation
    import socket  # type: ignore[no-redef]

IS_POSSIBLE = hasattr(socket, "AF_UNIX")  # not on Windows
_SO_NOSIGPIPE = 0x1022  # macOS' way, and missing from the socket module
_QUIET = getattr(socket, "MSG_NOSIGNAL", 0)  # an application may have given SIGPIPE its deadly default back


class Channel:
    __slots__ = ("_identity", "_rest", "_socket")

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._rest = b""

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self, path: str) -> bool:
        """Connects, if that can be done at once: non-blocking before connect, as a full backlog would wait forever.
        Another user who listens there is no daemon of ours, and is told nothing.
        """
        self.close()
        try:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # out of descriptors
            return False
        try:
            stream.setblocking(False)
            if sys.platform == "darwin":
                stream.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE, 1)
            stream.connect(path)
        except OSError:
            stream.close()
            return False
        if not peercred.is_own_user(stream):
            stream.close()
            return False
        self._socket, self._identity = stream, descriptors.identity(stream.fileno())
        return True

    def is_ready(self) -> bool:
        """Whether the next line would be taken now. Sends what was kept."""
        if self._rest:
            self._write(self._rest)
        return self._socket is not None and not self._rest

    def look(self) -> None:
        """Closes where the daemon is gone: then not even nothing can be sent. (Were something to be received, that
        would say it too; but nothing mostly is, and an exception takes longer than all the rest of a call.)
        """
        if not self._rest:
            self._write(b"")

    def send(self, line: bytes) -> None:
        """Takes one line; only when ready."""
        self._write(line)

    def send_with_descriptor(self, line: bytes, fd: int) -> None:
        """As ``send``; the other end gets a duplicate of the descriptor with the line's first byte."""
        if self._socket is None:
            return
        try:
            sent = self._socket.sendmsg(
                [line], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))], _QUIET
            )
        except OSError:  # also where it would block: a fresh connection has room, so something is wrong with this one
            self.close()
            return
        self._rest = line[sent:]

    def receive(self) -> bytes:
        """What the daemon has said by now, up to 4 KiB of it. Closes where the daemon is gone."""
        stream = self._ours()
        if stream is None:
            return b""
        try:
            said = stream.recv(4096)
        except BlockingIOError:
            return b""
        except OSError:
            said = b""
        if not said:
            self.close()
        return said

    def close(self) -> None:
        stream = self._ours()
        self._socket, self._rest = None, b""
        if stream is not None:
            stream.close()

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # noqa: BLE001, S110 (at the interpreter's end anything may be gone)
            pass

    def _ours(self) -> socket.socket | None:
        """The socket; none, from here on, where its number is another's by now."""
        if self._socket is not None and descriptors.identity(self._socket.fileno()) != self._identity:
            self._socket.detach()
            self._socket, self._rest = None, b""
        return self._socket

    def _write(self, data: bytes) -> None:
        stream = self._ours()
        if stream is None:
            return
        try:
            sent = stream.send(data, _QUIET)
        except BlockingIOError:
            sent = 0
        except OSError:  # the daemon is gone
            self.close()
            return
        self._rest = data[sent:]
