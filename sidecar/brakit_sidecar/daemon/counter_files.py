"""Workers' memories as the daemon holds them: descriptors of somebody else's file, in which nothing is trusted. Each
has a name beside the socket, by which a daemon that comes after this one finds what was counted meanwhile.
"""

from __future__ import annotations

import os
import stat
import sys
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from ..core import counter_layout
from ..core.counter_snapshot import CounterSnapshot, used_rows, value_at
from ..core.frames import UUID
from ..host import paths, process, secure_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Origin(NamedTuple):
    """Whose memory it is, as it says itself."""

    pid: int
    session: str | None
    group: str | None
    whose: int  # 0 where that was not known
    is_retired: bool


class CounterFile:
    """One worker's memory; ours to close. Read with pread and never mapped: a worker that truncates its file must not
    be able to hurt us. Where descriptors are short, its name stands for the descriptor.
    """

    def __init__(self, fd: int, path: str | None = None) -> None:
        self._fd: int | None = fd
        self._path = path
        self._file = _file(os.fstat(fd))

    def is_acceptable(self) -> bool:
        """Whether it is what a worker of ours would pass: a regular file of ours, of the right size, with its magic.
        Whoever is told that it was taken says nothing more of its counts.
        """
        with self._opened() as fd:
            info = os.fstat(fd)
        is_ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.getuid() and info.st_size == counter_layout.SIZE
        return is_ours and self.read() is not None

    @property
    def origin(self) -> Origin:
        with self._opened() as fd:
            head = _head(fd)
        kind, named = (
            value_at(head, counter_layout.KIND),
            head[counter_layout.CELL * counter_layout.ID : counter_layout.CELL * (counter_layout.ID + 2)],
        )
        return Origin(
            pid=value_at(head, counter_layout.PID),
            session=str(uuid.UUID(bytes=named)) if kind == counter_layout.OF_SESSION else None,
            group=str(uuid.UUID(bytes=named)) if kind == counter_layout.OF_GROUP else None,
            whose=value_at(head, counter_layout.ANONYMOUS_ID),
            is_retired=value_at(head, counter_layout.RETIRED) != 0,
        )

    @property
    def is_in_use(self) -> bool:
        """Whether its worker's process has it still."""
        try:
            return process.maps(self.origin.pid, self._file[1])
        except OSError:  # who knows
            return True

    def read(self) -> CounterSnapshot | None:
        """What is counted in it by now; None where it is no longer what it was."""
        try:
            with self._opened() as fd:
                used = used_rows(_head(fd))
                return (
                    None
                    if used is None
                    else CounterSnapshot.of(os.pread(fd, counter_layout.CELL * counter_layout.row_cell(used), 0))
                )
        except OSError:
            return None

    def keep_as(self, path: str) -> None:
        """Gives it that name. Where it has no place in that directory (a memfd, macOS) it stays nameless."""
        with suppress(OSError), self._opened() as fd:
            _link(fd, path)
            self._path = path

    @property
    def has_name(self) -> bool:
        return self._path is not None

    def let_go(self) -> None:
        """Gives up the descriptor, where the name is as good."""
        with suppress(OSError):
            if self._fd is not None and self._path is not None and _file(os.lstat(self._path)) == self._file:
                self.close()

    def retire(self) -> None:
        """Its session was reported: whoever brings it again learns that, and its name goes."""
        retired = (1).to_bytes(counter_layout.CELL, sys.byteorder)
        with suppress(OSError), self._opened() as fd:  # a descriptor that we may only read
            os.pwrite(fd, retired, counter_layout.CELL * counter_layout.RETIRED)
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)
        self.close()

    def fileno(self) -> int:
        assert self._fd is not None  # asked of one that just came
        return self._fd

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Raises OSError where it was let go, and is no longer to be had by its name."""
        if self._fd is not None:
            yield self._fd
            return
        assert self._path is not None  # else it was not let go
        fd = _open(self._path)
        try:
            if _file(os.fstat(fd)) != self._file:
                raise FileNotFoundError(self._path)
            yield fd
        finally:
            os.close(fd)


def left_behind(socket_path: str, kept: Mapping[str, int]) -> Iterator[tuple[str, CounterFile]]:
    """The memories that have a name there, by producer: of a daemon that died, or of workers that wait for one."""
    named = paths.named_counter_files(socket_path)
    for name, fd in kept.items():  # by a service manager, under the names that they would have there
        producer, memory = paths.producer_of(name), CounterFile(fd)
        if producer not in named and UUID.fullmatch(producer) and memory.is_acceptable():
            yield producer, memory
        else:
            memory.close()
    for producer, path in named.items():
        with suppress(OSError):
            memory = CounterFile(_open(path), path)
            if UUID.fullmatch(producer) and memory.is_acceptable():
                yield producer, memory
            else:
                memory.close()  # not of our making: left as it is


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)


def _file(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _head(fd: int) -> bytes:
    return os.pread(fd, counter_layout.CELL * counter_layout.FIRST_ROW, 0)


def _link(fd: int, path: str) -> None:
    """By /proc, which needs no privilege; Python's call takes that path only beside some directory's descriptor."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), os.fstat(fd)):
            return  # the producer came back
        if secure_files.is_own_file(path):
            os.unlink(path)  # with another memory
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
