"""The memory in which a worker counts: shared with the daemon where it can be had, else the same cells of its own."""

from __future__ import annotations

import mmap
import os
import sys

from ..core import counter_layout
from ..core.limits import OVERFLOW_ROUTE
from . import descriptors

_kept: list[memoryview] = []  # a mapping closes a descriptor of its own, which by now may be the application's


class CounterFile:
    """``cells`` are 64-bit integers laid out as ``core.slab`` says. ``fd`` is None where nobody else can see them."""

    __slots__ = ("_identity", "cells", "fd", "routes")

    def __init__(self, cells: memoryview, fd: int | None) -> None:
        self.cells = cells
        self.fd = fd
        self._identity = None if fd is None else descriptors.identity(fd)
        self.routes = {OVERFLOW_ROUTE: counter_layout.row_cell(0)}  # by opaque id, the first cell of the route's row
        cells[0] = counter_layout.MAGIC
        cells[counter_layout.USED_ROWS] = 1

    def sign(self, pid: int, kind: int, session_id: bytes, whose: int) -> None:
        """Whose it is, for a daemon that finds it by its name. ``kind``: what the 16 bytes are the id of."""
        self.cells[counter_layout.PID], self.cells[counter_layout.KIND], self.cells[counter_layout.WHOSE] = (
            pid,
            kind,
            whose,
        )
        for cell, half in enumerate((session_id[:8], session_id[8:]), start=counter_layout.ID):
            self.cells[cell] = int.from_bytes(half, sys.byteorder)

    def keep_as(self, path: str) -> None:
        """Gives it a name, where it has a place in that directory: a daemon that comes finds it there."""
        if self.fd is not None:
            try:  # by /proc, which needs no privilege; Python's call takes that path only beside a descriptor
                os.link(f"/proc/self/fd/{self.fd}", path, src_dir_fd=self.fd, follow_symlinks=True)
            except OSError:  # it has its name, or can have none
                pass

    def retire(self) -> None:
        """Whoever finds it by its name leaves it alone."""
        self.cells[counter_layout.RETIRED] = 1

    @property
    def is_retired(self) -> bool:
        """Whether its session was reported: nothing of this producer's counts any more."""
        return bool(self.cells[counter_layout.RETIRED])

    def route_of(self, route: str) -> str:
        """The id under which a route's durations are kept: its own, or the overflow's."""
        return route if route in self.routes else OVERFLOW_ROUTE

    def look(self) -> None:
        """Forgets the descriptor where its number is another's by now. The cells are there nevertheless."""
        if self.fd is not None and descriptors.identity(self.fd) != self._identity:
            self.fd = None
            _kept.append(self.cells)

    def close(self) -> None:
        """Gives up the descriptor; the cells stay as long as anyone holds them."""
        self.look()
        if self.fd is not None:
            os.close(self.fd)
        self.fd = None

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # noqa: BLE001, S110 (at the interpreter's end anything may be gone)
            pass

    def row_of(self, route: str) -> list[int]:
        """A known route's sum and buckets."""
        start = self.routes[route]
        return self.cells[start + 1 : start + counter_layout.ROW].tolist()

    def row(self, route: str) -> int:
        """The first cell of the route's row; of the overflow's where there are too many. Under the producer's lock."""
        start = self.routes.get(route)
        if start is None:
            used = self.cells[counter_layout.USED_ROWS]
            if used > counter_layout.MAX_ROUTES:
                return self.routes[OVERFLOW_ROUTE]
            start = self.routes[route] = counter_layout.row_cell(used)
            self.cells[start] = int(route, 16)
            self.cells[counter_layout.USED_ROWS] = used + 1  # last: until then the daemon does not look at the row
        return start


def shared(directory: str) -> CounterFile | None:
    """CounterFile that the daemon can map by its descriptor; None where this machine gives none."""
    for make in (_nameless_file, _memfd, _unlinked_file):
        try:
            return _map(make(directory))
        except (OSError, AttributeError):  # noqa: PERF203 (AttributeError: a platform without the call)
            pass
    return None


def private() -> CounterFile:
    return CounterFile(memoryview(bytearray(counter_layout.SIZE)).cast("Q"), None)


def _nameless_file(directory: str) -> int:
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _memfd(_directory: str) -> int:
    return os.memfd_create("brakit-sidecar", os.MFD_CLOEXEC)


def _unlinked_file(_directory: str) -> int:
    import tempfile  # noqa: PLC0415 (10 ms, where nothing better can be had)

    fd, path = tempfile.mkstemp(prefix="brakit-")
    os.unlink(path)
    return fd


def _map(fd: int) -> CounterFile:
    try:
        # Every page is there before it is written: on a full disk a write to a missing page would kill the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, counter_layout.SIZE)
        else:
            os.ftruncate(fd, counter_layout.SIZE)
        return CounterFile(memoryview(mmap.mmap(fd, counter_layout.SIZE)).cast("Q"), fd)
    except OSError:
        os.close(fd)
        raise
