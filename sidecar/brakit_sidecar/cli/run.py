"""``run``: the main job. The command comes first: whatever is wrong with us, it runs as if we were not there."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ..host import config_file
from ..host.debug import debug
from . import notice
from .errors import UsageError
from .owning import OwnedSession

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

_T = TypeVar("_T")

# What ends a session by a signal's name. The others that are passed on (reload, log rotation, quit) do not.
_EXIT_REASONS = {signal.SIGINT: "sigint", signal.SIGTERM: "sigterm", signal.SIGHUP: "sighup"}
_PASSED_ON = (*_EXIT_REASONS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

# A terminal sends these to its whole foreground group. A hang-up it sends to the session's leader alone.
_FROM_A_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)

# Python ignores these for itself, and what is ignored is handed down.
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)

# As the shells do, for a command that cannot be started.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def run(arguments: Namespace) -> int:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UsageError("run what? For example: brakit-sidecar run -- gunicorn app:app")
    owned = _open_session()
    if owned is None:
        _become(command)
    code, exit_reason = _run(command, owned)
    owned.end(exit_reason)
    return code


def _open_session() -> OwnedSession | None:
    """None where nothing may or can be counted."""
    try:
        decision = config_file.settled(os.environ)
        if decision.on:
            notice.say_once()
            return OwnedSession(os.environ)
        debug(f"telemetry is off: {decision.why}")
    except Exception as error:  # noqa: BLE001 (nothing of ours may keep the command from running)
        debug("the command runs without telemetry", error)
    return None


def _become(command: list[str]) -> NoReturn:
    """Runs the command in our place."""
    for number in _PYTHON_IGNORES:
        signal.signal(number, signal.SIG_DFL)
    try:
        _with_or_without_shebang(os.execvp, command)
    except OSError as error:
        sys.exit(_cannot_start(command, error))


def _with_or_without_shebang(start: Callable[[str, list[str]], _T], command: list[str]) -> _T:
    """As shells do, a script without a first line that says what runs it is run by sh. Raises OSError."""
    try:
        return start(command[0], command)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        return start("/bin/sh", ["/bin/sh", shutil.which(command[0]) or command[0], *command[1:]])


def _run(command: list[str], owned: OwnedSession) -> tuple[int, str]:
    """The command's exit code, and how the session ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it was ignored, the kernel would keep the status from us
    # One that was ignored before us (nohup) stays ignored.
    ours = {number for number in _PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*ours, signal.SIGCHLD})
    owned.outlive_daemons()
    environ = {**os.environ, **owned.variables}
    try:
        child = _with_or_without_shebang(
            lambda file, argv: os.posix_spawnp(file, argv, environ, setsigmask=before, setsigdef=_PYTHON_IGNORES),
            command,
        )
    except OSError as error:
        return _cannot_start(command, error), "crash"
    status, received = _wait(child, ours)
    ended_by = received or (os.WTERMSIG(status) if os.WIFSIGNALED(status) else None)
    code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if ended_by in _EXIT_REASONS:
        return code, _EXIT_REASONS[signal.Signals(ended_by)]
    return code, "clean" if code == 0 else "crash"


def _wait(child: int, ours: set[signal.Signals]) -> tuple[int, int | None]:
    """The child's status, and the last ending signal that we got. Passes on what the child did not get itself."""
    received = None
    while True:
        number, reached_child = _next_signal({*ours, signal.SIGCHLD})
        if number == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status, received
            continue
        if number in _EXIT_REASONS:
            received = number
        if not reached_child:
            os.kill(child, number)  # at worst a zombie's: nobody but us reaps it


if sys.platform == "linux":
    _SI_KERNEL = 0x80

    def _next_signal(awaited: set[signal.Signals]) -> tuple[int, bool]:
        """The next signal, and whether the child got it too, as it does from a terminal's keyboard."""
        info = signal.sigwaitinfo(awaited)
        return info.si_signo, info.si_code == _SI_KERNEL and info.si_signo in _FROM_A_KEYBOARD

else:

    def _next_signal(awaited: set[signal.Signals]) -> tuple[int, bool]:
        """The next signal, and whether the child got it too. Who sent it cannot be known here: in the foreground of a
        terminal what a keyboard can send is taken for the keyboard's.
        """
        number = signal.sigwait(awaited)
        return number, number in _FROM_A_KEYBOARD and _is_in_foreground()

    def _is_in_foreground() -> bool:
        try:
            terminal = os.open("/dev/tty", os.O_RDONLY)
        except OSError:
            return False
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)


def _cannot_start(command: list[str], error: OSError) -> int:
    print(f"brakit-sidecar: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
    return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
