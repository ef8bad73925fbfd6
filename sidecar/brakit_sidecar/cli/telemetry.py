"""``telemetry``: consent, shown with its whole reason, given or withdrawn."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ..daemon import counter_files, journal
from ..host import config_file, consent, guards, launch, paths
from ..host.conversation import NoDaemonError
from . import connecting
from .errors import CommandError

if TYPE_CHECKING:
    from argparse import Namespace


def telemetry(arguments: Namespace) -> int:
    if arguments.action != "status":
        try:
            config_file.switch(os.environ, on=arguments.action == "on")
        except config_file.ConfigError as error:
            raise CommandError(str(error)) from error
        if not _tell_daemon() and arguments.action == "off":
            _forget_what_waits()
    print(_explanation())
    return 0


def _tell_daemon() -> bool:
    """So that it drops what is queued now; it asks again before each request anyway. False where none runs."""
    with suppress(NoDaemonError):
        daemon = connecting.to_running()
        if daemon is not None:
            with daemon:
                daemon.ask("consent")
            return True
    return False


def _forget_what_waits() -> None:
    """For the next daemon, of one that died: events, sessions, and what workers have counted where it will look."""
    socket_path = connecting.socket_path()
    with suppress(OSError):
        lock = launch.acquire_lock(socket_path)
        if lock is not None:
            journal.discard(paths.journal_dir(socket_path))
            for _producer, memory in counter_files.left_behind(socket_path, {}):
                memory.retire()
            os.close(lock)


def _explanation() -> str:
    """The decision, and each source with what it said. An arrow points at the one that won."""
    decision = consent.current(os.environ)
    path = paths.config_path(os.environ)
    guard = guards.dormant_because(os.environ)
    said = {
        consent.DO_NOT_TRACK: os.environ.get("DO_NOT_TRACK") or "not set",
        consent.GUARDS: guard or "awake: no production, CI or cloud here",
        consent.VARIABLE: os.environ.get("BRAKIT_TELEMETRY") or "not set",
        consent.CONFIG: f"{_said_by(consent.read_config(path))} ({path})",
    }
    return "\n".join(
        [
            f"telemetry is {'on' if decision.on else 'off'}: {decision.why}",
            "",
            "what was asked, in this order; the arrow shows what decided:",
            *(f"{'->' if source == decision.by else '  '} {source:18} {said[source]}" for source in consent.SOURCES),
        ]
    )


def _said_by(config: consent.Config) -> str:
    if config.missing:
        return "does not exist"
    if config.content is None:
        return config.problem
    return f"telemetry: {json.dumps(config.content.get('telemetry'))}"
