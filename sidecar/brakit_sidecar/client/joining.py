"""Finds the daemon and the session that this process belongs to, if it belongs to any."""

from __future__ import annotations

import os
import sys
import uuid

from ..core.counter_layout import NOT_BELIEVED
from ..core.destination import Destination
from ..host import consent, paths
from ..host.debug import debug
from ..host.guards import DAEMON_MARK
from . import channel
from .place import Place
from .producer import Producer
from .telemetry import Telemetry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..host.consent import Consent

_GROUPS = uuid.UUID("6f9d4c1e-3c56-5b0e-9a55-0b6f3d6a1c7e")  # the namespace of the ids of process groups


def join(environ: Mapping[str, str], sdk: str, *, start: bool) -> Telemetry:
    """Return a producer if telemetry is on, else the stand-in. Raises OSError if the runtime directory is unusable."""
    if not channel.IS_POSSIBLE or DAEMON_MARK in environ:
        return Telemetry()
    decision = consent.current(environ)
    if not decision.on:
        if decision.by_environment:
            from ..host import config_file, standard_fds  # noqa: PLC0415 (a worker hardly ever writes the config)

            with standard_fds.Reserved():
                config_file.decided(environ, wait=False)  # writes the environment's opt-out to the config
        debug(decision.sentence)
        return Telemetry()
    place = _place(environ, decision)
    # A daemon that is started listens at the usual path. BRAKIT_SIDECAR_SOCKET may name any other path.
    if not (start and place.socket_path == paths.socket_path(environ) and _can_start_daemon()):
        return Producer(place, sdk)

    def start_daemon() -> None:
        from ..host import launch  # noqa: PLC0415 (loads subprocess, for a worker that starts a daemon)

        launch.start(environ)

    from ..host import secure_files  # noqa: PLC0415 (needed by a worker that starts a daemon only)

    secure_files.ensure_directory(os.path.dirname(place.socket_path))  # the counter file is made there
    return Producer(place, sdk, start_daemon)


def _can_start_daemon() -> bool:
    """Return whether a daemon can run in this Python. The copy of this package that `run` lends holds no daemon."""
    from importlib.util import find_spec  # noqa: PLC0415 (loads typing on Python 3.9, which not all applications load)

    return sys.version_info >= (3, 10) and find_spec("..daemon", __package__) is not None


def _place(environ: Mapping[str, str], decision: Consent) -> Place:
    socket_path = environ.get("BRAKIT_SIDECAR_SOCKET") or paths.socket_path(environ)
    try:
        kind, named = "session", uuid.UUID(environ.get("BRAKIT_SESSION_ID", ""))
    except ValueError:
        kind, named = "group", _process_group()
    return Place(
        socket_path,
        {kind: str(named)},
        named.bytes,
        destination=Destination(environ).digest,
        stamp=decision.stamp or NOT_BELIEVED,  # it is known, because telemetry is on
        anonymous_id=decision.anonymous_id,
    )


def _process_group() -> uuid.UUID:
    """Return the id that all workers of one command line share: of boot, process group and its leader's start."""
    group = os.getpgrp()
    boot = _first_line("/proc/sys/kernel/random/boot_id")
    # The command's name may hold anything, but is in parentheses. The start time is the 20th field after it.
    started = _first_line(f"/proc/{group}/stat").rpartition(")")[2].split()[19:20]
    return uuid.uuid5(_GROUPS, f"{boot} {group} {' '.join(started)}")


def _first_line(path: str) -> str:
    """Return a file's first line. Returns "" without such a file: there is no /proc, or the group's leader exited."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
