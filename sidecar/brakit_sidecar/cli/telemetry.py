"""The command ``telemetry``: show whether telemetry is on and why, or switch it on or off."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..core.destination import Destination
from ..core.endpoint import describe
from ..daemon import counter_files, journal, receipts
from ..host import config_file, consent, guards, launch, paths
from ..host.conversation import Conversation, NoDaemonError, SilentDaemonError
from . import daemon_client
from .errors import CommandError, UsageError
from .terminal import show

if TYPE_CHECKING:
    from argparse import Namespace

_SETTLE_TIMEOUT_S = 2.0  # for the receipts of attempts that were cancelled, which takes some ms
_POLL_S = 0.02


def telemetry(arguments: Namespace) -> int:
    """Switch telemetry on or off if asked to, and print the decision with its reason."""
    if arguments.forget and arguments.action != "off":
        raise UsageError("--forget goes with `telemetry off`")
    done = {} if arguments.action == "status" else _switch(on=arguments.action == "on", is_forgetting=arguments.forget)
    found = _found()
    if arguments.json:
        print(json.dumps({**found, **done}, indent=2))
    else:
        show(_as_text(found, done))
    return 0


def _switch(*, on: bool, is_forgetting: bool) -> dict[str, Any]:
    """Write the decision. Returns what else was done."""
    try:
        config_file.switch(os.environ, on=on)
    except config_file.ConfigError as error:
        raise CommandError(str(error)) from error
    daemon = _connect_to_daemon()
    if on:
        if daemon is not None:
            with daemon, suppress(NoDaemonError):
                daemon.ask("consent")
        return {}
    dropped = _discard_unsent_data() if daemon is None else _withdraw(daemon)
    return {"dropped": dropped, "new_id": True, "receipts_removed": _forget() if is_forgetting else None}


def _forget() -> int:
    try:
        return receipts.forget()
    except OSError as error:
        raise CommandError(f"telemetry is off, but the receipts were not removed: {error}") from error


def _connect_to_daemon() -> Conversation | None:
    """Connect to the running daemon. Returns None if no daemon runs."""
    try:
        return daemon_client.connect_if_running()
    except NoDaemonError:
        return None


def _withdraw(daemon: Conversation) -> int:
    """Make the running daemon read the config now. Returns how many events it dropped.

    Nothing would be sent even without this call, because the daemon also reads the config before each request.
    """
    try:
        with daemon:
            dropped = int(daemon.ask("consent").get("dropped", 0))
            deadline = time.monotonic() + _SETTLE_TIMEOUT_S
            while daemon.ask("status")["delivery"]["queued"] and time.monotonic() < deadline:
                time.sleep(_POLL_S)
    except SilentDaemonError as error:
        raise CommandError(
            "telemetry is off, but the running daemon does not answer; it sends nothing, and drops what it holds "
            "when it continues"
        ) from error
    except NoDaemonError:  # it was about to exit
        return _discard_unsent_data()
    return dropped


def _discard_unsent_data() -> int:
    """Discard the events, sessions and counter files that a dead daemon left. Returns how many sessions these were."""
    socket_path = daemon_client.socket_path()
    discarded = 0
    with suppress(OSError):
        lock = launch.acquire_lock(socket_path)
        if lock is not None:
            discarded = journal.discard(paths.journal_dir(socket_path))
            for _producer, counter_file in counter_files.left_behind(socket_path, {}):
                counter_file.retire()
            os.close(lock)
    return discarded


def _found() -> dict[str, Any]:
    """Return the decision, each source with its value, and the destination."""
    decision = consent.current(os.environ)
    config = consent.read_config(os.environ)
    word = os.environ.get("BRAKIT_TELEMETRY") or "not set"
    sources = {
        consent.DO_NOT_TRACK: os.environ.get("DO_NOT_TRACK") or "not set",
        consent.GUARDS: guards.dormant_because(os.environ) or "no sign of production, CI or cloud",
        consent.VARIABLE: word if consent.is_understood(os.environ) else f"{word} (not understood, and without effect)",
        consent.CONFIG: f"{_config_value(config)} ({paths.config_path(os.environ)})",
    }
    return {
        "on": decision.on,
        "why": decision.why,
        "by": decision.by,
        "sentence": decision.sentence,
        "sources": sources,
        "destination": describe(Destination(os.environ)),
    }


def _as_text(found: dict[str, Any], done: dict[str, Any]) -> list[str]:
    lines = [found["sentence"]]
    if "dropped" in done:
        receipts = "receipts stay (`telemetry off --forget` removes them)"
        if done["receipts_removed"] is not None:
            receipts = f"the receipts of {done['receipts_removed']} events were removed"
        replaced = "the anonymous id was replaced by one that was never sent"
        lines.append(f"{_events(done['dropped'])} dropped, {replaced}, and {receipts}")
    sources = found["sources"].items()
    return [
        *lines,
        "",
        "A no of any of these sources wins; the arrow shows which one decided:",
        *(f"{'->' if source == found['by'] else '  '} {source:18} {value}" for source, value in sources),
        "",
        f"destination        {found['destination']}",
    ]


def _events(count: int) -> str:
    return "1 unsent event was" if count == 1 else f"{count} unsent events were"


def _config_value(config: consent.Config) -> str:
    if config.missing:
        return "does not exist"
    return config.problem or f"telemetry: {json.dumps((config.content or {}).get('telemetry'))}"
