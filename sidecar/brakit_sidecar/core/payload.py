"""THE gate: the bytes that may leave the machine are made here and nowhere else.

Every value goes through its field's domain once more, and what comes out is the domain's own: a table's entry, a
bounded integer, a truth value, a version's three numbers; neutral where it was none of them. Around them stand ids, a
time and a key, each in its shape. So nothing that comes here need be trusted: not the state, and no journal.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import orjson

from . import frames
from .schema import EVENTS, FIXED, EventSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


class InadmissibleError(ValueError):
    """Something around the event's values is not in its shape, and has no neutral form."""


def event_uuid(session: str, event: EventSpec) -> str:
    """The uuid of what a session sends once: the same whoever sends it, so the endpoint drops a repetition."""
    return str(uuid5(UUID(session), event.name))


def is_plausible_key(key: str) -> bool:
    """PostHog's own check of shape: another key is a certain 401."""
    return key.isascii() and key.isprintable() and 1 <= len(key) <= 64 and not key.startswith("phx_")


def admitted(event: EventSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Each field of the event with a value of its domain's own; what is in none of them is left behind."""
    return {name: field.domain.coerce(values[name]) for name, field in event.fields.items()}


def body(
    event: EventSpec, values: Mapping[str, Any], *, api_key: str, distinct_id: str, uuid: str, timestamp: str
) -> bytes:
    """The request's body. ``values`` has each field of the event, as ``SessionState.report`` makes them. Without a
    plausible ``api_key`` it has none, and can only stay here. Raises InadmissibleError.
    """
    for text, shape in ((distinct_id, frames.UUID), (uuid, frames.UUID), (timestamp, _TIMESTAMP)):
        if shape.fullmatch(text) is None:
            raise InadmissibleError
    return orjson.dumps(
        {
            "api_key": api_key if is_plausible_key(api_key) else "",
            "event": event.name,
            "distinct_id": distinct_id,
            "uuid": uuid,
            "timestamp": timestamp,
            "properties": {**admitted(event, values), **FIXED},
        }
    )


def rebuild(name: str, frozen: bytes, *, api_key: str, distinct_id: str, uuid: str) -> bytes | None:
    """A body that was made before and comes back from a disk, made again of what it says; None where these are not
    the very bytes that went there. The key is the one that holds now, whatever it says.
    """
    try:
        said = orjson.loads(frozen)
        values, timestamp, its_key = said["properties"], said["timestamp"], said["api_key"]

        def made(key: str) -> bytes:
            return body(EVENTS[name], values, api_key=key, distinct_id=distinct_id, uuid=uuid, timestamp=timestamp)

        return made(api_key) if made(its_key) == frozen else None
    except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, or of another form
        return None
