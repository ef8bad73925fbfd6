"""One connection's I/O: reads into its protocol, and writes what the protocol wants to send.

Reading is synchronous, so that all that was written can be read at once, right before a session is sealed.
"""

from __future__ import annotations

import logging
import socket
import termios
from array import array
from contextlib import suppress
from fcntl import ioctl
from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from ..core.protocol import Ended, LineProtocol
from ..core.refusal import Refusal
from ..host import mounts, peercred
from .log import log_unexpected

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.protocol import SessionBook
    from ..core.session.member import Member

READ_SIZE = 128 * 1024  # bytes of one turn
LINES_AT_ONCE = 4096  # lines of one turn; READ_SIZE bytes of empty lines would take most of a second of refusals
HELLO_TIMEOUT_S = 1.0  # a client sends its hello at once
MAX_DISCARDED = 1024 * 1024  # bytes; more than any Unix socket holds
_FD_SIZE = 4  # an int, as SCM_RIGHTS carries it
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_log = logging.getLogger(__name__)


class Connection:
    """A non-blocking stream socket and its protocol."""

    def __init__(
        self,
        stream: socket.socket,
        book: SessionBook,
        connections: dict[Connection, None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Join the set of open ``connections``. ``wake`` is called when the last of them has closed."""
        self._stream = stream
        self._book = book
        self._connections = connections
        self._wake = wake
        connections[self] = None
        self._opened_at = monotonic()
        self._is_closed = False
        is_own_user = peercred.is_own_user(stream)
        self.protocol = LineProtocol(book, peercred.pid_of(stream) if is_own_user else 0)
        if not is_own_user:
            self.protocol.refuse(Refusal.FOREIGN_USER)
            self._write()

    async def serve(self) -> None:
        """Read until EOF, a closing refusal or ``close``."""
        try:
            while not self.protocol.is_closing:
                with suppress(anyio.ClosedResourceError):  # another task closed or drained it meanwhile
                    await self._take_turn()
        except Exception as error:  # noqa: BLE001 (one connection's fault must not end the daemon)
            log_unexpected(_log, "serving a connection", error)
        finally:
            self.close()
            self._connections.pop(self, None)
            if not self._connections:
                self._wake()

    async def _take_turn(self) -> None:
        while self.protocol.owes_answer:
            await anyio.wait_writable(self._stream)
            self._write()
        if self.read_some():
            await checkpoint()  # the other connections' turn
        elif not self.protocol.is_closing:
            await anyio.wait_readable(self._stream)

    def read_some(self) -> bool:
        """Read at most READ_SIZE bytes and apply at most LINES_AT_ONCE lines. Returns False if there was nothing."""
        protocol = self.protocol
        if not protocol.has_pending and not self._read(READ_SIZE):
            return False
        self._apply(LINES_AT_ONCE)
        return True

    def drain(self) -> None:
        """Read and apply all that the client has written by now.

        Bytes that it writes meanwhile wait, because a client that floods would never let this end.
        """
        if self.protocol.is_closing:
            return
        try:
            self._drain()
        except Exception as error:  # noqa: BLE001 (one connection's fault must not cost a session)
            log_unexpected(_log, "reading a connection", error)

    def _drain(self) -> None:
        left = _readable_bytes(self._stream) + 1  # EOF is found behind the last byte
        self._apply(None)
        while left > 0 and (count := self._read(min(left, READ_SIZE))):
            left -= count
            self._apply(None)
        if self.protocol.owes_answer or self.protocol.is_closing:
            anyio.notify_closing(self._stream)  # wakes the task that waits for something to read

    def evict(self) -> None:
        """Close the connection to free its descriptor. The client can write no more, so that nothing stays unread."""
        if not self.protocol.is_closing:
            with suppress(OSError):
                self._stream.shutdown(socket.SHUT_RD)
            self.drain()
        self.close(is_evicted=True)

    def close(self, *, is_evicted: bool = False) -> None:
        """Close the connection at once. The task that serves it ends by itself."""
        self.protocol.is_closing = True
        if self._is_closed:
            return
        self._is_closed = True
        anyio.notify_closing(self._stream)
        if self.protocol.data_to_send():
            self._write()
        self._discard_unread()
        self._stream.close()
        self._close_descriptor()
        if self.protocol.member is not None:
            try:
                self._book.closed(self.protocol.member, is_evicted=is_evicted)
            except Exception as error:  # noqa: BLE001 (one connection's fault must not end the daemon)
                log_unexpected(_log, "closing a connection", error)

    @property
    def member(self) -> Member | None:
        """This connection's part in a session, if it joined one."""
        return self.protocol.member

    @property
    def is_idle(self) -> bool:
        """Return True if closing it loses nothing, because its hello is overdue or its session is over.

        A member's connection is not idle here. Whether it may be closed depends on its session.
        """
        if self.protocol.is_closing:
            return True
        if self.protocol.outcome is None:
            return monotonic() - self._opened_at >= HELLO_TIMEOUT_S
        return isinstance(self.protocol.outcome, Ended) and not self.protocol.owes_answer

    # --- the socket ------------------------------------------------------------------------------------------------

    def _read(self, most: int) -> int:
        """Return the number of bytes read, 0 if there are none. At EOF the connection is closing."""
        if self.protocol.is_closing:
            return 0
        try:
            data = self._stream.recv(most) if self.protocol.outcome else self._receive_with_descriptor(most)
        except BlockingIOError:
            return 0
        except OSError:  # a reset counts as EOF; the bytes before it have been read
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.is_closing = True
        return len(data)

    def _receive_with_descriptor(self, most: int) -> bytes:
        """Read before the hello, which may bring a descriptor. The kernel drops those of later lines."""
        data, ancillary, _flags, _address = self._stream.recvmsg(most, socket.CMSG_SPACE(_FD_SIZE), _CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                for fd in reversed(array("i", payload)):  # the space for one is rounded up to two; the first is kept
                    self._close_descriptor()
                    self.protocol.descriptor = fd
        return data

    def _close_descriptor(self) -> None:
        """Close a descriptor of which no counter file was made."""
        if self.protocol.descriptor is not None:
            mounts.close_unseen(self.protocol.descriptor)
        self.protocol.descriptor = None

    def _apply(self, most: int | None) -> None:
        protocol = self.protocol
        protocol.apply_pending(most)
        if protocol.outcome is not None and protocol.descriptor is not None:  # the hello did not mention it
            self._close_descriptor()
        if protocol.data_to_send():
            self._write()

    def _write(self) -> None:
        unsent = self.protocol.data_to_send()
        try:
            sent = self._stream.send(unsent)
        except BlockingIOError:
            return
        except OSError:  # the client has disconnected; the next read finds EOF
            sent = len(unsent)
        self.protocol.sent(sent)

    def _discard_unread(self) -> None:
        """Discard unread input, because close() would otherwise reset the connection before the refusal is read."""
        with suppress(OSError):
            for _ in range(MAX_DISCARDED // READ_SIZE):
                if not self._stream.recv(READ_SIZE):
                    break


def _readable_bytes(stream: socket.socket) -> int:
    waiting = array("i", [0])
    ioctl(stream, termios.FIONREAD, waiting)
    return waiting[0]
