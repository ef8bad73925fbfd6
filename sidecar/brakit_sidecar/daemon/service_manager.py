"""A service manager's part in the daemon's life: what it hands over at the start, and what it is told.

These are systemd's protocols, which are variables, descriptors and datagrams: LISTEN_FDS and NOTIFY_SOCKET. Where no
manager started us, nothing is inherited, and all that is said goes nowhere.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_FIRST_FD = 3  # after stdin, stdout and stderr, by the protocol
_US_PER_S = 1_000_000


class _Message(NamedTuple):
    state: bytes
    fd: int | None  # a duplicate of ours, while it waits


class ServiceManager:
    """Reads its variables out of the environment: they are for this process alone."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self.listening, self._kept = _inherited(environ)
        self.watchdog_s = _watchdog(environ)  # it ends us after so many seconds without a sign of life
        self._socket = _notify_socket(environ)
        self._unsaid: deque[_Message] = deque()

    # --- what it is told ---------------------------------------------------------------------------------------

    def ready(self) -> None:
        self._tell("READY=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    # --- its store of descriptors, which outlives us ------------------------------------------------------------

    def keep(self, name: str, fd: int) -> None:
        """Gives it a duplicate, to be handed to the daemon after us. The same file under the same name is kept once."""
        self._tell(f"FDSTORE=1\nFDNAME={name}", fd)

    def forget(self, name: str) -> None:
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def kept(self) -> dict[str, int]:
        """What a daemon before us left there, by name; the descriptors are the caller's now."""
        kept, self._kept = self._kept, {}
        return kept

    # --- the way to it -----------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether it has not read enough to take all that was said: ``catch_up`` tries again."""
        return bool(self._unsaid)

    def catch_up(self) -> None:
        while self._unsaid:
            message = self._unsaid[0]
            if not self._send(message):
                return
            self._unsaid.popleft()
            if message.fd is not None:
                os.close(message.fd)

    def _tell(self, state: str, fd: int | None = None) -> None:
        """In order, and without ever waiting for it: a queue of datagrams may be as short as ten."""
        message = _Message(state.encode(), fd)
        if self._socket is None or (not self._unsaid and self._send(message)):
            return
        with suppress(OSError):  # out of descriptors: this one is found by its name alone
            self._unsaid.append(message._replace(fd=None if fd is None else os.dup(fd)))

    def _send(self, message: _Message) -> bool:
        """False where it would have to wait."""
        assert self._socket is not None  # else nothing is ever said
        try:
            if message.fd is None:
                self._socket.send(message.state)
            else:
                socket.send_fds(self._socket, [message.state], [message.fd])
        except BlockingIOError:
            return False
        except OSError:  # a manager that is gone
            return True
        return True


def _inherited(environ: MutableMapping[str, str]) -> tuple[socket.socket | None, dict[str, int]]:
    """The socket that listens for us, and the descriptors of the store by name; what is neither is closed."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():  # handed down to us, and meant for another
        return None, {}
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    listening: socket.socket | None = None
    kept: dict[str, int] = {}
    for position, fd in enumerate(fds):
        name = names[position] if position < len(names) else ""
        os.set_inheritable(fd, False)
        if listening is None and (found := _as_listening(fd)) is not None:
            listening = found
        elif name and name not in kept:
            kept[name] = fd
        else:
            os.close(fd)
    return listening, kept


def _as_listening(fd: int) -> socket.socket | None:
    """The stream socket with a path at which somebody may wait already; None where it is something else."""
    try:
        found = socket.socket(fileno=fd)
    except OSError:  # no socket
        return None
    if (
        found.family == socket.AF_UNIX
        and found.type == socket.SOCK_STREAM
        and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        and os.path.isabs(found.getsockname() or b"")
    ):
        found.setblocking(False)
        return found
    found.detach()
    return None


def _watchdog(environ: MutableMapping[str, str]) -> float | None:
    usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
    return int(usec) / _US_PER_S if pid == str(os.getpid()) and usec.isdecimal() and int(usec) > 0 else None


def _notify_socket(environ: MutableMapping[str, str]) -> socket.socket | None:
    address = environ.pop("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.setblocking(False)
    try:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        notify.close()
        return None
    return notify
