"""Starts the daemon: takes the lock, listens and reports ready. Only then is the rest of the code imported."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ..core.version import __version__
from ..host import config_file, launch, paths, process, secure_files, standard_fds
from .config import USUAL, Config
from .service_manager import ServiceManager

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_PR_SET_DUMPABLE = 4  # of linux/prctl.h
NOBODY = 65534  # the overflow user: in a user namespace, all foreign users have this id, so no user could be refused


class AlreadyRunningError(Exception):
    """Another daemon holds the lock, or a service manager listens and starts a daemon for the first client."""


class TelemetryOffError(Exception):
    """Telemetry is off, so there is nothing to serve. The message gives the reason."""


def detached() -> None:
    """Run the daemon that a command or a worker started. It prints one line to stdout when it is ready."""
    standard_fds.fill()  # first, before anything else is opened
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # signals that the starter blocked must reach the daemon
    os.umask(0o077)
    try:
        _serve(ServiceManager({}), USUAL, announce=_announce_and_harden)
    except AlreadyRunningError:
        _announce_and_close_stdout({"lost": True})
    except (TelemetryOffError, OSError) as error:
        _announce_and_close_stdout({"error": str(error)})


def foreground(config: Config = USUAL) -> None:
    """Run the daemon for ``brakit-sidecar serve`` and for a service manager.

    The daemon runs until it is stopped. If a service manager listens for the daemon, the daemon exits when it is idle,
    because the next connect starts it again. Raises AlreadyRunningError, TelemetryOffError or OSError.
    """
    standard_fds.fill()
    os.umask(0o077)
    manager = ServiceManager(os.environ)
    if manager.listening is None:
        config = config._replace(linger_s=None)
    _serve(manager, config, announce=lambda _line: manager.ready())


def _serve(manager: ServiceManager, config: Config, *, announce: Callable[[dict[str, object]], None]) -> None:
    if os.getuid() == NOBODY:
        raise OSError("the sidecar does not run as the user nobody; run it as a user of its own")
    decision = config_file.decided(os.environ)
    if not decision.on and manager.listening is None:  # a client that waits in an inherited socket must get refusals
        raise TelemetryOffError(decision.sentence)
    socket_path = manager.listening.getsockname() if manager.listening else paths.socket_path(os.environ)
    secure_files.ensure_directory(os.path.dirname(socket_path))
    # A daemon that was started before the service manager listened may hold the lock until its sessions are over. A
    # client that connects meanwhile waits in the inherited socket and loses nothing.
    lock = launch.acquire_lock(socket_path, wait=manager.listening is not None)
    if lock is None:
        raise AlreadyRunningError
    _raise_descriptor_limit()
    _forbid_core_dumps()
    # From here on a client can connect. Its session must end in order, even if a signal comes before all code is
    # imported.
    signal.pthread_sigmask(signal.SIG_BLOCK, process.ENDING_SIGNALS)
    try:
        listening = manager.listening or _listen(socket_path)
    except (AlreadyRunningError, OSError):
        os.close(lock)  # before the error is reported, because the next starter must be able to take the lock
        raise
    announce({"socket": socket_path, "pid": os.getpid(), "version": __version__})

    # These are imported late, because anyio and orjson would take most of the time until a connect succeeds.
    from . import log  # noqa: PLC0415

    log.set_up(os.environ)
    from . import server  # noqa: PLC0415

    server.run(listening, socket_path, manager, config)
    os._exit(0)  # everything is done; a name resolution that hangs in its thread must not delay the exit


def _listen(socket_path: str) -> socket.socket:
    if launch.is_listened_at(socket_path):  # a service manager listens, because no other daemon can hold the lock
        raise AlreadyRunningError
    return launch.listen(socket_path)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard limit, because a worker's connection and counter file take two descriptors."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports an infinite limit, but rejects it as a new limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announce_and_harden(line: dict[str, object]) -> None:
    """Announce the daemon, and then close its memory, because that takes longer than a connect.

    Under BRAKIT_DEBUG the memory stays open to strace and debuggers, and so does that of ``serve``.
    """
    _announce_and_close_stdout(line)
    if not os.environ.get("BRAKIT_DEBUG"):
        _close_memory()


def _forbid_core_dumps() -> None:
    """Forbid core dumps, which would hold the sessions and the project key."""
    with suppress(ValueError, OSError):  # the sandbox of systemd's unit allows no limits, and sets this one itself
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _close_memory() -> None:
    """Keep other processes of this user from reading this one's memory and environment (PR_SET_DUMPABLE, prctl(2)).

    It also covers a core dump that is piped to a program, to which the limit does not apply. This process itself, with
    its links in /proc/self/fd, is not affected. Before Linux 5.14 it cannot read its own fdinfo, and so cannot tell
    mounts apart (``host.mounts``).
    """
    if sys.platform != "linux":
        return
    with suppress(Exception):  # a Python without ctypes, or a system that allows no executable memory
        import ctypes  # noqa: PLC0415 (takes 3 ms and 0.4 MiB)

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _announce_and_close_stdout(line: dict[str, object]) -> None:
    """Print the line that the starter waits for. Then close the pipe, because another process may wait for its EOF."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)
