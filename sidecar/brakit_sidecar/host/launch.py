"""One daemon for each user: its lock, its socket, and how it is started.

The lock (flock, held until exit) is the only truth about liveness; there is no pid file. The daemon that holds it owns
the socket's path, and no other process unlinks it. A service manager may listen at the path as well, and start its
daemon at the first connect. So a daemon that holds the lock, but finds a listener at its path, leaves the path alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import site
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from . import environment, paths, peercred, secure_files, standard_fds
from .conversation import (
    ANSWER_TIMEOUT_S,
    Conversation,
    NoDaemonError,
    SilentDaemonError,
    StrangerError,
)
from .guards import DAEMON_MARK

if TYPE_CHECKING:
    from collections.abc import Mapping

BACKLOG = 1024  # connects that may wait while the daemon starts or is busy; more are refused, and never block
START_TIMEOUT_S = 10.0  # fifty times as long as a start on a small machine
RETRY_S = 0.01

_DEPENDENCIES = ("aiohttp", "anyio", "orjson")  # what the daemon imports; what these import is in the same directories


class LaunchError(Exception):
    """A daemon could not be started. The message says why, and what to do."""


class Running(NamedTuple):
    """A daemon that accepts connections."""

    socket: str
    pid: int
    version: str
    destination: dict[str, str] | None  # its ``digest`` and its ``name``; an older daemon does not tell


# --- in the daemon -------------------------------------------------------------------------------------------


def acquire_lock(socket_path: str, *, wait: bool = False) -> int | None:
    """Return the lock's descriptor, which a daemon keeps until it exits.

    Returns None if another daemon holds the lock, unless ``wait`` is set: then it waits until that daemon exits. Raises
    UnsafePathError, OSError.
    """
    path = paths.lock_path(socket_path)
    secure_files.check_directory(os.path.dirname(path))
    fd = secure_files.open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    # Race: the directory was replaced between open and flock, so this lock would guard nothing. Lock the new file.
    if not _is_at(path, os.fstat(fd)):
        os.close(fd)
        return acquire_lock(socket_path, wait=wait)
    return fd


def _is_at(path: str, info: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), info)
    except FileNotFoundError:
        return False


def is_running(socket_path: str) -> bool:
    """Return whether a daemon holds the lock of that socket. Sends nothing, and makes no file.

    Race: a daemon that starts now sees our shared lock and exits, and its parent retries. Callers of this function do
    not see each other's shared locks.
    """
    if not os.path.lexists(socket_path):
        return False
    try:
        fd = os.open(paths.lock_path(socket_path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:  # the lock cannot be opened, so assume that a daemon holds it
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_listened_at(socket_path: str) -> bool:
    """Return whether a process of this user accepts connections there. A dead daemon's socket refuses them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(socket_path)
        except BlockingIOError:  # the backlog is full
            return True
        except OSError:
            return False
        return peercred.is_own_user(probe)


