"""Who is at the other end of a socket."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from brakit_sidecar.host import peercred

if TYPE_CHECKING:
    import pytest


def test_a_peer_is_known_by_user_and_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peercred.pid_of(ours) == os.getpid()
        assert peercred.is_own_user(ours)


def test_another_user_is_not_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
        assert not peercred.is_own_user(ours)


def test_who_cannot_be_known_is_not_our_own() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()
    assert not peercred.is_own_user(ours)
