"""The standard descriptors 0, 1 and 2, which no file or socket of this package may get.

The kernel gives the lowest free number. In a process whose stdout is closed, a file of ours could become descriptor 1.
What the application prints would then be written into our counts, or be sent to the daemon.
"""

from __future__ import annotations

import io
import os
import sys

STANDARD = range(3)


def fill() -> None:
    """Open /dev/null at each standard descriptor that is closed, for the rest of this process.

    For commands and the daemon, before they open anything else. A program that is executed gets the descriptors as they
    were. Needs a process with one thread.

    Python has no ``sys.stdout`` or ``sys.stderr`` then. A ``print`` to a missing stderr would print to stdout, so each
    missing stream is replaced by one that discards the text.
    """
    for standard in STANDARD:
        if not is_open(standard):  # then it is the lowest free number, which open() returns
            try:
                os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            except OSError:  # a chroot without devices
                os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    if sys.stdout is None:
        sys.stdout = _Discarding()
    if sys.stderr is None:
        sys.stderr = _Discarding()


class _Discarding(io.TextIOBase):
    def write(self, text: str) -> int:
        """Discard the text."""
        return len(text)


def is_open(fd: int) -> bool:
    """Return whether the descriptor is open. Unlike fstat(), this never waits for a filesystem."""
    try:
        os.get_inheritable(fd)
    except OSError:
        return False
    return True


def include(fd: int) -> bool:
    """Return whether the descriptor or, on Linux, a duplicate of it is a standard descriptor.

    Compares links in /proc, because fstat() of a standard descriptor could wait for its filesystem.
    """
    link = _link(fd)
    return fd in STANDARD or (link is not None and link in map(_link, STANDARD))


def _link(fd: int) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


class Reserved:
    """Reserves the closed standard descriptors for a block, so that what is opened there gets higher numbers.

    For the application's process. Afterwards they are closed again, because the application may have closed them in
    order to open others there. The placeholders are of the root directory, so that another thread can neither read nor
    write meanwhile, as if they were closed. If one cannot be opened, the numbers stay free.

    Race: another thread closes a standard descriptor during the block, and the block's file gets its number. Callers
    check the number before they use the file.

    Race: another thread forks during the block, and the child keeps a placeholder. A program that it executes does not.
    """

    __slots__ = ("_placeholders",)

    def __enter__(self) -> None:
        """Open the placeholders."""
        self._placeholders: list[tuple[int, os.stat_result]] = []
        for standard in STANDARD:
            if not is_open(standard):
                self._open_placeholder()

    def __exit__(self, *_error: object) -> None:
        """Close the placeholders, except one that the application has replaced by a file of its own (dup2)."""
        for fd, info in self._placeholders:
            try:
                if os.path.samestat(os.fstat(fd), info):
                    os.close(fd)
            except OSError:  # noqa: PERF203 (the application has closed it)
                pass

    def _open_placeholder(self) -> None:
        try:
            # With O_PATH, a read or write has the error of a closed descriptor (EBADF). macOS does not have it.
            fd = os.open("/", getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
        except OSError:  # the descriptor limit, or a sandbox
            return
        self._placeholders.append((fd, os.fstat(fd)))