def listen(socket_path: str) -> socket.socket:
    """Return a listening socket. Raises OSError, and UnsafePathError if something else is at the path.

    Needs the lock, and a path at which no process listens: a socket that is there is then a dead daemon's, and is
    replaced.
    """
    if os.path.lexists(socket_path):
        if not secure_files.is_own_socket(socket_path):
            raise secure_files.UnsafePathError(f"{socket_path} is not a socket of this user; remove it")
        os.unlink(socket_path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(socket_path)
        os.chmod(socket_path, 0o600)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


# --- in a command or worker -------------------------------------------------------------------------------------


def ensure_running(
    environ: Mapping[str, str], answer_s: float = ANSWER_TIMEOUT_S, within_s: float = START_TIMEOUT_S
) -> Running:
    """Return the daemon of this user when it answers, and start it if none runs.

    Raises LaunchError if no daemon answers within ``within_s`` seconds. Raises it also if a daemon runs and does not
    answer within ``answer_s`` seconds: that daemon is stopped or stuck, and no other can start while it holds the lock.
    """
    try:
        socket_path = paths.socket_path(environ)
        secure_files.ensure_directory(os.path.dirname(socket_path))
    except secure_files.UnsafePathError as error:
        raise LaunchError(str(error)) from error
    deadline = time.monotonic() + within_s
    pause_s = RETRY_S
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            return running(socket_path, min(answer_s, left_s))
        except SilentDaemonError as error:
            raise LaunchError(
                "a daemon runs but does not answer; end it with SIGKILL, or continue it with SIGCONT if it is stopped"
            ) from error
        except StrangerError as error:
            raise LaunchError(f"cannot use {socket_path}: {error}; end that process") from error
        except NoDaemonError:
            pass
        # Race: several processes find no daemon, and each starts one. One daemon gets the lock and the others exit. The
        # next turn of this loop finds the one that runs.
        _start_and_wait(environ, socket_path, deadline)
        time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
        pause_s *= 2  # wait longer each time, because one daemon may still be starting or exiting
    raise LaunchError(f"the daemon did not answer within {within_s:.0f} s; run `brakit-sidecar serve` to see why")


def running(socket_path: str, answer_s: float) -> Running:
    """Return the daemon that listens there. Raises NoDaemonError."""
    with Conversation(socket_path, answer_s) as daemon:
        identity = daemon.identity()
    return Running(socket_path, identity["pid"], identity["version"], identity.get("destination"))


def start(environ: Mapping[str, str]) -> None:
    """Start a daemon without waiting for it. Raises OSError. If a daemon runs already, the new one exits."""
    socket_path = paths.socket_path(environ)
    secure_files.ensure_directory(os.path.dirname(socket_path))
    with standard_fds.Reserved():  # for subprocess's pipes, because a worker's standard descriptors may be closed
        _spawn(environ, socket_path, subprocess.DEVNULL)


def _start_and_wait(environ: Mapping[str, str], socket_path: str, deadline: float) -> None:
    """Start a daemon, and return when it is ready or has found the lock taken. Raises LaunchError."""
    reader, writer = os.pipe()
    try:
        try:
            _spawn(environ, socket_path, writer)
        except OSError as error:
            raise LaunchError(
                f"cannot start the daemon ({error.strerror}); run `brakit-sidecar serve` to see more"
            ) from error
        finally:
            os.close(writer)
        report = b""
        while not report.endswith(b"\n"):
            readable, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(reader, 4096) if readable else b""
            if not piece:
                raise LaunchError("the daemon did not start; run `brakit-sidecar serve` to see why")
            report += piece
    finally:
        os.close(reader)
    if problem := json.loads(report).get("error"):
        raise LaunchError(problem)


def _spawn(environ: Mapping[str, str], socket_path: str, stdout: int) -> None:
    """Start a detached daemon, in the runtime directory and a session of its own.

    A shell is its parent for a millisecond. So init reaps the daemon, and not the application, which may never wait for
    children. The shell's script is constant, and nothing of the environment becomes part of it.
    """
    daemon = isolated("from brakit_sidecar.daemon.start import detached; detached()")
    subprocess.Popen(
        ["/bin/sh", "-c", '"$@" &', "sh", *daemon],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=None if environ.get("BRAKIT_DEBUG") else subprocess.DEVNULL,
        cwd=os.path.dirname(socket_path),
        env={**environment.only(environment.DAEMON, environ), DAEMON_MARK: "1"},
        start_new_session=True,
    ).wait()


def isolated(main: str) -> list[str]:
    """Return the command that runs ``main`` with ``-I``, so that no module of the application is imported.

    This package is imported from where it lies now. If its dependencies are found without them, ``-S`` leaves out the
    .pth files and the sitecustomize of the environment, whose code would run in the new process.
    """
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    searched = [package_parent, *site.getsitepackages()]
    if all(any(os.path.isdir(os.path.join(path, name)) for path in searched) for name in _DEPENDENCIES):
        end = 1 + len(searched)
        bootstrap = f"import sys; sys.path += sys.argv[1:{end}]; del sys.argv[1:{end}]; "
        return [_interpreter(), "-I", "-S", "-c", bootstrap + main, *searched]
    bootstrap = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import brakit_sidecar; sys.path.append(sys.path.pop(0)); "
    )
    return [_interpreter(), "-I", "-c", bootstrap + main, package_parent]


def isolated_command(*arguments: str) -> list[str]:
    """Return the command that runs ``brakit-sidecar`` with these arguments, isolated."""
    return [*isolated("from brakit_sidecar.cli import main; sys.exit(main())"), *arguments]


def _interpreter() -> str:
    """Return a Python's path, even if this process is a program that embeds Python."""
    if "python" in os.path.basename(sys.executable or ""):
        return sys.executable
    return os.path.join(sys.prefix, "bin", "python3")
