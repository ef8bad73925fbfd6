"""The commands ``session start`` and ``session end``, for a CLI that is not the parent of the application."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING

from ..core.destination import Destination
from ..core.schema import EXIT_REASONS
from ..host import process
from ..host.conversation import NoDaemonError
from . import consent, daemon_client, notice
from .errors import CommandError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def start(arguments: Namespace) -> int:
    """Open a session and print its id. Opens no session if telemetry is off."""
    if not consent.decided().on:
        if arguments.json:
            print(json.dumps({"session": None, "socket": None}))
        return 0
    notice.show_once()
    opening: dict[str, object] = {"session": str(uuid.uuid4()), "destination": Destination(os.environ).digest}
    if arguments.owner_pid is not None:
        if why := process.why_not_owner(arguments.owner_pid):
            raise _cannot_own(arguments.owner_pid, why)
        opening |= {"owner_pid": arguments.owner_pid, "pid_namespace": process.pid_namespace()}
    with daemon_client.connect_or_start() as daemon:
        try:
            socket_path = daemon.identity()["socket"]
            opened = daemon.ask({"open": opening})
        except NoDaemonError as error:
            raise CommandError("the daemon exited before it answered; try again") from error
    if opened is None and arguments.owner_pid is not None:
        raise _cannot_own(arguments.owner_pid, "the daemon cannot watch it, or it is the daemon itself")
    if opened is None:
        raise CommandError("the daemon opens no more sessions; `brakit-sidecar status` lists those that are open")
    print(json.dumps({"session": opened["session"], "socket": socket_path}) if arguments.json else opened["session"])
    return 0


def _cannot_own(pid: int, why: str) -> CommandError:
    return CommandError(
        f"process {pid} cannot own the session, because {why}; give the pid of the CLI that starts the application"
    )


def end(arguments: Namespace) -> int:
    """End a session. Fails if the session is not open."""
    if arguments.reason not in EXIT_REASONS:
        raise UsageError(f"{arguments.reason} is not an exit reason; use one of {', '.join(EXIT_REASONS)}")
    try:
        session = str(uuid.UUID(arguments.id))
    except ValueError:
        raise UsageError(
            f"{arguments.id} is not the id of a session; `session start` prints the id of a new session"
        ) from None
    daemon = daemon_client.connect_if_running()
    if daemon is None:
        raise CommandError("no daemon is running, so the session is already over")
    with daemon:
        try:
            ended = daemon.ask({"end": {"session": session, "exit_reason": arguments.reason}})
        except NoDaemonError as error:
            raise CommandError("no daemon is running, so the session is already over") from error
    if ended is None:
        raise CommandError(f"session {session} is not open; `brakit-sidecar status` lists the open sessions")
    return 0
