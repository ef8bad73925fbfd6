"""From a fresh process to an accepting daemon: take the lock, listen, report ready. The rest is imported after that."""

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
from .config import USUAL, Config
from .service_manager import ServiceManager

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

NOBODY = 65534  # the overflow user: inside a user namespace every foreign user has this id, so none could be refused


class AlreadyRunningError(Exception):
    """Another daemon holds the lock, or a service manager listens and starts a daemon for the first client."""


class TelemetryOffError(Exception):
    """Telemetry is off, so there is nothing to serve. The message gives the reason."""


def detached() -> None:
    """Run the daemon that a command or a worker started. It prints one line on stdout when it is ready, and no more."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the signals that its starter blocked must reach it
    os.umask(0o077)
    try:
        _serve(ServiceManager({}), USUAL, announce=_announce_and_close_stdout)
    except AlreadyRunningError:
        _announce_and_close_stdout({"lost": True})
    except (TelemetryOffError, OSError) as error:
        _announce_and_close_stdout({"error": str(error)})


def foreground(config: Config = USUAL) -> None:
    """Run the daemon for ``brakit-sidecar serve`` and for a service manager.

    It stays until it is stopped. If a service manager listens for it, it exits when it is idle, because the next
    connect starts it again. Raises AlreadyRunningError, TelemetryOffError, OSError.
    """
    os.umask(0o077)
    manager = ServiceManager(os.environ)
    if manager.listening is None:
        config = config._replace(linger_s=None)
    _serve(manager, config, announce=lambda _line: manager.ready())


def _serve(manager: ServiceManager, config: Config, *, announce: Callable[[dict[str, object]], None]) -> None:
    if os.getuid() == NOBODY:
        raise OSError("the sidecar does not run as the user nobody; run it as a user of its own")
    decision = config_file.settled(os.environ)
    if not decision.on and manager.listening is None:  # a client that waits in an inherited socket gets its refusals
        raise TelemetryOffError(decision.sentence)
    socket_path = manager.listening.getsockname() if manager.listening else paths.socket_path(os.environ)
    secure_files.ensure_directory(os.path.dirname(socket_path))
    # A daemon that listened there before the service manager did may hold the lock until its sessions are over. A
    # client that connects meanwhile waits in the inherited socket and loses nothing.
    lock = launch.acquire_lock(socket_path, wait=manager.listening is not None)
    if lock is None:
        raise AlreadyRunningError
    _raise_descriptor_limit()
    # From here on a client can connect. Its session must end in order, even if a signal comes before all is imported.
    signal.pthread_sigmask(signal.SIG_BLOCK, process.ENDING_SIGNALS)
    try:
        listening = manager.listening or _listen(socket_path)
    except (AlreadyRunningError, OSError):
        os.close(lock)  # before this is reported: the next starter must not find it held by a process that exits
        raise
    announce({"socket": socket_path, "pid": os.getpid(), "version": __version__})

    # Imported late, because anyio and orjson would take most of the time until a connect succeeds.
    from . import log  # noqa: PLC0415

    log.set_up(os.environ)
    from . import server  # noqa: PLC0415

    server.run(listening, socket_path, manager, config)
    os._exit(0)  # everything is done, and a name resolution that hangs in its thread must not hold up the exit


def _listen(socket_path: str) -> socket.socket:
    if launch.is_listened_at(socket_path):  # by a service manager, because we hold the lock
        raise AlreadyRunningError
    return launch.listen(socket_path)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one, because each worker takes two: its connection and its counter file."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls its limit infinite, and rejects such a number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announce_and_close_stdout(line: dict[str, object]) -> None:
    """Print the line that the starter waits for. An inherited pipe must not keep any process waiting after it."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)
