"""Accepting in our own loop: a few between the readers' turns, and all who wait before a session is sealed."""

from __future__ import annotations

import os
import resource
import select
from typing import TYPE_CHECKING

import anyio

from ..host.debug import debug

if TYPE_CHECKING:
    import socket

ACCEPT_AT_ONCE = 16  # then the readers have their turn: a flood of connects starves nobody
OUT_OF_DESCRIPTORS_S = 0.1
# Descriptors that connections do not get: for the memories of as many as are accepted at once, which come when they are
# read, and for the config, the receipts, and what sending takes.
RESERVE = ACCEPT_AT_ONCE + 8


class Listener:
    def __init__(self, listening: socket.socket, path: str, *, is_inherited: bool = False) -> None:
        self._listening = listening
        self._path = path
        self._bound = None if is_inherited else _identity(path)  # an inherited one is its owner's to unlink
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.is_starved = False  # somebody waits who cannot be accepted: trying again at once would only spin

    async def wait(self) -> None:
        """Until somebody connects."""
        await anyio.wait_readable(self._listening)

    def accept(self, most: int = ACCEPT_AT_ONCE) -> list[socket.socket]:
        """Those who wait by now, at most so many, as non-blocking streams."""
        accepted: list[socket.socket] = []
        self.is_starved = False
        while len(accepted) < most:
            if self.is_near_the_limit():
                self.is_starved = self._is_awaited()
                break
            try:
                stream, _ = self._listening.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:  # it hung up meanwhile: nobody's loss
                continue
            except OSError as error:  # the machine is short of files or of memory; the backlog keeps the others
                debug("cannot accept", error)
                self.is_starved = self._is_awaited()
                break
            stream.setblocking(False)
            accepted.append(stream)
        return accepted

    def close(self) -> None:
        self._listening.close()

    def remove_path(self) -> None:
        """Unlinks the socket, if what is there is still what was bound: the directory may be another by now."""
        if self._bound is not None and _identity(self._path) == self._bound:
            os.unlink(self._path)

    def _is_awaited(self) -> bool:
        waiting = select.poll()
        waiting.register(self._listening, select.POLLIN)
        return bool(waiting.poll(0))

    def is_near_the_limit(self) -> bool:
        """The kernel gives the lowest number that is free."""
        try:
            probe = os.dup(self._listening.fileno())
        except OSError:
            return True
        os.close(probe)
        return probe >= self._limit - RESERVE


def _identity(path: str) -> tuple[int, int] | None:
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino
