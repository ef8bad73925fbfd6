"""Workers' memories as the daemon holds them: descriptors of somebody else's file, in which nothing is trusted. Each
has a name beside the socket, by which a daemon that comes after this one finds what was counted meanwhile.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from sidecar.core import slab
from sidecar.core.frames import UUID
from sidecar.host import ids, paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Origin(NamedTuple):
    """Whose memory it is, as it says itself."""

    pid: int
    session: str | None
    group: str | None
    is_retired: bool


class WorkersMemory:
    """One worker's memory; ours to close. Read with pread and never mapped: a worker that truncates its file must not
    be able to hurt us.
    """

    def __init__(self, fd: int, path: str | None = None) -> None:
        self._fd = fd
        self._path = path

    def is_acceptable(self) -> bool:
        """Whether it is what a worker of ours would pass: a regular file of ours, of the right size, with its magic.
        Whoever is told that it was taken says nothing more of its counts.
        """
        info = os.fstat(self._fd)
        is_ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.getuid() and info.st_size == slab.SIZE
        return is_ours and self.read() is not None

    @property
    def origin(self) -> Origin:
        head = self._head()
        kind, named = slab.value_at(head, slab.KIND), head[slab.CELL * slab.ID : slab.CELL * (slab.ID + 2)]
        return Origin(
            pid=slab.value_at(head, slab.PID),
            session=ids.spelled(named) if kind == slab.OF_SESSION else None,
            group=ids.spelled(named) if kind == slab.OF_GROUP else None,
            is_retired=slab.value_at(head, slab.RETIRED) != 0,
        )

    @property
    def inode(self) -> int:
        return os.fstat(self._fd).st_ino

    def read(self) -> slab.Contents | None:
        """What is counted in it by now; None where it is no longer what it was."""
        try:
            used = slab.used_rows(self._head())
            return None if used is None else slab.read(os.pread(self._fd, slab.CELL * slab.row_cell(used), 0))
        except OSError:
            return None

    def keep_as(self, path: str) -> None:
        """Gives it that name. Where it has no place in that directory (a memfd, macOS) it stays nameless."""
        with suppress(OSError):
            _link(self._fd, path)
            self._path = path

    def retire(self) -> None:
        """Its session was reported: whoever brings it again learns that, and its name goes."""
        retired = (1).to_bytes(slab.CELL, sys.byteorder)
        with suppress(OSError):  # a descriptor that we may only read
            os.pwrite(self._fd, retired, slab.CELL * slab.RETIRED)
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)
        self.close()

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def _head(self) -> bytes:
        return os.pread(self._fd, slab.CELL * slab.FIRST_ROW, 0)


def left_behind(socket_path: str, kept: Mapping[str, int]) -> Iterator[tuple[str, WorkersMemory]]:
    """The memories that have a name there, by producer: of a daemon that died, or of workers that wait for one."""
    named = paths.memories(socket_path)
    for name, fd in kept.items():  # by a service manager, under the names that they would have there
        producer, memory = paths.producer_of(name), WorkersMemory(fd)
        if producer not in named and UUID.fullmatch(producer) and memory.is_acceptable():
            yield producer, memory
        else:
            memory.close()
    for producer, path in named.items():
        with suppress(OSError):
            memory = WorkersMemory(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), path)
            if UUID.fullmatch(producer) and memory.is_acceptable():
                yield producer, memory
            else:
                memory.close()  # not of our making: left as it is


def _link(fd: int, path: str) -> None:
    """By /proc, which needs no privilege; Python's call takes that path only beside some directory's descriptor."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), os.fstat(fd)):
            return  # the producer came back
        os.unlink(path)  # with another memory
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
