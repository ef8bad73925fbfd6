"""Looks at files without asking the filesystem of another mount, which may never answer (FUSE, a network).

On such a file every call may block for ever, fstat() and open() included. Two things do not ask the filesystem: a
descriptor of O_PATH, and /proc/self/fdinfo, which shows the mount of a descriptor. Where there is neither, as on macOS,
these functions do what the plain calls do.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress

_O_PATH = getattr(os, "O_PATH", None)  # Linux only


def mount_id(fd: int) -> int | None:
    """Return the id of the mount through which a descriptor was opened. Returns None if the platform shows none.

    Raises OSError if descriptors are short.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as fields:
            for field in fields:
                name, _, value = field.partition(b":")
                if name == b"mnt_id":
                    return int(value)
    # No /proc is mounted; or the kernel is older than 5.14, and a process that is not dumpable may not read this.
    except (FileNotFoundError, PermissionError):
        pass
    return None


def is_local(fd: int, directory: str) -> bool:
    """Return whether a descriptor is of the directory's mount, or of memory (a memfd), so that no call on it blocks.

    Returns True if the platform does not show mounts, and False if descriptors are too short to find out.
    """
    try:
        mount = mount_id(fd)
        return mount is None or mount == _mount_of_directory(directory) or mount == _mount_of_memfds()
    except OSError:
        return False


def close_unseen(fd: int) -> None:
    """Close a descriptor of a mount that may never answer. The close waits for the filesystem, so a thread makes it.

    If no thread can be started, the descriptor stays open.
    """
    with suppress(RuntimeError):
        threading.Thread(target=os.close, args=(fd,), daemon=True).start()


def open_file(path: str, flags: int) -> int:
    """Open an existing regular file, without following a link, creating the file or blocking.

    Raises OSError if another filesystem is mounted at the path, or if the file is not a regular one.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC
    handle = _open_handle(path)
    if handle is None:
        return os.open(path, flags | os.O_NOFOLLOW)
    try:
        fd = _open_regular(handle, flags)
    except OSError:
        os.close(handle)
        raise
    os.dup2(fd, handle, inheritable=False)  # the lower number, because the lowest free one shows how many are left
    os.close(fd)
    return handle


def lstat(path: str) -> os.stat_result:
    """Return the information about a path. Raises OSError if another filesystem is mounted at the path."""
    handle = _open_handle(path)
    if handle is None:
        return os.lstat(path)
    try:
        return os.fstat(handle)
    finally:
        os.close(handle)


def stat_on_mount(path: str, mount: int | None) -> os.stat_result | None:
    """Return the information about the file to which a path leads. If ``mount`` is None, the mount is not compared.

    Returns None if the file is not of that mount, or if descriptors are too short to find out. Raises
    FileNotFoundError.
    """
    if _O_PATH is None or mount is None:
        return os.stat(path)
    try:
        handle = os.open(path, _O_PATH | os.O_CLOEXEC)
        try:
            return os.fstat(handle) if mount_id(handle) == mount else None
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise
    except OSError:
        return None


def _open_handle(path: str) -> int | None:
    """Return a descriptor of O_PATH, of the link itself if the path is a link. Returns None if mounts are not shown."""
    if _O_PATH is None:
        return None
    handle = os.open(path, _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        is_shown = _is_mount_shown(handle, path)
    except OSError:
        os.close(handle)
        raise
    if is_shown:
        return handle
    os.close(handle)
    return None


def _is_mount_shown(handle: int, path: str) -> bool:
    """Return whether the platform shows the handle's mount. Raises OSError if it is not the mount of the directory."""
    mount = mount_id(handle)
    if mount != _mount_of_directory(os.path.dirname(path)):
        raise OSError(errno.EXDEV, "another filesystem is mounted here", path)
    return mount is not None


def _open_regular(handle: int, flags: int) -> int:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return os.open(f"/proc/self/fd/{handle}", flags)


def _mount_of_directory(directory: str) -> int | None:
    assert _O_PATH is not None  # else no mount is shown
    handle = os.open(directory, _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mount_id(handle)
    finally:
        os.close(handle)


def _mount_of_memfds() -> int | None:
    """Return the mount of all memfds. The kernel has one for all processes, and no process can mount anything there.

    The name that /proc/self/fd shows proves nothing, because any file may be called "/memfd:".
    """
    try:
        memfd = os.memfd_create("brakit-sidecar", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return None
    try:
        return mount_id(memfd)
    finally:
        os.close(memfd)
