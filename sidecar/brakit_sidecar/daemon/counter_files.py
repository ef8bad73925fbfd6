"""Workers' counter files as the daemon holds them: descriptors of another process's file, in which nothing is trusted.

A worker passes the descriptor with its hello. If its language cannot pass one, the daemon opens the file by its name.
Each file has a name beside the socket, by which the next daemon finds what was counted meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from ..core import counter_layout, frames
from ..core.counter_snapshot import CounterSnapshot, used_rows, value_at
from ..host import mounts, paths, process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..core.frames import Hello
    from .service_manager import ServiceManager

_RETIRED = (1).to_bytes(counter_layout.CELL, sys.byteorder)
_WRITABLE = 0o600  # the mode of a file that is about to be retired; until then its client has made it 0400
_HEAD_CELLS = counter_layout.DESTINATION + 1


class Origin(NamedTuple):
    """The worker and the session that the file's first cells name."""

    pid: int
    session: str | None
    group: str | None
    anonymous_id_cell: int  # 0 if the worker did not know it
    stamp: int | None  # of the config as the worker read it; None if it is unknown
    destination: str | None
    is_retired: bool


class CounterFile:
    """One worker's counter file; its descriptor is ours to close.

    It is read with pread and never mapped, because a worker that truncates a mapped file would kill the daemon. If
    descriptors are short, it is opened by its name instead.
    """

    def __init__(self, fd: int, path: str | None = None) -> None:
        self._fd: int | None = fd
        self._path = path
        self._identity = _identity(os.fstat(fd))
        self.is_overwritten = False  # True once a read found that it does not begin like a counter file any more

    def is_acceptable(self) -> bool:
        """Return True if it is a regular file of this user with the right size and magic.

        After the daemon accepts it, the worker sends no more lines about its counts.
        """
        with self._opened() as fd:
            info = os.fstat(fd)
        return _is_own_file(info) and info.st_size == counter_layout.SIZE and self.read() is not None

    def counts_only_for(self, hello: Hello) -> bool:
        """Return True if the file names the session or group of the hello, and if the file has no second name.

        Otherwise a hello could count or retire the file of another session, and two producers could count one file.
        """
        try:
            origin = self.origin
            with self._opened() as fd:
                links = os.fstat(fd).st_nlink
        except OSError:
            return False
        is_of_session = origin.session == hello.session if hello.session is not None else origin.group == hello.group
        return is_of_session and links == 1

    @property
    def origin(self) -> Origin:
        """Return the origin that the first cells hold. Raises OSError."""
        with self._opened() as fd:
            head = _head(fd)
        if len(head) < counter_layout.CELL * _HEAD_CELLS:
            raise OSError(errno.EINVAL, "the worker has truncated its counter file")
        kind = value_at(head, counter_layout.KIND)
        id_start = counter_layout.CELL * counter_layout.ID
        named = str(UUID(bytes=bytes(head[id_start : id_start + 16])))
        return Origin(
            pid=value_at(head, counter_layout.PID),
            session=named if kind == counter_layout.OF_SESSION else None,
            group=named if kind == counter_layout.OF_GROUP else None,
            anonymous_id_cell=value_at(head, counter_layout.ANONYMOUS_ID),
            stamp=value_at(head, counter_layout.STAMP) or None,
            destination=counter_layout.destination_in(value_at(head, counter_layout.DESTINATION)),
            is_retired=value_at(head, counter_layout.RETIRED) != 0,
        )

    @property
    def is_retired(self) -> bool:
        """Return True if it counts for no session any more, or cannot be read."""
        try:
            return self.origin.is_retired
        except OSError:
            return True

    def is_in_use(self) -> bool:
        """Return True if its worker's process maps it or has it open, or if the pid in the file cannot be read.

        The worker wrote that pid, so it is not trusted: the process must hold this file. Threads of Node share one pid.
        """
        try:
            pid = self.origin.pid
            with self._opened() as fd:
                mount = mounts.mount_id(fd)
        except OSError:
            return True
        if process.has_mapped(pid, self._identity[1]):
            return True
        name = None if self._path is None else os.path.basename(self._path)
        return name is not None and process.has_open(pid, name, self._identity, mount)

    def read(self) -> CounterSnapshot | None:
        """Return what is counted in it by now. Returns None if it cannot be read, or was overwritten."""
        if self.is_overwritten:
            return None
        try:
            with self._opened() as fd:
                used = used_rows(_head(fd))
                size = counter_layout.CELL * counter_layout.row_cell(used or 0)
                snapshot = CounterSnapshot.of(os.pread(fd, size, 0))
        except OSError:
            return None
        self.is_overwritten = snapshot is None
        return snapshot

    def link_at(self, path: str) -> None:
        """Link it at that path. A file of another filesystem (a memfd) cannot be linked, and none can on macOS."""
        with suppress(OSError), self._opened() as fd:
            _link(fd, path)
            self._path = path

    def claim(self, path: str) -> None:
        """Note that this is its path, if the path leads to it. Its worker may have linked it there."""
        with suppress(OSError):
            if _identity(mounts.lstat(path)) == self._identity:
                self._path = path

    @property
    def has_name(self) -> bool:
        """Return True if it can be opened again by its name."""
        return self._path is not None

    def release_descriptor(self) -> None:
        """Close the descriptor, if the file can be opened again by its name."""
        with suppress(OSError):
            if self._path is not None and _identity(mounts.lstat(self._path)) == self._identity:
                self.close()

    def retire(self) -> None:
        """Mark it, because it counts for no session any more, and remove its name. Its worker reads the mark."""
        with suppress(OSError):
            self._mark_retired()
        self.remove()

    def remove(self) -> None:
        """Remove its name, unless its worker has given the name to another file, and close it."""
        if self._path is not None:
            with suppress(OSError):
                if _identity(os.lstat(self._path)) == self._identity:
                    os.unlink(self._path)
        self.close()

    def fileno(self) -> int:
        """Return the descriptor of a file that was just accepted."""
        assert self._fd is not None
        return self._fd

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Give its descriptor, opened by its name if it was released. Raises OSError if the name leads elsewhere."""
        if self._fd is not None:
            yield self._fd
            return
        fd = self._open_again(os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open_again(self, flags: int) -> int:
        """Open it by its name. Raises OSError if the name leads elsewhere."""
        assert self._path is not None  # else the descriptor was not released
        fd = mounts.open_file(self._path, flags)
        if _identity(os.fstat(fd)) != self._identity:
            os.close(fd)
            raise FileNotFoundError(self._path)
        return fd

    def _mark_retired(self) -> None:
        """Write the mark. A descriptor that was opened by name is read-only, because the mode of the file is 0400."""
        position = counter_layout.CELL * counter_layout.RETIRED
        with self._opened() as fd:
            try:
                os.pwrite(fd, _RETIRED, position)
            except OSError:
                if self._path is None:
                    raise
                os.fchmod(fd, _WRITABLE)
                writable = self._open_again(os.O_WRONLY)
                try:
                    os.pwrite(writable, _RETIRED, position)
                finally:
                    os.close(writable)


@dataclass(eq=False)
class CounterFiles:
    """The accepted counter files, by session and producer. Each is also kept for the next daemon.

    It is linked beside the socket, and stored by a service manager. A memfd cannot be linked, and is only stored.
    """

    socket_path: str
    manager: ServiceManager
    _files: dict[str, dict[str, CounterFile]] = field(default_factory=dict)

    def accept(self, fd: int, hello: Hello) -> CounterFile | None:
        """Take over a descriptor that came with a hello. Returns None, and closes it, if it is not a counter file.

        A descriptor of another mount may block every call on it, so it is closed without a look. A worker in another
        mount namespace than the daemon has the same file on another mount; that file is opened by its name.
        """
        if not mounts.is_local(fd, os.path.dirname(self.socket_path)):
            mounts.close_unseen(fd)
            return self.open_named(hello)
        file = CounterFile(fd)
        if file.is_acceptable():
            return file
        file.close()
        return None

    def open_named(self, hello: Hello) -> CounterFile | None:
        """Open the file that the producer of a hello has named beside the socket. Returns None if it is not acceptable.

        The name cannot lead out of the directory, because ``core.frames`` makes every producer a UUID in lower case.
        """
        if hello.session is None and hello.group is None:
            return None
        assert hello.producer is not None  # a hello that names a session or a group names its producer
        path = paths.counter_file_path(self.socket_path, hello.producer)
        try:
            file = CounterFile(mounts.open_file(path, os.O_RDONLY), path)
        except OSError:
            return None
        if file.is_acceptable() and file.counts_only_for(hello):
            return file
        file.close()  # not retired, because another session may count it
        return None

    def attach(self, session_id: str, producer: str, file: CounterFile) -> CounterSnapshot | None:
        """Keep a file that came with a hello. Returns what an earlier file of the producer holds, which is closed."""
        files = self._files.setdefault(session_id, {})
        before, files[producer] = files.get(producer), file
        snapshot = None
        if before is not None:  # read before the link, which replaces the name of the earlier file
            snapshot = before.read()
            before.close()
        file.link_at(paths.counter_file_path(self.socket_path, producer))
        self.manager.store(paths.counter_file_name(producer), file.fileno())
        return snapshot

    def reject(self, producer: str, file: CounterFile) -> None:
        """Retire a file whose hello joined no session. Its worker named it before the hello."""
        file.claim(paths.counter_file_path(self.socket_path, producer))
        self.retire(producer, file)

    def attach_found(self, session_id: str, producer: str, file: CounterFile) -> None:
        """Keep a file that an earlier daemon kept."""
        self._files.setdefault(session_id, {})[producer] = file

    def of(self, session_id: str, producer: str) -> CounterFile | None:
        """Return a producer's file."""
        return self._files.get(session_id, {}).get(producer)

    def snapshots(self, session_id: str) -> list[tuple[str, CounterSnapshot]]:
        """Read every file of a session that can be read."""
        read = [(producer, self.snapshot(session_id, producer)) for producer in list(self._files.get(session_id, {}))]
        return [(producer, snapshot) for producer, snapshot in read if snapshot is not None]

    def snapshot(self, session_id: str, producer: str) -> CounterSnapshot | None:
        """Read one producer's file. Returns None if there is none, or if it cannot be read.

        Drops a file that was overwritten: what it held before stays merged, and it is never read again.
        """
        file = self.of(session_id, producer)
        if file is None:
            return None
        snapshot = file.read()
        if file.is_overwritten:
            del self._files[session_id][producer]
            file.remove()
            self.manager.discard(paths.counter_file_name(producer))
        return snapshot

    def is_in_use(self, session_id: str, producer: str) -> bool:
        """Return True if the producer's process still maps its file or has it open."""
        file = self.of(session_id, producer)
        return file is not None and file.is_in_use()

    def has_exited(self, session_id: str, producer: str, pid: int) -> bool:
        """Return True if the producer's process has certainly exited. Without a file, ``pid`` decides; 0 is unknown."""
        file = self.of(session_id, producer)
        if file is not None:
            return not file.is_in_use()
        return pid != 0 and not process.exists(pid)

    def release_descriptors(self) -> None:
        """Close the descriptor of every file that can be opened again by its name."""
        for files in self._files.values():
            for file in files.values():
                file.release_descriptor()

    def release(self, session_id: str, producer: str) -> None:
        """Retire a producer's file, because it counts for no session any more."""
        file = self._files.get(session_id, {}).pop(producer, None)
        if file is not None:
            self.retire(producer, file)

    def release_all(self, session_id: str) -> None:
        """Retire the files of a session that is over."""
        for producer, file in self._files.pop(session_id, {}).items():
            self.retire(producer, file)

    def retire(self, producer: str, file: CounterFile) -> None:
        """Retire a file, wherever it is kept."""
        file.retire()
        self.manager.discard(paths.counter_file_name(producer))


