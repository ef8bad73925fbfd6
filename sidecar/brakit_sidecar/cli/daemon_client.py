"""How a command connects to the daemon."""

from __future__ import annotations

import os

from ..host import launch, paths
from ..host.conversation import Conversation, NoDaemonError, SilentDaemonError
from .errors import CommandError

# Race: a daemon accepts a connection and exits before it answers. That is harmless, because the next attempt starts a
# new daemon, which does not exit before the end of its linger.
ATTEMPTS = 3


def socket_path() -> str:
    """Return the path of the socket that BRAKIT_SIDECAR_SOCKET names, otherwise of this user's daemon."""
    return os.environ.get("BRAKIT_SIDECAR_SOCKET") or paths.socket_path(os.environ)


def connect_if_running() -> Conversation | None:
    """Connect to the running daemon. Returns None if no daemon runs, and starts none.

    The daemon's lock is checked before connecting, because a service manager that listens on the socket would start a
    daemon for the connection.
    """
    return _connect_if_listening() if launch.is_running(socket_path()) else None


def _connect_if_listening() -> Conversation | None:
    try:
        return Conversation(socket_path())
    except NoDaemonError:
        return None


def connect_or_start() -> Conversation:
    """Connect to the daemon, and start one if none runs. The caller must have checked that telemetry is on.

    Raises CommandError if no daemon answers.
    """
    for _attempt in range(ATTEMPTS):
        try:
            conversation = _connect_if_listening() or Conversation(launch.ensure_running(os.environ).socket)
            conversation.identity()  # an answer shows that the daemon is not about to exit
        except SilentDaemonError as error:
            raise CommandError(f"a daemon is running, but {error}; it may be stopped (SIGSTOP) or stuck") from error
        except NoDaemonError:
            continue
        except (launch.LaunchError, OSError) as error:
            raise CommandError(str(error)) from error
        return conversation
    raise CommandError("the daemon closes each connection; BRAKIT_DEBUG=1 brakit-sidecar serve may show why")
