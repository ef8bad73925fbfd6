"""The commands ``systemd install``, ``uninstall`` and ``status``: the daemon as a service of this user's systemd.

The units are copied unchanged. A drop-in beside them names the interpreter and the package of this installation.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from ..host import config_location, launch, paths, secure_files
from ..host.conversation import NoDaemonError
from . import daemon, daemon_client
from .errors import CommandError
from .terminal import show

if TYPE_CHECKING:
    from argparse import Namespace

SOCKET, SERVICE = "brakit-sidecar.socket", "brakit-sidecar.service"
_DROP_INS = f"{SERVICE}.d"
_SANDBOX = os.path.join(_DROP_INS, "sandbox.conf")
_LOCAL = os.path.join(_DROP_INS, "zz-here.conf")  # systemd reads it last, so its settings win
_MARK = "# Part of brakit-sidecar:"  # each installed file begins with it; other files are never changed
_WITHOUT_SYSTEMD = "without systemd, commands start the daemon themselves"
_TIMEOUT_S = 60.0  # systemd answers within milliseconds, and starts the daemon within a second


def install(_arguments: Namespace) -> int:
    """Install and start the units. The sandbox is left out if the service does not start with it."""
    _ask_systemd("show-environment")
    _check_that_files_are_ours()
    _stop_the_running_daemon(_arguments)
    # The sandbox lets the service write only to these directories, and only if they exist when it starts.
    os.makedirs(_config_directory(), mode=0o700, exist_ok=True)
    secure_files.ensure_directory(paths.state_dir())
    for name in (SOCKET, SERVICE, _SANDBOX):
        with open(os.path.join(_units(), name), encoding="utf-8") as unit:
            _write(name, unit.read())
    _write(_LOCAL, _local_drop_in())
    sandboxed = _starts()
    if not sandboxed:
        os.unlink(_path(_SANDBOX))
        if not _starts():
            uninstall(_arguments)
            raise CommandError(f"the service does not start; `journalctl --user --unit {SERVICE}` may show why")
    _ask_systemd("enable", "--quiet", SOCKET)
    print(f"installed, {'with' if sandboxed else 'without'} the sandbox; `brakit-sidecar systemd status` shows it")
    if not sandboxed:
        print(
            "The service does not start in the sandbox: user namespaces may be restricted, or this package is in /tmp."
        )
    return 0


def uninstall(_arguments: Namespace) -> int:
    """Stop the service and remove the files that ``install`` wrote."""
    _ask_systemd("show-environment")
    ours = [name for name in (SOCKET, SERVICE, _SANDBOX, _LOCAL) if _is_ours(name)]
    if SOCKET in ours:
        _ask_systemd("disable", "--quiet", SOCKET)
    if ours:
        _systemctl("stop", SOCKET, SERVICE)
        _systemctl("reset-failed", SOCKET, SERVICE)
    for name in ours:
        os.unlink(_path(name))
    with suppress(OSError):  # the directory is not empty if the user has drop-ins of their own
        os.rmdir(_path(_DROP_INS))
    _ask_systemd("daemon-reload")
    return 0


def status(_arguments: Namespace) -> int:
    """Print the state of the units. Returns 1 if they are not installed."""
    _ask_systemd("show-environment")
    if not _is_ours(SOCKET):
        print("not installed; `brakit-sidecar systemd install` installs the units")
        return 1
    show([f"units      {_path('')}"])
    print(f"sandbox    {'on' if _is_ours(_SANDBOX) else 'off, because the service did not start in it'}")
    for kind, unit in (("socket", SOCKET), ("service", SERVICE)):
        found = _systemctl("show", "--property=ActiveState,SubState", "--value", unit)
        print(f"{kind:10} {' '.join(found.stdout.split())}")
    return 0


# --- the files -----------------------------------------------------------------------------------------------


def _units() -> str:
    """Return the directory of the original units. It is in the installed package, or at the root of a checkout."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    packaged = os.path.join(package, "systemd")
    return packaged if os.path.isdir(packaged) else os.path.join(os.path.dirname(os.path.dirname(package)), "systemd")


def _path(name: str) -> str:
    """Return the path at which systemd finds the user's unit file ``name``."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config):
        config = os.path.expanduser("~/.config")
    return os.path.join(config, "systemd", "user", name)


def _local_drop_in() -> str:
    """Return the drop-in with this interpreter, this package, and this user's state directory."""
    command = " ".join(map(_quoted, launch.isolated_command("serve")))
    lines = [
        f"{_MARK} the settings of this installation, written by `brakit-sidecar systemd install`.",
        "[Service]",
        "ExecStart=",
        f"ExecStart=:{command}",  # the colon turns off variables such as $HOME
    ]
    if state := os.environ.get("XDG_STATE_HOME"):
        lines += [
            f"Environment={_quoted(f'XDG_STATE_HOME={state}')}",
            f"ReadWritePaths={_quoted(f'-{paths.state_dir()}')}",
        ]
    if (directory := _config_directory()) != os.path.dirname(paths.config_path(os.environ)):
        lines.append(f"ReadWritePaths={_quoted(f'-{directory}')}")
    return "\n".join(lines) + "\n"


def _config_directory() -> str:
    """Return the directory in which the config is written, which may be elsewhere than the links to it."""
    try:
        return os.path.dirname(config_location.find(os.environ)[0])
    except config_location.UntrustedConfigError as error:
        raise CommandError(f"telemetry is off: the config {error}") from error


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
    for name in (SOCKET, SERVICE, _SANDBOX, _LOCAL):
        if os.path.lexists(_path(name)) and not _is_ours(name):
            raise CommandError(f"{_path(name)} is not a file of brakit-sidecar; move it away")


# --- systemd -------------------------------------------------------------------------------------------------


def _stop_the_running_daemon(arguments: Namespace) -> None:
    """Stop a daemon that a command started, because the service would wait for that daemon's lock.

    Raises CommandError if a session is open, because stopping would split the session into two.
    """
    conversation = daemon_client.connect_if_running()
    if conversation is not None:
        with conversation, suppress(NoDaemonError):  # the daemon was already about to exit
            if conversation.ask("status")["sessions"]:
                raise CommandError("a session is open; try again when it is over, or after `brakit-sidecar stop`")
    _systemctl("stop", SOCKET, SERVICE)
    daemon.stop(arguments)


def _starts() -> bool:
    """Start the service. Returns whether the service answers at the socket that the commands use."""
    _ask_systemd("daemon-reload")
    _systemctl("stop", SOCKET, SERVICE)
    _systemctl("reset-failed", SOCKET, SERVICE)
    if _systemctl("start", SOCKET, SERVICE).returncode != 0:
        return False
    try:
        launch.running(paths.socket_path(os.environ), _TIMEOUT_S)
    except NoDaemonError:
        return False
    return True


def _ask_systemd(*arguments: str) -> None:
    """Run ``systemctl --user``. Raises CommandError if the command fails."""
    ran = _systemctl(*arguments)
    if ran.returncode != 0:
        why = ran.stderr.strip().splitlines()[-1:] or ["without a message"]
        raise CommandError(f"systemctl --user failed ({why[0]}); {_WITHOUT_SYSTEMD}")


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``systemctl --user``. Raises CommandError if systemctl does not exist or does not end in time."""
    command = ["systemctl", "--user", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except FileNotFoundError as error:
        raise CommandError(f"systemd is not installed; {_WITHOUT_SYSTEMD}") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command)} did not end within {_TIMEOUT_S:.0f} s") from error