def left_behind(socket_path: str, stored: Mapping[str, int]) -> Iterator[tuple[str, CounterFile]]:
    """Find the counter files of a daemon that died, or of workers that wait for a daemon, by producer.

    ``stored`` are those that a service manager stored, by the names that they would have beside the socket.
    """
    named = paths.named_counter_files(socket_path)
    for name, fd in stored.items():
        producer, file = paths.producer_of(name), CounterFile(fd)
        if producer not in named and _is_acceptable(producer, file):
            yield producer, file
        else:
            file.close()
    for producer, path in named.items():
        with suppress(OSError):
            file = CounterFile(mounts.open_file(path, os.O_RDONLY), path)
            if _is_acceptable(producer, file):
                yield producer, file
            else:
                file.close()  # not made by our client, so it stays


def _is_acceptable(producer: str, file: CounterFile) -> bool:
    return frames.UUID.fullmatch(producer) is not None and file.is_acceptable()


def _is_own_file(info: os.stat_result) -> bool:
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.getuid()


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _head(fd: int) -> bytes:
    return os.pread(fd, counter_layout.CELL * _HEAD_CELLS, 0)


def _link(fd: int, path: str) -> None:
    """Link by /proc, which needs no privilege. os.link follows that link only if ``src_dir_fd`` is given."""
    with suppress(FileNotFoundError):
        named = mounts.lstat(path)
        if os.path.samestat(named, os.fstat(fd)):
            return  # the producer reconnected
        if _is_own_file(named):
            os.unlink(path)  # another file of the same producer
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
