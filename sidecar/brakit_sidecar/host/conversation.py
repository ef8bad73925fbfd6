"""A connection to the daemon that waits for answers. Only commands use it, because a worker must not block."""

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

ANSWER_TIMEOUT_S = 5.0  # a daemon answers in a millisecond, or in a second on an overloaded machine
_RETRY_S = 0.005
_OTHER_PROTOCOL = {"refused": {"reason": "bad_hello", "line": 1}}  # a daemon of our protocol never gives this answer


class NoDaemonError(Exception):
    """No daemon answers at the socket."""


class SilentDaemonError(NoDaemonError):
    """A process listens at the socket, but does not answer in time."""


class StrangerError(NoDaemonError):
    """A process that is not a daemon of this program listens at the socket, so a retry is useless.

    The message says what kind of process it is.
    """


class Conversation:
    """One connection. Every method raises NoDaemonError if it fails."""

    def __init__(self, socket_path: str, answer_s: float = ANSWER_TIMEOUT_S, **hello: Any) -> None:
        """Connect, and send a hello with the protocol and ``hello``. ``answer_s`` bounds each wait for an answer."""
        self._lines = b""
        self._socket = _connect(socket_path, answer_s)
        self.say({"hello": {"protocol": PROTOCOL, **hello}})

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def say(self, frame: dict[str, Any]) -> None:
        """Send one line."""
        try:
            self._socket.sendall(encode(frame))
        except OSError as error:
            raise NoDaemonError(str(error)) from error

    def ask(self, question: Any, answer_s: float | None = None) -> Any:
        """Return the daemon's answer. The daemon answers after it has applied all earlier lines.

        ``answer_s`` bounds this wait and all later waits.
        """
        if answer_s is not None:
            self._socket.settimeout(answer_s)
        self.say({"ask": question})
        while True:
            try:
                received = json.loads(self._line())
            except ValueError as error:
                raise StrangerError("a program that is not brakit-sidecar listens there") from error
            if isinstance(received, dict) and "answer" in received:
                return received["answer"]
            if received == _OTHER_PROTOCOL:
                raise StrangerError("an incompatible version of brakit-sidecar listens there")

    def identity(self) -> dict[str, Any]:
        """Return the daemon's ``socket``, ``pid`` and ``version``, and any other entries of its answer."""
        identity = self.ask("identity")
        if not isinstance(identity, dict) or not identity.keys() >= {"socket", "pid", "version"}:
            raise StrangerError("a program that is not brakit-sidecar listens there")
        return identity

    def wait_for_hangup(self) -> None:
        """Wait until the daemon closes the connection. Reads nothing, so another thread may use the connection.

        Race: the other thread may close the connection before this wait begins. Then the wait ends at once.
        """
        hung_up = select.poll()
        with suppress(ValueError):  # this process closed the connection
            hung_up.register(self._socket, 0)  # poll() reports a hang-up even if no event is asked for
            hung_up.poll()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _line(self) -> bytes:
        while b"\n" not in self._lines:
            try:
                chunk = self._socket.recv(65536)
            except socket.timeout as error:  # in Python 3.9, this is not a TimeoutError
                raise SilentDaemonError("the daemon does not answer") from error
            except OSError as error:
                raise NoDaemonError(str(error)) from error
            if not chunk:
                raise NoDaemonError("the daemon closed the connection")
            self._lines += chunk
        line, _, self._lines = self._lines.partition(b"\n")
        return line


def _connect(socket_path: str, timeout_s: float) -> socket.socket:
    """Return a connected socket, within ``timeout_s`` seconds.

    The connect has a timeout, because a blocking connect to a full backlog waits without bound. With a timeout, the
    kernel refuses a connect to a full backlog at once. The connect is then retried.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(socket_path)
        except BlockingIOError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise SilentDaemonError("the daemon is too busy") from error
            time.sleep(_RETRY_S)
            continue
        except OSError as error:
            connection.close()
            raise NoDaemonError(str(error)) from error
        if not peercred.is_own_user(connection):
            connection.close()
            raise StrangerError("another user's process listens there")
        return connection
