"""Accepting in our own loop: a few between the readers' turns, and all who wait before a session is sealed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import anyio

from sidecar.host.debug import debug

if TYPE_CHECKING:
    import socket

ACCEPT_AT_ONCE = 16  # then the readers have their turn: a flood of connects starves nobody
OUT_OF_DESCRIPTORS_S = 0.1
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.is_starved = False  # of descriptors: accepting again at once would only spin

    async def wait(self) -> None:
        """Until somebody connects."""
        await anyio.wait_readable(self._listening)

    def accept(self, most: int = ACCEPT_AT_ONCE) -> list[socket.socket]:
        """Those who wait by now, at most so many, as non-blocking streams."""
        accepted: list[socket.socket] = []
        self.is_starved = False
        while len(accepted) < most:
            try:
                stream, _ = self._listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                # One that hung up meanwhile is nobody's loss; out of descriptors, the backlog keeps the others.
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    continue
                debug("out of descriptors", error)
                self.is_starved = True
                break
            stream.setblocking(False)
            accepted.append(stream)
        return accepted

    def close(self) -> None:
        self._listening.close()
