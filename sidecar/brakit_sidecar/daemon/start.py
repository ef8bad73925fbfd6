"""From a fresh process to an accepting daemon: the lock, then the socket, then ready; the rest is loaded after that."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ..core.version import __version__
from ..host import config_file, launch, paths, process, secure_files
from .service_manager import ServiceManager

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

LINGER_S = 3.0  # long enough for the next command of a script, short enough that nothing is left behind
NOBODY = 65534  # how a foreign user looks inside a user namespace, so that this one could not be told from them


class AlreadyRunningError(Exception):
    """Another daemon holds the lock, or a service manager listens, and starts one for whoever connects."""


class TelemetryOffError(Exception):
    """Nothing may be counted here, so there is nothing to serve. Says why."""


def detached() -> None:
    """The daemon that a command or a worker started: it says one line on stdout when it is ready, and then nothing."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # what its starter blocked must reach it
    os.umask(0o077)
    try:
        _serve(ServiceManager({}), announce=_announce_and_fall_silent, linger_s=LINGER_S)
    except AlreadyRunningError:
        _announce_and_fall_silent({"lost": True})
    except (TelemetryOffError, OSError) as error:
        _announce_and_fall_silent({"error": str(error)})


def foreground() -> None:
    """``brakit-sidecar serve``, also for a service manager. Where that listens for us we leave when idle, as the next
    connect starts us again. Raises AlreadyRunningError, TelemetryOffError, OSError.
    """
    os.umask(0o077)
    manager = ServiceManager(os.environ)
    linger_s = LINGER_S if manager.listening else None
    _serve(manager, announce=lambda _line: manager.ready(), linger_s=linger_s)


def _serve(manager: ServiceManager, *, announce: Callable[[dict[str, object]], None], linger_s: float | None) -> None:
    if os.getuid() == NOBODY:
        raise OSError("it does not run as the user nobody; run it as a user of its own")
    decision = config_file.settled(os.environ)
    if not decision.on and manager.listening is None:  # who waits in an inherited socket is told so
        raise TelemetryOffError(f"telemetry is off: {decision.why}")
    socket_path = manager.listening.getsockname() if manager.listening else paths.socket_path(os.environ)
    secure_files.ensure_directory(os.path.dirname(socket_path))
    # A daemon that listened there before the service manager did may hold the lock, until its sessions are over. Who
    # connects meanwhile waits with us, in the inherited socket, and loses nothing.
    lock = launch.acquire_lock(socket_path, wait=manager.listening is not None)
    if lock is None:
        raise AlreadyRunningError
    _raise_descriptor_limit()
    # Who connects from here on has its session ended in order, also where the end comes before all is loaded.
    signal.pthread_sigmask(signal.SIG_BLOCK, process.ENDING_SIGNALS)
    try:
        listening = manager.listening or _listen(socket_path)
    except (AlreadyRunningError, OSError):
        os.close(lock)  # before anybody hears of it: who tries next must not find it held by one that is leaving
        raise
    # From here on a connect succeeds; who connects now is served as soon as the rest is loaded.
    announce({"socket": socket_path, "pid": os.getpid(), "version": __version__})

    from . import app  # noqa: PLC0415 (anyio and orjson: most of the time until now would be theirs)

    app.run(listening, socket_path, manager, linger_s=linger_s)
    os._exit(0)  # everything is done; a name resolution that hangs in its thread must not hold up the exit


def _listen(socket_path: str) -> socket.socket:
    if launch.is_listened_at(socket_path):  # by a service manager, as we hold the lock
        raise AlreadyRunningError
    return launch.listen(socket_path)


def _raise_descriptor_limit() -> None:
    """To what this user may have: a worker takes two descriptors, its connection and its memory."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls its limit infinite, and takes no such number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announce_and_fall_silent(line: dict[str, object]) -> None:
    """A starter reads the line from our stdout; after it, an inherited pipe must not keep anything waiting."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)
