"""``telemetry``: consent, shown with its whole reason, given or withdrawn."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.cli import connecting
from sidecar.cli.errors import CommandError
from sidecar.daemon import journal
from sidecar.host import consent, guards, launch, paths
from sidecar.host.conversation import NoDaemonError

if TYPE_CHECKING:
    from argparse import Namespace


def telemetry(arguments: Namespace) -> int:
    if arguments.action != "status":
        try:
            consent.switch(os.environ, on=arguments.action == "on")
        except consent.ConfigError as error:
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
    """For the next daemon, of one that died."""
    socket_path = connecting.socket_path()
    with suppress(OSError):
        lock = launch.acquire_lock(socket_path)
        if lock is not None:
            journal.discard(paths.journal_dir(socket_path))
            os.close(lock)


def _explanation() -> str:
    decision = consent.current(os.environ)
    path = paths.config_path(os.environ)
    config = consent.read_config(path)
    if config.missing:
        said = "does not exist"
    elif config.content is None:
        said = config.problem
    else:
        said = f"says {config.content.get('telemetry')}"
    guard = guards.dormant_because(os.environ)
    return "\n".join(
        [
            f"telemetry is {'on' if decision.on else 'off'}: {decision.why}",
            "",
            "what was asked, the first that speaks decides:",
            f"  DO_NOT_TRACK       {os.environ.get('DO_NOT_TRACK') or 'not set'}",
            f"  brakit's guards    {guard + ' is set' if guard else 'awake'} (production, CI, cloud)",
            f"  BRAKIT_TELEMETRY   {os.environ.get('BRAKIT_TELEMETRY') or 'not set'}",
            f"  {path}   {said}",
        ]
    )
