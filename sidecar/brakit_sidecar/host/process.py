"""Processes that are no children of ours, and the boot they live in."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from signal import SIGHUP, SIGINT, SIGTERM

ENDING_SIGNALS = (SIGTERM, SIGINT, SIGHUP)  # what ends a daemon in order


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


def can_be_watched(pid: int) -> bool:
    """Whether the exit of this process can be watched for."""
    exit_fd = end_of(pid)
    if exit_fd is not None:
        os.close(exit_fd)
    return exit_fd is not None


def exists(pid: int) -> bool:
    """Whether there is a process of that number; it may be another one by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # there is, and it is not ours
        pass
    return True


def maps(pid: int, inode: int) -> bool:
    """Whether the process has the file mapped, by /proc: a pid alone may be another process' by now. From inside a
    user namespace, as systemd's sandbox is one, that cannot be seen: any process of this user's is then believed.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as mappings:
            return any(line.split(maxsplit=5)[4] == b"%d" % inode for line in mappings)
    except PermissionError:
        return _may_be_signalled(pid)
    except OSError:
        return False


def _may_be_signalled(pid: int) -> bool:
    """Which a process of another user's may not."""
    with suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


def boot_id() -> str:
    """Another one after each start of the machine; empty where the platform does not say."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""
