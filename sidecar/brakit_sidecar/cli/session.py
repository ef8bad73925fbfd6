"""``session start`` and ``session end``, for a CLI that is no parent of the application."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING

from ..core.schema import EXIT_REASONS
from ..host import config_file
from ..host.conversation import NoDaemonError
from . import connecting
from .errors import CommandError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def start(arguments: Namespace) -> int:
    if not config_file.settled(os.environ).on:
        if arguments.json:
            print(json.dumps({"session": None, "socket": None}))
        return 0
    opening: dict[str, object] = {"session": str(uuid.uuid4())}
    if arguments.owner_pid is not None:
        opening["owner_pid"] = arguments.owner_pid
    with connecting.to_needed() as daemon:
        try:
            socket_path = daemon.identity()["socket"]
            opened = daemon.ask({"open": opening})
        except NoDaemonError as error:
            raise CommandError("the daemon was just leaving; try again") from error
    if opened is None:
        raise CommandError(f"process {arguments.owner_pid} cannot own the session: its end cannot be watched")
    print(json.dumps({"session": opened["session"], "socket": socket_path}) if arguments.json else opened["session"])
    return 0


def end(arguments: Namespace) -> int:
    if arguments.reason not in EXIT_REASONS:
        raise UsageError(f"no such reason: {arguments.reason}; use one of {', '.join(EXIT_REASONS)}")
    try:
        session = str(uuid.UUID(arguments.id))
    except ValueError:
        raise UsageError("that is no session's id; session start prints one") from None
    daemon = connecting.to_running()
    if daemon is None:
        raise CommandError("no daemon runs, so that session is over")
    with daemon:
        try:
            ended = daemon.ask({"end": {"session": session, "exit_reason": arguments.reason}})
        except NoDaemonError as error:
            raise CommandError("no daemon runs, so that session is over") from error
    if ended is None:
        raise CommandError("no such session is open; brakit-sidecar status lists those that are")
    return 0
