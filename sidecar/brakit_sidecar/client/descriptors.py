"""Tells whether a descriptor still is what this package opened.

An application may close every descriptor, as a daemonizing process does, and then use the number for a file or socket
of its own. This package must neither close nor write to that.
"""

from __future__ import annotations

import os


def identity(fd: int) -> tuple[int, int] | None:
    """Return device and inode of the file or socket. Returns None if the descriptor is closed."""
    try:
        info = os.fstat(fd)
    except OSError:
        return None
    return info.st_dev, info.st_ino
