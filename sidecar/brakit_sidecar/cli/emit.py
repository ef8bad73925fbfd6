"""``emit``: one journey event."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Any

from ..core.frames import admit_event_fields
from ..core.schema import JOURNEY, said_in_event
from ..host import config_file
from ..host.conversation import NoDaemonError
from . import connecting
from .errors import CommandError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def emit(arguments: Namespace) -> int:
    event = JOURNEY.get(arguments.event)
    if event is None:
        raise UsageError(f"no such event: {arguments.event}; use one of {', '.join(JOURNEY)}")
    fields = dict(map(_field, arguments.fields))
    admitted, refused = admit_event_fields(event, fields)
    for name in refused:
        if name in event.fields and said_in_event(event.fields[name]):
            raise UsageError(f"{name} is {event.fields[name].domain.text}")
        sayable = [field.name for field in event.fields.values() if said_in_event(field)]
        raise UsageError(f"{event.name} has no field {name}; it has {', '.join(sayable)}")
    if not config_file.settled(os.environ).on:
        return 0
    emission: dict[str, Any] = {"event": event.name, "fields": admitted}
    if session := _session():
        emission["session"] = session
    with connecting.to_needed() as daemon:
        try:
            emitted = daemon.ask({"emit": emission})
        except NoDaemonError as error:
            raise CommandError("the daemon was just leaving; try again") from error
    if emitted is None:
        raise CommandError(f"session {session} is over; unset BRAKIT_SESSION_ID to emit without one")
    return 0


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text} is no KEY=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _session() -> str | None:
    try:
        return str(uuid.UUID(os.environ.get("BRAKIT_SESSION_ID", "")))
    except ValueError:
        return None
