"""``systemd install``, ``uninstall`` and ``status``: the daemon as a service of this user's systemd.

The units are copied as they are. What they cannot know is a drop-in beside them: which interpreter runs which package.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from ..host import launch, paths, secure_files
from ..host.conversation import NoDaemonError
from . import connecting, daemon
from .errors import CommandError

if TYPE_CHECKING:
    from argparse import Namespace

SOCKET, SERVICE = "brakit-sidecar.socket", "brakit-sidecar.service"
_DROP_INS = f"{SERVICE}.d"
_SANDBOX = os.path.join(_DROP_INS, "sandbox.conf")
_HERE = os.path.join(_DROP_INS, "zz-here.conf")  # read last: what it says, holds
_MARK = "# Part of brakit-sidecar:"  # the first line of each file of ours; no other file is touched
_WITHOUT_IT = "without it, commands start the daemon themselves"
_PATIENCE_S = 60.0  # for systemd, which answers in milliseconds, and starts the daemon in one second


def install(_arguments: Namespace) -> int:
    _ask_systemd("show-environment")
    _check_that_files_are_ours()
    _stop_the_running_daemon(_arguments)
    # The sandbox lets it write in these alone, and only where they are there.
    secure_files.ensure_directory(os.path.dirname(paths.config_path(os.environ)))
    secure_files.ensure_directory(paths.state_dir())
    for name in (SOCKET, SERVICE, _SANDBOX):
        with open(os.path.join(_units(), name), encoding="utf-8") as unit:
            _write(name, unit.read())
    _write(_HERE, _here())
    sandboxed = _starts()
    if not sandboxed:
        os.unlink(_path(_SANDBOX))
        if not _starts():
            uninstall(_arguments)
            raise CommandError(f"the service does not start; `journalctl --user --unit {SERVICE}` may say why")
    _ask_systemd("enable", "--quiet", SOCKET)
    print(f"installed, {'with' if sandboxed else 'without'} the sandbox; `brakit-sidecar systemd status` shows it")
    if not sandboxed:
        print("It does not start with it here: user namespaces may be restricted, or this package lies below /tmp.")
    return 0


def uninstall(_arguments: Namespace) -> int:
    _ask_systemd("show-environment")
    ours = [name for name in (SOCKET, SERVICE, _SANDBOX, _HERE) if _is_ours(name)]
    if SOCKET in ours:
        _ask_systemd("disable", "--quiet", SOCKET)
    if ours:
        _systemctl("stop", SOCKET, SERVICE)
        _systemctl("reset-failed", SOCKET, SERVICE)
    for name in ours:
        os.unlink(_path(name))
    with suppress(OSError):  # somebody's own drop-ins stay
        os.rmdir(_path(_DROP_INS))
    _ask_systemd("daemon-reload")
    return 0


def status(_arguments: Namespace) -> int:
    _ask_systemd("show-environment")
    if not _is_ours(SOCKET):
        print("not installed; `brakit-sidecar systemd install` puts the units in place")
        return 1
    print(f"units      {_path('')}")
    print(f"sandbox    {'on' if _is_ours(_SANDBOX) else 'off: the service did not start with it'}")
    for kind, unit in (("socket", SOCKET), ("service", SERVICE)):
        found = _systemctl("show", "--property=ActiveState,SubState", "--value", unit)
        print(f"{kind:10} {' '.join(found.stdout.split())}")
    return 0


# --- the files -----------------------------------------------------------------------------------------------


def _units() -> str:
    """Where ours are: in the package, as the wheel has them, or beside it, in a checkout."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    packaged = os.path.join(package, "systemd")
    return packaged if os.path.isdir(packaged) else os.path.join(os.path.dirname(os.path.dirname(package)), "systemd")


def _path(name: str) -> str:
    config = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config):
        config = os.path.expanduser("~/.config")
    return os.path.join(config, "systemd", "user", name)


def _here() -> str:
    """This interpreter and this package, and the state directory that the commands of this user look into."""
    command = launch.isolated("from brakit_sidecar.cli import main; sys.exit(main())")
    lines = [
        f"{_MARK} what its units cannot know. Written by `brakit-sidecar systemd install`.",
        "[Service]",
        "ExecStart=",
        f"ExecStart=:{' '.join(map(_quoted, [*command, 'serve']))}",  # the colon: a dollar is a dollar
    ]
    if state := os.environ.get("XDG_STATE_HOME"):
        lines += [
            f"Environment={_quoted(f'XDG_STATE_HOME={state}')}",
            f"ReadWritePaths={_quoted(f'-{paths.state_dir()}')}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _write(name: str, content: str) -> None:
    path = _path(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


def _is_ours(name: str) -> bool:
    try:
        with open(_path(name), encoding="utf-8", errors="replace") as file:
            return file.readline().startswith(_MARK)
    except FileNotFoundError:
        return False


def _check_that_files_are_ours() -> None:
    for name in (SOCKET, SERVICE, _SANDBOX, _HERE):
        if os.path.lexists(_path(name)) and not _is_ours(name):
            raise CommandError(f"{_path(name)} is not ours; move it away")


# --- systemd -------------------------------------------------------------------------------------------------


def _stop_the_running_daemon(arguments: Namespace) -> None:
    """It holds the lock, and the service would wait for it. Not amid a session, which would be cut in two."""
    conversation = connecting.to_running()
    if conversation is not None:
        with conversation, suppress(NoDaemonError):  # it was just leaving
            if conversation.ask("status")["sessions"]:
                raise CommandError("a session is open; when it is over, or after `brakit-sidecar stop`, try again")
    _systemctl("stop", SOCKET, SERVICE)
    daemon.stop(arguments)


def _starts() -> bool:
    """Whether the service starts with the files as they are, and answers where the commands look for it."""
    _ask_systemd("daemon-reload")
    _systemctl("stop", SOCKET, SERVICE)
    _systemctl("reset-failed", SOCKET, SERVICE)
    if _systemctl("start", SOCKET, SERVICE).returncode != 0:
        return False
    try:
        launch.running(paths.socket_path(os.environ), _PATIENCE_S)
    except NoDaemonError:
        return False
    return True


def _ask_systemd(*arguments: str) -> None:
    """Raises CommandError where it says no."""
    asked = _systemctl(*arguments)
    if asked.returncode != 0:
        why = asked.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise CommandError(f"systemctl --user fails ({why[0]}); {_WITHOUT_IT}")


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemctl", "--user", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    except FileNotFoundError as error:
        raise CommandError(f"there is no systemd here; {_WITHOUT_IT}") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command)} did not end within {_PATIENCE_S:.0f} s") from error
