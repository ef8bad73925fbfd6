"""The commands ``start``, ``serve``, ``stop`` and ``status``."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from ..core.destination import Destination
from ..core.endpoint import describe
from ..core.version import __version__
from ..host import consent, launch, secure_files
from ..host.conversation import NoDaemonError
from . import daemon_client, notice, settings
from .consent import decided
from .errors import CommandError
from .terminal import complain, show

if TYPE_CHECKING:
    from argparse import Namespace

_STATUS = {"running", "version", "pid", "uptime_s", "socket", "sessions", "refused", "delivery", "consent"}
_STOP_TIMEOUT_S = 10.0  # five times the longest time that a stop may take


def start(arguments: Namespace) -> int:
    """Start the daemon unless it runs, and print the path of its socket. Starts no daemon if telemetry is off."""
    decision = decided()
    if not decision.on:
        complain(f"no daemon was started; {decision.sentence}")
        if arguments.json:
            print(json.dumps({"socket": None, "pid": None, "version": __version__}))
        return 0
    notice.show_once()
    try:
        running = launch.ensure_running(os.environ)
    except launch.LaunchError as error:
        raise CommandError(str(error)) from error
    settings.warn_of_others(running)
    shown = {"socket": running.socket, "pid": running.pid, "version": running.version}
    print(json.dumps(shown) if arguments.json else running.socket)
    return 0


def serve(_arguments: Namespace) -> int:
    """Run the daemon in the foreground until it exits."""
    decided()  # says if an opt-out is not kept
    from ..daemon import start as daemon  # noqa: PLC0415 (only this command needs the daemon's code)

    try:
        daemon.foreground()
    except daemon.TelemetryOffError as error:
        complain(f"no daemon was started; {error}")
    except daemon.AlreadyRunningError as error:
        raise CommandError("a daemon is already running; `brakit-sidecar status` shows it") from error
    except OSError as error:
        raise CommandError(str(error)) from error
    return 0


def stop(_arguments: Namespace) -> int:
    """Stop the daemon, and return after it has exited. Succeeds if no daemon runs."""
    conversation = daemon_client.connect_if_running()
    if conversation is None:
        return 0
    with conversation:
        try:
            socket_path = conversation.identity()["socket"]
            conversation.ask("stop")
        except NoDaemonError:
            return 0  # the daemon was already about to exit
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        lock = launch.acquire_lock(socket_path)  # a daemon holds this lock until it has exited
        if lock is not None:
            os.close(lock)
            return 0
        time.sleep(launch.RETRY_S)
    raise CommandError(f"the daemon did not stop within {_STOP_TIMEOUT_S:.0f} s; it may be stopped (SIGSTOP) or stuck")


def status(arguments: Namespace) -> int:
    """Print the daemon's state. Returns 1 if no daemon runs."""
    found = _ask_status()
    if found is not None:
        if arguments.json:
            print(json.dumps(found, indent=2))
        else:
            show(_as_text(found))
        return 0
    decision = consent.current(os.environ)
    if arguments.json:
        print(json.dumps({"running": False, "consent": {"on": decision.on, "why": decision.why}}, indent=2))
    else:
        show([f"no daemon is running; {decision.sentence}", f"destination {describe(Destination(os.environ))}"])
    return 1


def _ask_status() -> dict[str, Any] | None:
    try:
        conversation = daemon_client.connect_if_running()
    except secure_files.UnsafePathError as error:
        raise CommandError(str(error)) from error
    if conversation is None:
        return None
    with conversation:
        try:
            answer = conversation.ask("status")
        except NoDaemonError:
            return None
    return answer if isinstance(answer, dict) and answer.keys() >= _STATUS else None


def _as_text(found: dict[str, Any]) -> list[str]:
    delivery = found["delivery"]
    destination = found.get("destination", {"name": "unknown to this older daemon", "kept_local": {}})
    dropped = "".join(f", {count} dropped ({reason})" for reason, count in delivery["dropped"].items())
    lines = [
        f"brakit-sidecar {found['version']} is running (pid {found['pid']}, up {found['uptime_s']:.0f} s)",
        f"socket     {found['socket']}",
        f"consent    telemetry is {'on' if found['consent']['on'] else 'off'}: {found['consent']['why']}",
        f"destination {destination['name']}",
        f"delivery   {delivery['sent']} sent, {delivery['local']} kept local, {delivery['queued']} queued{dropped}",
        "refused    " + (", ".join(f"{count} {reason}" for reason, count in found["refused"].items()) or "nothing"),
    ]
    kept_local = destination["kept_local"]
    for session in found["sessions"]:
        workers, kept = session["producers"], kept_local.get(session["id"])
        lines += [
            "",
            f"session {session['id']} (open for {session['age_s']:.0f} s)",
            *([f"  its events stay on this machine ({kept})"] if kept else []),
            f"  {workers['live']} worker{'' if workers['live'] == 1 else 's'} connected, {workers['gone']} exited",
            *(f"  {name:32} {json.dumps(value)}" for name, value in session["fields"].items()),
        ]
    return lines
