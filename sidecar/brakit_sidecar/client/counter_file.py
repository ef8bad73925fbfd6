"""The file in which a worker counts. The daemon shares it if the machine allows that; else it is private memory."""

from __future__ import annotations

import mmap
import os
import sys

from ..core import counter_layout
from ..core.limits import OVERFLOW_ROUTE
from ..host import standard_fds
from . import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .place import Place

# Read-only by name, although this process writes to it: a program of the user that truncates the file by its name would
# kill this process by SIGBUS. Only root can still do that.
MODE = 0o400

# Mappings that are never closed: closing one closes its own descriptor, whose number the application may use by now.
_kept: list[memoryview] = []


class CounterFile:
    """Cells that a worker writes: 64-bit integers laid out as ``core.counter_layout`` says.

    ``fd`` is None if no other process can see the cells.
    """

    __slots__ = ("_identity", "cells", "fd", "routes")

    def __init__(self, cells: memoryview, fd: int | None) -> None:
        self.cells = cells
        self.fd = fd
        self._identity = None if fd is None else descriptors.identity(fd)
        self.routes = {OVERFLOW_ROUTE: counter_layout.row_cell(0)}  # the first cell of each row, by opaque id
        cells[0] = counter_layout.MAGIC
        cells[counter_layout.USED_ROWS] = 1

    def sign(self, pid: int, place: Place) -> None:
        """Write the owner and its terms, for a daemon that finds the file by its name."""
        self.cells[counter_layout.PID] = pid
        self.cells[counter_layout.KIND] = place.kind
        self.cells[counter_layout.STAMP] = place.stamp
        self.cells[counter_layout.ANONYMOUS_ID] = counter_layout.anonymous_id_cell(place.anonymous_id)
        self.cells[counter_layout.DESTINATION] = counter_layout.destination_cell(place.destination)
        for cell, half in enumerate((place.key[:8], place.key[8:]), start=counter_layout.ID):
            self.cells[cell] = int.from_bytes(half, sys.byteorder)

    def keep_as(self, path: str) -> None:
        """Name the file, so that the next daemon finds it. Does nothing if it has the name or cannot have one."""
        if self.fd is not None:
            try:  # by /proc, which needs no privilege; os.link follows that link only if it is given a descriptor
                os.link(f"/proc/self/fd/{self.fd}", path, src_dir_fd=self.fd, follow_symlinks=True)
            except OSError:  # the file has the name, or its directory does not take one (a memfd, for example)
                pass

    def retire(self) -> None:
        """Mark the file, so that no daemon reads it any more."""
        self.cells[counter_layout.RETIRED] = 1

    @property
    def is_retired(self) -> bool:
        """Return True if the session was reported or consent withdrawn: later counts are not reported."""
        return bool(self.cells[counter_layout.RETIRED])

    @property
    def is_intact(self) -> bool:
        """Return False if the file was overwritten, because the application wrote to our descriptor by mistake.

        A first write is at the file's beginning, where the magic is.
        """
        return bool(self.cells[0] == counter_layout.MAGIC)

    def route_of(self, route: str) -> str:
        """Return the id whose row holds the route's durations: its own, or the overflow's."""
        return route if route in self.routes else OVERFLOW_ROUTE

    def check_descriptor(self) -> None:
        """Drop the descriptor if the application uses its number by now. The cells stay usable."""
        if self.fd is not None and descriptors.identity(self.fd) != self._identity:
            self.fd = None
            _kept.append(self.cells)

    def close(self) -> None:
        """Close the descriptor. The cells stay usable as long as they are referenced."""
        self.check_descriptor()
        if self.fd is not None:
            os.close(self.fd)
        self.fd = None

    def __del__(self) -> None:
        """Close the descriptor. Never raises."""
        try:
            self.close()
        except Exception:  # noqa: BLE001, S110 (at the interpreter's exit modules may be torn down)
            pass

    def row_of(self, route: str) -> list[int]:
        """Return a known route's sum and buckets."""
        start = self.routes[route]
        return self.cells[start + 1 : start + counter_layout.ROW].tolist()

    def row(self, route: str) -> int:
        """Return the first cell of the route's row, and make the row if it is new. Needs the producer's lock.

        Returns the overflow row if there are too many routes.
        """
        start = self.routes.get(route)
        if start is None:
            used = self.cells[counter_layout.USED_ROWS]
            if used > counter_layout.MAX_ROUTES:
                return self.routes[OVERFLOW_ROUTE]
            start = self.routes[route] = counter_layout.row_cell(used)
            self.cells[start] = int(route, 16)
            self.cells[counter_layout.USED_ROWS] = used + 1  # last, because the daemon reads a row from then on
        return start


def shared(directory: str) -> CounterFile | None:
    """Return a file that the daemon can read by its descriptor. Returns None if this machine cannot make one."""
    for make in (_nameless_file, _memfd, _unlinked_file):
        try:
            with standard_fds.Reserved():
                return _map(make(directory))
        except (OSError, AttributeError):  # noqa: PERF203 (AttributeError: a platform without the call)
            pass
    return None


def private() -> CounterFile:
    """Return a counter file in this process' own memory."""
    return CounterFile(memoryview(bytearray(counter_layout.SIZE)).cast("Q"), None)


def _nameless_file(directory: str) -> int:
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, MODE)


def _memfd(_directory: str) -> int:
    return os.memfd_create("brakit-sidecar", os.MFD_CLOEXEC)


def _unlinked_file(_directory: str) -> int:
    import tempfile  # noqa: PLC0415 (10 ms, on a machine that has neither of the above)

    fd, path = tempfile.mkstemp(prefix="brakit-")
    os.unlink(path)
    return fd


def _map(fd: int) -> CounterFile | None:
    try:
        # Allocate every page now: on a full disk, a later write to a missing page would kill the process by SIGBUS.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, counter_layout.SIZE)
        else:
            os.ftruncate(fd, counter_layout.SIZE)
        cells = memoryview(mmap.mmap(fd, counter_layout.SIZE)).cast("Q")  # has a duplicate of the descriptor
    except OSError:
        os.close(fd)
        raise
    if standard_fds.include(fd):  # another thread closed a standard descriptor meanwhile
        os.close(fd)
        return None
    return CounterFile(cells, fd)
