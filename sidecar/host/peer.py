"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import NamedTuple


class Peer(NamedTuple):
    uid: int
    pid: int  # 0 where the platform does not say


def peer_of(connection: socket.socket) -> Peer:
    """The credentials that the kernel took down when the other end connected. Raises OSError where it cannot say."""
    if sys.platform == "linux":
        pid, uid, _gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return Peer(uid, pid)
    local = 0  # SOL_LOCAL
    peer_cred, peer_pid = 1, 2  # LOCAL_PEERCRED: struct xucred, version and uid first; LOCAL_PEERPID
    _version, uid = struct.unpack_from("II", connection.getsockopt(local, peer_cred, 76))
    try:
        pid = struct.unpack("i", connection.getsockopt(local, peer_pid, 4))[0]
    except OSError:
        pid = 0
    return Peer(uid, pid)


def is_own_user(connection: socket.socket) -> bool:
    """Root included: a 0600 socket does not keep root out, and root's numbers are not this user's."""
    try:
        return peer_of(connection).uid == os.getuid()
    except OSError:
        return False
