"""A FUSE filesystem that opens every file and then never answers, as that of a server that hangs.

It speaks the kernel's protocol (linux/fuse.h) itself, because a FUSE library is not worth three answers.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKUP, _OPEN, _RELEASE, _FLUSH, _INIT = 1, 14, 18, 25, 26
_HEADER = struct.Struct("=IIQQIII4x")  # length, operation, id of the request, inode, user, group, thread
_MAX_REQUEST = 1024 * 1024 + 4096  # the kernel refuses to write into a smaller buffer
_MS_NOSUID_NODEV, _MS_BIND = 2 | 4, 4096
_FORCE, _DETACH = 1, 2
_FILE_INODE = 2

_INITIALIZED = struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0)
_OPENED = bytes(16)


def _entry() -> bytes:
    """Return the answer to a lookup: a regular file of this user. Its attributes are not valid for any time."""
    attributes = struct.pack(
        "=6Q10I", _FILE_INODE, 8192, 16, 0, 0, 0, 0, 0, 0, stat.S_IFREG | 0o600, 1, os.getuid(), os.getgid(), 0, 4096, 0
    )
    return struct.pack("=QQQQII", _FILE_INODE, 0, 3600, 0, 0, 0) + attributes


def _serve(device: int) -> None:
    answers = {_INIT: _INITIALIZED, _LOOKUP: _entry(), _OPEN: _OPENED, _RELEASE: b""}
    while True:
        try:
            request = os.read(device, _MAX_REQUEST)
        except OSError:  # it is not mounted any more
            return
        _length, operation, unique, _inode, _user, _group, thread = _HEADER.unpack_from(request)
        # A close waits for the answer to its FLUSH. The test must be able to close its own descriptors.
        is_of_the_test = operation == _FLUSH and os.path.exists(f"/proc/self/task/{thread}")
        if operation in answers or is_of_the_test:
            answer = answers.get(operation, b"")
            with suppress(OSError):  # the caller does not wait any more
                os.write(device, struct.pack("=IiQ", 16 + len(answer), 0, unique) + answer)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> None:
    """Mount, or skip the test if this process may not."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    if _libc().mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]) != 0:
        pytest.skip(f"may not mount here: {os.strerror(ctypes.get_errno())}")


def _unmount(target: str) -> None:
    _libc().umount2(os.fsencode(target), _FORCE | _DETACH)  # all calls on its files then fail


@contextmanager
def silent_filesystem(directory: str) -> Iterator[None]:
    """Mount one at an empty directory, in which every name is a file. Skips the test where that is not possible."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    options = f"fd={device},rootmode={stat.S_IFDIR:o},user_id={os.getuid()},group_id={os.getgid()}"
    try:
        _mount("silent", directory, "fuse", _MS_NOSUID_NODEV, options)
        threading.Thread(target=_serve, args=[device], daemon=True).start()
        try:
            yield
        finally:
            _unmount(directory)
    finally:
        os.close(device)


@contextmanager
def bound(source: str, target: str) -> Iterator[None]:
    """Mount a file or directory at a second place. Skips the test where that is not possible."""
    _mount(source, target, None, _MS_BIND, None)
    try:
        yield
    finally:
        _unmount(target)
