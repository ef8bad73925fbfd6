"""Who is at the other end of a Unix socket. The worker's side loads this file too, so it imports next to nothing."""

from __future__ import annotations

import os
import socket
import sys

_SOL_LOCAL = 0  # of macOS, whose names the socket module has not got
_LOCAL_PEERCRED, _LOCAL_PEERPID = 1, 2


def pid_of(connection: socket.socket) -> int:
    """0 where the platform does not say. Raises OSError where it cannot."""
    if sys.platform == "linux":
        return _credentials(connection)[0]
    try:
        return int.from_bytes(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4), sys.byteorder)
    except OSError:
        return 0


def is_own_user(connection: socket.socket) -> bool:
    """Root included: a 0600 socket does not keep root out, and root's numbers are not this user's."""
    try:
        return _credentials(connection)[1] == os.getuid()
    except OSError:
        return False


def _credentials(connection: socket.socket) -> memoryview:
    """What the kernel took down when the other end connected, or began to listen. The user is the second number."""
    if sys.platform == "linux":  # struct ucred: pid, uid, gid
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    else:  # struct xucred: a version, uid, groups
        found = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)
    return memoryview(found).cast("I")
