"""What the daemon inherits from a service manager at its start, and the messages that it sends to the service manager.

The protocols are systemd's LISTEN_FDS and NOTIFY_SOCKET, which consist of variables, descriptors and datagrams. If no
service manager started the daemon, nothing is inherited and no message is sent.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_FIRST_FD = 3  # the protocol's first descriptor, after stdin, stdout and stderr
_US_PER_S = 1_000_000


class _Message(NamedTuple):
    state: bytes
    fd: int | None  # while the message waits, this is a duplicate that is closed after sending


class ServiceManager:
    """Removes the service manager's variables from the environment, because they are for this process alone."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self.listening, self._stored = _inherited(environ)
        self.watchdog_s = _watchdog(environ)  # the watchdog kills the daemon after so many seconds without a message
        self._socket = _notify_socket(environ)
        self.unsent: deque[_Message] = deque()  # these wait until the service manager has read enough

    # --- messages --------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """Report that the daemon accepts connections."""
        self._notify("READY=1")

    def stopping(self) -> None:
        """Report that the daemon is about to exit."""
        self._notify("STOPPING=1")

    def alive(self) -> None:
        """Report to the watchdog."""
        self._notify("WATCHDOG=1")

    # --- its store of descriptors, which outlives the daemon --------------------------------------------------------

    def store(self, name: str, fd: int) -> None:
        """Store a duplicate of the descriptor for the next daemon. The same file under the same name is stored once."""
        self._notify(f"FDSTORE=1\nFDNAME={name}", fd)

    def discard(self, name: str) -> None:
        """Remove a stored descriptor."""
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def take_stored(self) -> dict[str, int]:
        """Return the descriptors that an earlier daemon stored, by name. The caller must close them."""
        stored, self._stored = self._stored, {}
        return stored

    # --- sending ---------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Send waiting messages until the service manager's queue is full."""
        while self.unsent:
            message = self.unsent[0]
            if not self._send(message):
                return
            self.unsent.popleft()
            if message.fd is not None:
                os.close(message.fd)

    def _notify(self, state: str, fd: int | None = None) -> None:
        """Send a message, or let it wait if the queue is full. A queue of datagrams may hold only ten."""
        message = _Message(state.encode(), fd)
        if self._socket is None or (not self.unsent and self._send(message)):
            return
        with suppress(OSError):  # no descriptor is free: the next daemon finds this file by its name
            self.unsent.append(message._replace(fd=None if fd is None else os.dup(fd)))

    def _send(self, message: _Message) -> bool:
        """Send a message. Returns False if sending would block."""
        assert self._socket is not None  # no message is made without a socket
        try:
            if message.fd is None:
                self._socket.send(message.state)
            else:
                socket.send_fds(self._socket, [message.state], [message.fd])
        except BlockingIOError:
            return False
        except OSError:  # the service manager does not listen any more
            return True
        return True


def _inherited(environ: MutableMapping[str, str]) -> tuple[socket.socket | None, dict[str, int]]:
    """Return the listening socket, and the stored descriptors by name. Closes every other descriptor."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():  # the variables are meant for a parent process
        return None, {}
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    listening: socket.socket | None = None
    stored: dict[str, int] = {}
    for position, fd in enumerate(fds):
        name = names[position] if position < len(names) else ""
        os.set_inheritable(fd, False)
        if listening is None and (found := _as_listening(fd)) is not None:
            listening = found
        elif name and name not in stored:
            stored[name] = fd
        else:
            os.close(fd)
    return listening, stored


def _as_listening(fd: int) -> socket.socket | None:
    """Return ``fd`` as a Unix stream socket that listens at a path. Returns None if ``fd`` is not such a socket."""
    try:
        found = socket.socket(fileno=fd)
    except OSError:  # not a socket
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
