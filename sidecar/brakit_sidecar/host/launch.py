"""One daemon for each user: the lock, the socket, and starting the process that holds them.

The lock (flock, held for life) is the only truth about liveness: no pid file, no ping. Whoever holds it owns the
socket's path; nobody else ever unlinks it. A service manager that listens there owns it too, and starts its daemon for
whoever connects: so a daemon that finds its path listened at, though it holds the lock, leaves it alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from . import paths, peercred, secure_files
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

BACKLOG = 1024  # connects that wait while the daemon starts or is busy; a full backlog refuses, it never blocks
START_TIMEOUT_S = 10.0  # fifty times a start on a small machine
RETRY_S = 0.01

_NOT_FOR_THE_DAEMON = ("BRAKIT_SESSION_ID", "BRAKIT_SIDECAR_SOCKET", "NODE_OPTIONS", "PYTHONSTARTUP")


class LaunchError(Exception):
    """No daemon could be started. Says why, and what to do."""


class Running(NamedTuple):
    """A daemon that accepts."""

    socket: str
    pid: int
    version: str


# --- in the daemon -------------------------------------------------------------------------------------------


def acquire_lock(socket_path: str, *, wait: bool = False) -> int | None:
    """The lock's descriptor, to be kept for life; None where another daemon holds it, unless we ``wait`` for its end.
    Raises UnsafePathError, OSError.
    """
    path = paths.lock_path(socket_path)
    secure_files.check_directory(os.path.dirname(path))
    fd = secure_files.open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if not _is_at(path, os.fstat(fd)):  # the directory was replaced meanwhile: this lock would guard nothing
        os.close(fd)
        return acquire_lock(socket_path, wait=wait)
    return fd


def _is_at(path: str, info: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), info)
    except FileNotFoundError:
        return False


def is_running(socket_path: str) -> bool:
    """Whether a daemon of that socket's holds the lock. Asks nobody, and makes nothing.

    A daemon that comes up in the very moment in which the lock is tried here takes it for another's, and leaves: its
    starter starts the next one. Several that only ask do not see each other.
    """
    if not os.path.lexists(socket_path):
        return False
    try:
        fd = os.open(paths.lock_path(socket_path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:  # not for us to judge
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_listened_at(socket_path: str) -> bool:
    """Whether one of ours takes connections there. A dead daemon's socket refuses them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(socket_path)
        except BlockingIOError:  # so many that no more can wait
            return True
        except OSError:
            return False
        return peercred.is_own_user(probe)


def listen(socket_path: str) -> socket.socket:
    """Binds and listens. Only under the lock, and where nobody listens: what is found at the path is then a dead
    daemon's. Raises OSError.
    """
    if os.path.lexists(socket_path):
        if not secure_files.is_own_socket(socket_path):
            raise secure_files.UnsafePathError(f"{socket_path} is not a socket of ours; remove it")
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


# --- by whoever needs one -------------------------------------------------------------------------------------


def ensure_running(
    environ: Mapping[str, str], answer_s: float = ANSWER_TIMEOUT_S, within_s: float = START_TIMEOUT_S
) -> Running:
    """The daemon of this user, started where none runs; returns when it answers. Raises LaunchError, also where one
    runs that does not answer within ``answer_s`` seconds: it is stopped or stuck, and another cannot be started; and
    where none answers ``within_s`` seconds in all.
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
            raise LaunchError("a daemon runs but does not answer; it may be stopped (SIGSTOP) or stuck") from error
        except StrangerError as error:
            raise LaunchError(f"cannot use {socket_path}: {error}; end that process") from error
        except NoDaemonError:
            pass
        # Of many that find none and start one, all but one lose the race for the lock. The loser exits, and the next
        # turn of its parent's loop finds the winner.
        _start_and_wait(environ, socket_path, deadline)
        time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
        pause_s *= 2  # the winner is still coming up, or an old one still leaving: no crowd of losers
    raise LaunchError(f"the sidecar did not answer within {within_s:.0f} s; try `brakit-sidecar serve`")


def running(socket_path: str, answer_s: float) -> Running:
    """Asks who listens there. Raises NoDaemonError."""
    with Conversation(socket_path, answer_s) as daemon:
        identity = daemon.identity()
    return Running(socket_path, identity["pid"], identity["version"])


def start(environ: Mapping[str, str]) -> None:
    """Starts a daemon without waiting for it; where one runs, the new one finds the lock taken and leaves.
    Raises OSError.
    """
    socket_path = paths.socket_path(environ)
    secure_files.ensure_directory(os.path.dirname(socket_path))
    _spawn(environ, socket_path, subprocess.DEVNULL)


def _start_and_wait(environ: Mapping[str, str], socket_path: str, deadline: float) -> None:
    """Starts a daemon; returns when it is ready or has lost the race for the lock. Raises LaunchError."""
    reader, writer = os.pipe()
    try:
        try:
            _spawn(environ, socket_path, writer)
        except OSError as error:
            raise LaunchError(f"cannot start the sidecar ({error.strerror})") from error
        finally:
            os.close(writer)
        said = b""
        while not said.endswith(b"\n"):
            readable, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(reader, 4096) if readable else b""
            if not piece:
                raise LaunchError("the sidecar did not come up; `brakit-sidecar serve` shows why")
            said += piece
    finally:
        os.close(reader)
    if problem := json.loads(said).get("error"):
        raise LaunchError(problem)


def _spawn(environ: Mapping[str, str], socket_path: str, stdout: int) -> None:
    """Detached for good. A shell is the parent for a millisecond, so that init, and not a host that never waits for
    children, reaps the daemon; it gets no text but its own. In a directory of its own.
    """
    daemon = isolated("from brakit_sidecar.daemon.start import detached; detached()")
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_THE_DAEMON}
    subprocess.Popen(
        ["/bin/sh", "-c", '"$@" &', "sh", *daemon],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=None if environ.get("BRAKIT_DEBUG") else subprocess.DEVNULL,
        cwd=os.path.dirname(socket_path),
        env={**kept, DAEMON_MARK: "1"},
        start_new_session=True,
    ).wait()


def isolated(main: str) -> list[str]:
    """The command that runs ``main`` with ``-I``: nothing of the application's is imported. This very package is,
    wherever it lies, and its place is searched last for the rest.
    """
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    bootstrap = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import brakit_sidecar; sys.path.append(sys.path.pop(0)); "
    )
    return [_interpreter(), "-I", "-c", bootstrap + main, package_parent]


def _interpreter() -> str:
    """A Python, also where the host's executable is something that embeds one."""
    if "python" in os.path.basename(sys.executable or ""):
        return sys.executable
    return os.path.join(sys.prefix, "bin", "python3")
