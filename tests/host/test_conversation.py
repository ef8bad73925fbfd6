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
    """A socket of ours whose backlog is full, and who listens there."""
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


def test_a_daemon_whose_backlog_is_full_is_tried_again(
    busy: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, listener = busy
    monkeypatch.setattr(time, "sleep", lambda _s: listener.accept()[0].close())
    with Conversation(path):
        stream, _ = listener.accept()
        with stream:
            assert b"hello" in stream.recv(4096)


def test_one_that_stays_full_is_too_busy(busy: tuple[str, socket.socket]) -> None:
    path, _listener = busy
    with pytest.raises(SilentDaemonError):
        Conversation(path, 0.05)


def test_the_end_of_a_conversation_that_another_thread_closed_is_not_waited_for(home: Place) -> None:
    conversation = Conversation(home.socket_path)
    conversation.close()
    conversation.wait_for_hangup()
