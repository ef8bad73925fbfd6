"""The user and the process at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
import sys

_SOL_LOCAL = 0  # macOS' names, which the socket module lacks
_LOCAL_PEERCRED, _LOCAL_PEERPID = 1, 2


def pid_of(connection: socket.socket) -> int:
    """Return the peer's process id. Returns 0 if macOS does not report it.

    Raises OSError if Linux does not report it.
    """
    if sys.platform == "linux":
        return _credentials(connection)[0]
    try:
        return int.from_bytes(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4), sys.byteorder)
    except OSError:
        return 0


def is_own_user(connection: socket.socket) -> bool:
    """Return whether the peer runs as this user. Root counts as another user.

    A socket's mode does not keep root out.
    """
    try:
        return _credentials(connection)[1] == os.getuid()
    except OSError:
        return False


def _credentials(connection: socket.socket) -> memoryview:
    """Return the numbers that the kernel recorded at the peer's connect or listen. The second number is the user."""
    if sys.platform == "linux":  # struct ucred: pid, uid, gid
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    else:  # struct xucred: a version, uid, groups
        found = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)
    return memoryview(found).cast("I")
