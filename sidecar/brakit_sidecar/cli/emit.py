"""The command ``emit``: report one journey event."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Any

from ..core.destination import Destination
from ..core.frames import admit_event_fields
from ..core.schema import JOURNEY, said_in_event
from ..host.conversation import NoDaemonError
from . import consent, daemon_client, notice
from .errors import CommandError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def emit(arguments: Namespace) -> int:
    """Report one journey event. Does nothing if telemetry is off."""
    event = JOURNEY.get(arguments.event)
    if event is None:
        raise UsageError(f"there is no event {arguments.event}; use one of {', '.join(JOURNEY)}")
    fields = dict(map(_field, arguments.fields))
    admitted, refused = admit_event_fields(event, fields)
    for name in refused:
        if name in event.fields and said_in_event(event.fields[name]):
            raise UsageError(f"the value of {name} must be: {event.fields[name].domain.text}")
        accepted = [field.name for field in event.fields.values() if said_in_event(field)]
        raise UsageError(f"{event.name} has no field {name}; it has {', '.join(accepted)}")
    if not consent.decided().on:
        return 0
    notice.show_once()
    emission: dict[str, Any] = {
        "event": event.name,
        "fields": admitted,
        "destination": Destination(os.environ).digest,
    }
    session = _session()
    if session is not None:
        emission["session"] = session
    with daemon_client.connect_or_start() as daemon:
        try:
            emitted = daemon.ask({"emit": emission})
        except NoDaemonError as error:
            raise CommandError("the daemon exited before it answered; try again") from error
    if emitted is None and session is None:
        raise CommandError("the running daemon is of another version; `brakit-sidecar stop` ends it")
    if emitted is None:
        raise CommandError(f"session {session} is over; unset BRAKIT_SESSION_ID to report the event without a session")
    return 0


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text} is not of the form KEY=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _session() -> str | None:
    try:
        return str(uuid.UUID(os.environ.get("BRAKIT_SESSION_ID", "")))
    except ValueError:
        return None
