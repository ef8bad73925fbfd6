"""A connection that waits for the daemon's answers."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.host.conversation import Conversation, SilentDaemonError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Place


@pytest.fixture
def busy(place: Place) -> Iterator[tuple[str, socket.socket]]:
    """Make a listening socket with a full backlog. Yields its path and the socket."""
    path = os.path.join(place.root, "busy")
    with ExitStack() as held:
        listener = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(path)
        listener.listen(0)
        while True:
            waiting = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            waiting.setblocking(False)
            try:
                waiting.connect(path)
            except BlockingIOError:
                break
        yield path, listener


def test_a_connect_to_a_full_backlog_is_retried(
    busy: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, listener = busy
    monkeypatch.setattr(time, "sleep", lambda _s: listener.accept()[0].close())
    with Conversation(path):
        stream, _ = listener.accept()
        with stream:
            assert b"hello" in stream.recv(4096)


def test_a_backlog_that_stays_full_raises_silent_daemon_error(busy: tuple[str, socket.socket]) -> None:
    path, _listener = busy
    with pytest.raises(SilentDaemonError):
        Conversation(path, 0.05)


def test_waiting_for_the_hang_up_of_a_closed_conversation_returns_at_once(home: Place) -> None:
    conversation = Conversation(home.socket_path)
    conversation.close()
    conversation.wait_for_hangup()
