"""The listener and its connections. Only this file handles a shortage of descriptors."""

from __future__ import annotations

import logging
import os
import resource
import select
from typing import TYPE_CHECKING

import anyio

from ..host.launch import BACKLOG
from .connection import Connection

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from ..core.protocol import SessionBook
    from ..core.session.member import Member
    from .interfaces import Evictor

ACCEPT_AT_ONCE = 16  # then the accepted connections have their turn, so that a flood of connects does not starve them
MAX_PENDING = BACKLOG + 1  # Linux queues backlog + 1 connections
RETRY_ACCEPT_S = 0.1  # the pause after a failed accept, because an immediate retry would spin
# Descriptors that connections do not get: one for the counter file of each connection that is accepted at once, and a
# few for the config, the receipts and the sending of events.
RESERVE = ACCEPT_AT_ONCE + 8

_log = logging.getLogger(__name__)


class Intake:
    """Accepts connections and serves each in a task of its own."""

    def __init__(
        self, listening: socket.socket, path: str, tasks: TaskGroup, wake: Callable[[], None], *, is_inherited: bool
    ) -> None:
        """``wake`` is called when no connection is left. An inherited socket's path is unlinked by its owner."""
        self._listening = listening
        self._path = path
        self._bound = None if is_inherited else _identity(path)
        self._tasks = tasks
        self._wake = wake
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._is_starved = False  # True if a pending connection could not be accepted
        self._accepting = anyio.CancelScope()
        self._book: SessionBook
        self._evictor: Evictor
        self.connections: dict[Connection, None] = {}  # the oldest first

    async def serve(self) -> None:
        """Accept until ``stop``, then close the listener."""
        with self._accepting:
            while True:
                await anyio.wait_readable(self._listening)
                # Race: the listener may become readable in the turn in which ``stop`` is called. Accept nothing then.
                if self._accepting.cancel_called:
                    break
                self.accept(ACCEPT_AT_ONCE)
                if self._is_starved and not self._make_room():
                    await anyio.sleep(RETRY_ACCEPT_S)
        self._listening.close()

    def connect(self, book: SessionBook, evictor: Evictor) -> None:
        """Set the book and the evictor, before the first connection is accepted."""
        self._book, self._evictor = book, evictor

    def accept(self, most: int = ACCEPT_AT_ONCE) -> list[Connection]:
        """Accept at most ``most`` pending connections, and return them."""
        streams: list[socket.socket] = []
        self._is_starved = False
        while len(streams) < most:
            if self.is_short_of_descriptors():
                self._is_starved = self._is_pending()
                break
            try:
                stream, _ = self._listening.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:  # the client closed the connection meanwhile
                continue
            except OSError as error:  # the machine is short of files or of memory
                _log.warning("cannot accept: %s", os.strerror(error.errno or 0))
                self._is_starved = self._is_pending()
                break
            stream.setblocking(False)
            streams.append(stream)
        accepted = [Connection(stream, self._book, self.connections, self._wake) for stream in streams]
        for connection in accepted:
            self._tasks.start_soon(connection.serve)
        return accepted

    def drain(self, expendable: Callable[[Member], bool] = lambda _member: False) -> bool:
        """Accept every pending connection and read every pending byte, without yielding.

        If descriptors are too short to accept a connection, connections of ``expendable`` members are read and closed.
        Returns False if a connection can still not be accepted.
        """
        while not self._drain_once():
            if not self._close_one(expendable):
                return False
        return True

    def stop(self) -> None:
        """Stop accepting connections."""
        self._accepting.cancel()

    def remove_path(self) -> None:
        """Unlink the socket if it is still at its path. Another program may have replaced the directory."""
        if self._bound is not None and _identity(self._path) == self._bound:
            os.unlink(self._path)

    def is_short_of_descriptors(self) -> bool:
        """Return True if the next descriptor would be in the reserve.

        The kernel always gives the lowest free number.
        """
        try:
            probe = os.dup(self._listening.fileno())
        except OSError:
            return True
        os.close(probe)
        return probe >= self._limit - RESERVE

    def _is_pending(self) -> bool:
        waiting = select.poll()
        waiting.register(self._listening, select.POLLIN)
        return bool(waiting.poll(0))

    # --- drain and evict -------------------------------------------------------------------------------------------

    def _drain_once(self) -> bool:
        """Accept in batches, because each hello may carry a descriptor, which is lost if it cannot be received.

        Accepts at most as many connections as can be pending now, because a flood of connects has no end.
        """
        left = MAX_PENDING
        while True:
            accepted = self.accept(min(ACCEPT_AT_ONCE, left))
            left -= len(accepted)
            for connection in accepted:
                connection.drain()
            if accepted and left and not self._is_starved:
                continue
            for connection in list(self.connections):
                connection.drain()
            if not self._is_starved:
                return True
            if not self._make_room():
                return False

    def _make_room(self) -> bool:
        """Free descriptors. Returns False if all are needed, or if only the machine is short of descriptors.

        From then on, counter files are read by their names. If that is not enough, connections that lose nothing are
        closed, the oldest first, until a descriptor is free.
        """
        if not self.is_short_of_descriptors():
            return False
        self._evictor.release_descriptors()
        for connection in list(self.connections):
            if not self.is_short_of_descriptors():
                break
            self._evict(connection)
        return not self.is_short_of_descriptors()

    def _evict(self, connection: Connection) -> None:
        member = connection.member
        if member is None:
            loses_nothing = connection.is_idle
        else:
            loses_nothing = not connection.protocol.owes_answer and self._evictor.may_evict(member)
        if loses_nothing or connection.protocol.is_closing:
            connection.evict()

    def _close_one(self, expendable: Callable[[Member], bool]) -> bool:
        for connection in self.connections:
            if connection.member is not None and expendable(connection.member) and not connection.protocol.is_closing:
                connection.close()
                return True
        return False


def _identity(path: str) -> tuple[int, int] | None:
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino
