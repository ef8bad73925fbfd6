"""The end of a process that is no child of ours."""

from __future__ import annotations

import os
import select
import sys


def end_of(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends (also before anybody has reaped it); the caller closes
    it. None where there is no such process, or the platform cannot say.
    """
    if pid <= 0:
        return None
    try:
        if sys.platform == "linux":
            return os.pidfd_open(pid)
        if sys.platform == "darwin":
            queue = select.kqueue()
            exit_of = select.kevent(
                pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT
            )
            queue.control([exit_of], 0)
            return os.dup(queue.fileno())
    except (OSError, OverflowError):  # gone; an older kernel; no descriptor left; a number that is no pid
        return None
    return None
