"""The command ``run``: run the user's command as one session.

The user's command comes first. If the sidecar cannot work, for any reason, the command runs as if it were not there.
Applications of brakit below the command join by themselves, because its environment loads the preload files
(``core.injection``).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ..host.debug import debug
from . import consent, notice, settings
from .closing_line import closing_line
from .errors import UsageError
from .injecting import Injecting, prepare
from .session_owner import OwnedSession
from .terminal import complain

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

_T = TypeVar("_T")

# The signals that are exit reasons. The other forwarded signals mean reload, log rotation or quit.
_EXIT_REASONS = {signal.SIGINT: "sigint", signal.SIGTERM: "sigterm", signal.SIGHUP: "sighup"}
_FORWARDED = (*_EXIT_REASONS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

# A terminal sends these signals to its whole foreground process group. It sends SIGHUP only to the session leader.
_FROM_A_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)

# Python ignores these signals for itself, and a child process inherits which signals are ignored.
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)

# The exit codes that shells use for a command that cannot be started.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def run(arguments: Namespace) -> int:
    """Run the user's command as one session. Returns the command's exit code."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UsageError("the command is missing; for example: brakit-sidecar run -- gunicorn app:app")
    session = _open_session()
    if session is None:
        _replace_this_process(command)
    injecting = prepare(os.environ, command, is_wanted=arguments.inject)
    try:
        code, exit_reason = _run_in_session(command, session, injecting)
    except OSError as error:
        session.end("crash")
        return _cannot_start(command, error)
    session.end(exit_reason)
    _print_closing_line(command, session, injecting)
    return code


def _open_session() -> OwnedSession | None:
    """Open a session. Returns None if telemetry is off or the session cannot be opened."""
    try:
        decision = consent.decided()
        if decision.on:
            notice.show_once()
            session = OwnedSession(os.environ)
            settings.warn_of_others(session.daemon)
            return session
        debug(decision.sentence)
    except Exception as error:  # noqa: BLE001 (an error of the sidecar must not keep the command from running)
        debug("the command runs without telemetry", error)
    return None


def _print_closing_line(command: list[str], session: OwnedSession, injecting: Injecting) -> None:
    """Print what was counted, at a terminal only. Never raises."""
    try:
        if sys.stderr.isatty():
            complain(closing_line(session.result(), command, injecting.left_out))
            sys.stderr.flush()
    except Exception as error:  # noqa: BLE001 (the exit code is the command's, whatever the terminal is like)
        debug("the closing line cannot be shown", error)


def _replace_this_process(command: list[str]) -> NoReturn:
    """Execute the command in this process."""
    for number in _PYTHON_IGNORES:
        signal.signal(number, signal.SIG_DFL)
    try:
        _with_or_without_shebang(os.execvp, command)
    except OSError as error:
        sys.exit(_cannot_start(command, error))


def _with_or_without_shebang(start: Callable[[str, list[str]], _T], command: list[str]) -> _T:
    """Start the command. A script without a ``#!`` line is run by sh, as shells do. Raises OSError."""
    try:
        return start(command[0], command)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        return start("/bin/sh", ["/bin/sh", shutil.which(command[0]) or command[0], *command[1:]])


def _run_in_session(command: list[str], session: OwnedSession, injecting: Injecting) -> tuple[int, str]:
    """Run the command as a child process. Returns its exit code and the session's exit reason.

    Raises OSError if the command cannot be started.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if SIGCHLD is ignored, the kernel discards a child's exit status
    # A signal that this process inherited as ignored (nohup) stays ignored.
    forwarded = {number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN}
    mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, {*forwarded, signal.SIGCHLD, signal.SIGIO})
    session.reconnect_in_background()
    injecting.watch()
    environ = {**os.environ, **session.variables, **injecting.variables}
    child = _with_or_without_shebang(
        lambda file, argv: os.posix_spawnp(file, argv, environ, setsigmask=mask_before, setsigdef=_PYTHON_IGNORES),
        command,
    )
    status, received = _wait(child, forwarded, injecting)
    ended_by = received or (os.WTERMSIG(status) if os.WIFSIGNALED(status) else None)
    code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if ended_by in _EXIT_REASONS:
        return code, _EXIT_REASONS[signal.Signals(ended_by)]
    return code, "clean" if code == 0 else "crash"


def _wait(child: int, forwarded: set[signal.Signals], injecting: Injecting) -> tuple[int, int | None]:
    """Wait for the child, and forward the signals that did not reach it directly.

    SIGIO means that a preload file was removed, and is not forwarded.

    Returns the child's status, and the last signal of _EXIT_REASONS that this process received, or None.
    """
    received = None
    awaited = {*forwarded, signal.SIGCHLD, signal.SIGIO}
    while True:
        number, reached_child = _next_signal(awaited)
        if number == signal.SIGIO:
            injecting.restore()
            continue
        if number == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status, received
            continue
        if number in _EXIT_REASONS:
            received = number
        if not reached_child:
            os.kill(child, number)  # the pid is still the child's, because only this process can reap it


if sys.platform == "linux":
    _SI_KERNEL = 0x80

    def _next_signal(awaited: set[signal.Signals]) -> tuple[int, bool]:
        """Return the next signal, and whether the child received it as well, which is so for a terminal's key."""
        info = signal.sigwaitinfo(awaited)
        return info.si_signo, info.si_code == _SI_KERNEL and info.si_signo in _FROM_A_KEYBOARD

else:

    def _next_signal(awaited: set[signal.Signals]) -> tuple[int, bool]:
        """Return the next signal, and whether the child probably received it as well.

        The sender of a signal is not known on this system. If this process is in the foreground of a terminal, SIGINT
        and SIGQUIT are assumed to come from the keyboard.
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
    complain(f"cannot run {command[0]}: {error.strerror}")
    return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
