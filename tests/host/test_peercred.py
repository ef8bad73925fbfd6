"""The user and the process at the other end of a socket."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from brakit_sidecar.host import peercred

if TYPE_CHECKING:
    import pytest


def test_the_user_and_the_process_of_a_peer_are_reported() -> None:
    own, peer = socket.socketpair()
    with own, peer:
        assert peercred.pid_of(own) == os.getpid()
        assert peercred.is_own_user(own)


def test_is_own_user_is_false_for_a_peer_of_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    own, peer = socket.socketpair()
    with own, peer:
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
        assert not peercred.is_own_user(own)


def test_is_own_user_is_false_for_a_peer_whose_user_is_not_reported() -> None:
    own, peer = socket.socketpair()
    peer.close()
    own.close()
    assert not peercred.is_own_user(own)
