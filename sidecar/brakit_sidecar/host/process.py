"""Processes that are not children of this one, and the boot in which they run."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from signal import SIGHUP, SIGINT, SIGTERM

from . import mounts

MAX_FDS_CHECKED = 1024  # takes 5 ms; a worker opens its counter file early, so it has a low number
ENDING_SIGNALS = (SIGTERM, SIGINT, SIGHUP)  # the signals that make a daemon exit in order


def open_exit_fd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process exits, even before it is reaped.

    The caller closes it. Returns None if there is no such process, or if this platform or kernel cannot watch one.
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
    # AttributeError: a Python that was built without the call. OverflowError: a number that cannot be a pid. OSError:
    # the process exited, the kernel is too old, or the descriptor limit is reached.
    except (AttributeError, OSError, OverflowError):
        return None
    return None


def why_not_owner(pid: int) -> str | None:
    """Return why the process cannot own a session, as a clause. Returns None if it can.

    A daemon that cannot read /proc/PID still knows whether the process is this user's.
    """
    if pid <= 0:
        return "that is not the id of a process"
    if pid == 1:
        return "it does not exit before the machine or the container stops"
    if not exists(pid):
        return "there is no such process"
    if not _may_be_signalled(pid):
        return "it is another user's process"
    with suppress(OSError, KeyError):
        status = _status(pid)
        if int(status["Uid"].split()[0]) != os.getuid():  # root may signal every process
            return "it is another user's process"
        if len(status["NSpid"].split()) > 1:  # one id for each PID namespace, from that of /proc to the process' own
            return "it is in another PID namespace"
    exit_fd = open_exit_fd(pid)
    if exit_fd is None:
        return "this system cannot watch it"
    os.close(exit_fd)
    return None


def _status(pid: int) -> dict[str, str]:
    """Return the entries of /proc/PID/status. Raises OSError."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return dict(line.split(":", 1) for line in file)


def pid_namespace() -> str:
    """Return the name of this process' PID namespace. Returns "" if the platform has none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def exists(pid: int) -> bool:
    """Return whether a process has that number. It may be a later process than the expected one."""
    if pid <= 0:  # a group of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # the process is another user's
        pass
    return True


def has_mapped(pid: int, inode: int) -> bool:
    """Return whether the process maps the file, because the pid alone may belong to a later process.

    The inode alone decides, because /proc/PID/maps and stat() report different devices on some filesystems (btrfs).
    A daemon inside a user namespace, such as systemd's sandbox, may not read /proc/PID/maps. Then the answer is whether
    the process is this user's.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as mappings:
            return any(line.split(maxsplit=5)[4] == b"%d" % inode for line in mappings)
    except PermissionError:
        return _may_be_signalled(pid)
    except OSError:
        return False


def has_open(pid: int, name: str, identity: tuple[int, int], mount: int | None = None) -> bool:
    """Return whether the process has the file open that has this name, device and inode.

    No file of another name is asked for its identity, and none of another mount than ``mount``, because a stat of a
    file on a network may block. For a file of this name on another mount the answer is True. The work is bounded: for a
    file that is not among the first MAX_FDS_CHECKED descriptors of more, the answer is True. If the daemon may not read
    /proc/PID/fd, the answer is whether the process is this user's.
    """
    try:
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            for number, descriptor in enumerate(descriptors):
                if number == MAX_FDS_CHECKED:
                    return True
                with suppress(FileNotFoundError):  # the process closed it meanwhile
                    if name in os.readlink(descriptor.path):
                        info = mounts.stat_on_mount(descriptor.path, mount)
                        if info is None or (info.st_dev, info.st_ino) == identity:
                            return True
    except PermissionError:
        return _may_be_signalled(pid)
    except OSError:
        return False
    return False


def _may_be_signalled(pid: int) -> bool:
    """Return whether this user may signal the process. The kernel refuses that for another user's process."""
    with suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


def boot_id() -> str:
    """Return an id that changes at each boot of the machine. Returns "" if the platform has none."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return ""
