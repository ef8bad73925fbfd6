"""How a command reaches the daemon."""

from __future__ import annotations

import os

from sidecar.cli.errors import CommandError
from sidecar.host import consent, launch, paths
from sidecar.host.conversation import Conversation, NoDaemonError


def socket_path() -> str:
    """Of the daemon that this environment names, else of this user's."""
    return os.environ.get("BRAKIT_SIDECAR_SOCKET") or paths.socket_path(os.environ)


def to_running() -> Conversation | None:
    """A conversation with the daemon that runs; None where none does."""
    try:
        return Conversation(socket_path())
    except NoDaemonError:
        return None


def to_needed() -> Conversation:
    """A conversation with a daemon, started where none runs. Only where telemetry is on. Raises CommandError."""
    running = to_running()
    if running is not None:
        return running
    try:
        return Conversation(launch.ensure_running(os.environ).socket)
    except (launch.LaunchError, NoDaemonError) as error:
        raise CommandError(str(error)) from error


def settled_consent() -> consent.Consent:
    """The decision, before a command does anything that only counting needs."""
    return consent.settled(os.environ)
