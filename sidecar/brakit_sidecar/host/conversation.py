"""Talking to the daemon and waiting for its answer: what a command does, and a worker never."""

from __future__ import annotations

import json
import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..core.wire import PROTOCOL, encode
from . import peercred

if TYPE_CHECKING:
    from types import TracebackType

ANSWER_TIMEOUT_S = 5.0  # a daemon answers in a millisecond; a second on a machine that is starved
_RETRY_S = 0.005
_OTHER_PROTOCOL = {"refused": {"reason": "bad_hello", "line": 1}}  # as our hello is good in ours


class NoDaemonError(Exception):
    """Nobody answers there."""


class SilentDaemonError(NoDaemonError):
    """Somebody listens there, and does not answer in time."""


class StrangerError(NoDaemonError):
    """Somebody listens there who is no daemon of ours: it will be none later either. Says who."""


class Conversation:
    """One connection. Every failure is a NoDaemonError."""

    def __init__(self, socket_path: str, answer_s: float = ANSWER_TIMEOUT_S, **hello: Any) -> None:
        """``answer_s``: how long to wait for an answer. ``hello``: what the first line says beside the protocol."""
        self._lines = b""
        self._socket = _connect(socket_path, answer_s)
        self.say({"hello": {"protocol": PROTOCOL, **hello}})

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def say(self, frame: dict[str, Any]) -> None:
        try:
            self._socket.sendall(encode(frame))
        except OSError as error:
            raise NoDaemonError(str(error)) from error

    def ask(self, question: Any, answer_s: float | None = None) -> Any:
        """The daemon's answer, after it has taken in everything said before. ``answer_s``: from here on, how long to
        wait for one.
        """
        if answer_s is not None:
            self._socket.settimeout(answer_s)
        self.say({"ask": question})
        while True:
            try:
                said = json.loads(self._line())
            except ValueError as error:
                raise StrangerError("what listens there is no sidecar") from error
            if isinstance(said, dict) and "answer" in said:
                return said["answer"]
            if said == _OTHER_PROTOCOL:
                raise StrangerError("a sidecar of another version listens there")

    def identity(self) -> dict[str, Any]:
        """Who answers: at least ``socket``, ``pid`` and ``version``."""
        identity = self.ask("identity")
        if not isinstance(identity, dict) or not identity.keys() >= {"socket", "pid", "version"}:
            raise StrangerError("what listens there is no sidecar")
        return identity

    def wait_for_hangup(self) -> None:
        """Until the daemon has closed the connection. Reads nothing, so another thread may go on with it, and close it
        before we wait.
        """
        hung_up = select.poll()
        with suppress(ValueError):  # it was closed here
            hung_up.register(self._socket, 0)  # that alone is always told
            hung_up.poll()

    def close(self) -> None:
        self._socket.close()

    def _line(self) -> bytes:
        while b"\n" not in self._lines:
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError as error:
                raise SilentDaemonError("it does not answer") from error
            except OSError as error:
                raise NoDaemonError(str(error)) from error
            if not chunk:
                raise NoDaemonError("it hung up")
            self._lines += chunk
        line, _, self._lines = self._lines.partition(b"\n")
        return line


def _connect(socket_path: str, timeout_s: float) -> socket.socket:
    """Never blocking, as a blocking connect to a full backlog waits without bound; full, it is tried again."""
    deadline = time.monotonic() + timeout_s
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(socket_path)
        except BlockingIOError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise SilentDaemonError("it is too busy") from error
            time.sleep(_RETRY_S)
            continue
        except OSError as error:
            connection.close()
            raise NoDaemonError(str(error)) from error
        if not peercred.is_own_user(connection):
            connection.close()
            raise StrangerError("another user listens there")
        return connection
