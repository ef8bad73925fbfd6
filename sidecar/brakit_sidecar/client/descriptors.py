"""Whether a descriptor is still what we opened. An application may close all that is open, as who becomes a daemon
does, and have the number for a socket or a file of its own by now: that we neither close nor write into.
"""

from __future__ import annotations

import os


def identity(fd: int) -> tuple[int, int] | None:
    """Of the file or socket behind it; None where it is closed."""
    try:
        info = os.fstat(fd)
    except OSError:
        return None
    return info.st_dev, info.st_ino
