"""A Unix stream socket that never blocks and never raises.

Bytes that the kernel does not take at once are kept (never more than one line), and are sent before the next line.
"""

from __future__ import annotations

import socket
import sys

from ..host import peercred, standard_fds
from . import descriptors

IS_POSSIBLE = hasattr(socket, "AF_UNIX")  # False on Windows
_SO_NOSIGPIPE = 0x1022  # macOS' option against SIGPIPE, which the socket module lacks
_NO_SIGPIPE = getattr(socket, "MSG_NOSIGNAL", 0)  # because an application may have reset SIGPIPE to its deadly default


class Channel:
    """One connection to the daemon, or none."""

    __slots__ = ("_identity", "_rest", "_socket")

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._rest = b""  # of the last line, what the kernel did not take

    @property
    def is_open(self) -> bool:
        """Return True if there is a connection."""
        return self._socket is not None

    def open(self, path: str) -> bool:
        """Connect, if the kernel does that at once. Returns False if it does not, or if another user listens there.

        The socket is non-blocking before the connect, because a connect to a full backlog would block without bound.
        """
        self.close()
        try:
            with standard_fds.Reserved():
                stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # the descriptor limit
            return False
        if stream.fileno() in standard_fds.STANDARD:
            stream.close()
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
        """Send what was kept. Returns True if the next line would be taken now."""
        if self._rest:
            self._write(self._rest)
        return self._socket is not None and not self._rest

    def probe(self) -> None:
        """Close the channel if the daemon has closed the connection: then even a send of no bytes fails.

        A receive would show that as well. But there is mostly nothing to receive, and the exception that says so costs
        more than the rest of a call.
        """
        if not self._rest:
            self._write(b"")

    def send(self, line: bytes) -> None:
        """Send one line. Call it only when ready."""
        self._write(line)

    def send_with_descriptor(self, line: bytes, fd: int) -> None:
        """Send one line with a duplicate of the descriptor. Call it only on a fresh connection."""
        if self._socket is None:
            return
        try:
            sent = self._socket.sendmsg(
                [line], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))], _NO_SIGPIPE
            )
        except OSError:  # EAGAIN included: a fresh connection has room, so this one is broken
            self.close()
            return
        self._rest = line[sent:]

    def receive(self) -> bytes:
        """Return what the daemon has sent by now, up to 4 KiB. Closes the channel at EOF."""
        stream = self._checked_socket()
        if stream is None:
            return b""
        try:
            received = stream.recv(4096)
        except BlockingIOError:
            return b""
        except OSError:
            received = b""
        if not received:
            self.close()
        return received

    def close(self) -> None:
        """Close the connection, if there is one."""
        stream = self._checked_socket()
        self._socket, self._rest = None, b""
        if stream is not None:
            stream.close()

    def __del__(self) -> None:
        """Close the connection. Never raises."""
        try:
            self.close()
        except Exception:  # noqa: BLE001, S110 (at the interpreter's exit modules may be torn down)
            pass

    def _checked_socket(self) -> socket.socket | None:
        """Return the socket. Returns None, now and later, if the application uses its descriptor's number by now."""
        if self._socket is not None and descriptors.identity(self._socket.fileno()) != self._identity:
            self._socket.detach()
            self._socket, self._rest = None, b""
        return self._socket

    def _write(self, data: bytes) -> None:
        stream = self._checked_socket()
        if stream is None:
            return
        try:
            sent = stream.send(data, _NO_SIGPIPE)
        except BlockingIOError:
            sent = 0
        except OSError:  # the daemon closed the connection
            self.close()
            return
        self._rest = data[sent:]
