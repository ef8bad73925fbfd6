"""The command ``telemetry``: show whether telemetry is on and why, or switch it on or off."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ..daemon import counter_files, journal
from ..host import config_file, consent, guards, launch, paths
from ..host.conversation import NoDaemonError
from . import daemon_client
from .errors import CommandError
from .terminal import show

if TYPE_CHECKING:
    from argparse import Namespace


def telemetry(arguments: Namespace) -> int:
    """Switch telemetry on or off if asked to, and print the decision with its reason."""
    if arguments.action != "status":
        try:
            config_file.switch(os.environ, on=arguments.action == "on")
        except config_file.ConfigError as error:
            raise CommandError(str(error)) from error
        if not _notify_daemon() and arguments.action == "off":
            _discard_unsent_data()
    show(_explanation())
    return 0


def _notify_daemon() -> bool:
    """Make the running daemon read the config now, so that it drops its queue. Returns False if no daemon runs.

    Nothing would be sent even without this call, because the daemon also reads the config before each request.
    """
    with suppress(NoDaemonError):
        daemon = daemon_client.connect_if_running()
        if daemon is not None:
            with daemon:
                daemon.ask("consent")
            return True
    return False


def _discard_unsent_data() -> None:
    """Discard the events, sessions and counter files that a dead daemon left for the next daemon."""
    socket_path = daemon_client.socket_path()
    with suppress(OSError):
        lock = launch.acquire_lock(socket_path)
        if lock is not None:
            journal.discard(paths.journal_dir(socket_path))
            for _producer, counter_file in counter_files.left_behind(socket_path, {}):
                counter_file.retire()
            os.close(lock)


def _explanation() -> list[str]:
    """Return the decision, and each source with its value. An arrow points at the source that decided."""
    decision = consent.current(os.environ)
    path = paths.config_path(os.environ)
    guard = guards.dormant_because(os.environ)
    values = {
        consent.DO_NOT_TRACK: os.environ.get("DO_NOT_TRACK") or "not set",
        consent.GUARDS: guard or "no sign of production, CI or cloud",
        consent.VARIABLE: os.environ.get("BRAKIT_TELEMETRY") or "not set",
        consent.CONFIG: f"{_config_value(consent.read_config(path))} ({path})",
    }
    return [
        decision.sentence,
        "",
        "These sources are checked in this order; the arrow shows which one decided:",
        *(f"{'->' if source == decision.by else '  '} {source:18} {values[source]}" for source in consent.SOURCES),
    ]


def _config_value(config: consent.Config) -> str:
    if config.missing:
        return "does not exist"
    if config.content is None:
        return config.problem
    return f"telemetry: {json.dumps(config.content.get('telemetry'))}"
