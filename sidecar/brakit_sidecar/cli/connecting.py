"""How a command reaches the daemon."""

from __future__ import annotations

import os

from ..host import launch, paths
from ..host.conversation import Conversation, NoDaemonError, SilentDaemonError
from .errors import CommandError

ATTEMPTS = 3  # a daemon that leaves at the very moment is followed by one that stays


def socket_path() -> str:
    """Of the daemon that this environment names, else of this user's."""
    return os.environ.get("BRAKIT_SIDECAR_SOCKET") or paths.socket_path(os.environ)


def to_running() -> Conversation | None:
    """A conversation with the daemon that runs; None where none does, and none is started: not by a service manager
    either, which would for whoever connects.
    """
    return _to_listening() if launch.is_running(socket_path()) else None


def _to_listening() -> Conversation | None:
    try:
        return Conversation(socket_path())
    except NoDaemonError:
        return None


def to_needed() -> Conversation:
    """A conversation with a daemon, started where none runs. Only where telemetry is on. Raises CommandError."""
    for _attempt in range(ATTEMPTS):
        try:
            conversation = _to_listening() or Conversation(launch.ensure_running(os.environ).socket)
            conversation.identity()  # an answer: it was not just leaving
        except SilentDaemonError as error:
            raise CommandError(f"a daemon runs, but {error}; it may be stopped (SIGSTOP) or stuck") from error
        except NoDaemonError:
            continue
        except (launch.LaunchError, OSError) as error:
            raise CommandError(str(error)) from error
        return conversation
    raise CommandError("the daemon hangs up each time; BRAKIT_DEBUG=1 brakit-sidecar serve may show why")
