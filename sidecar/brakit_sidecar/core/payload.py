"""THE gate: only this file makes the bytes that may leave the machine.

Every value passes through its field's domain once more. The result is an entry of a table, a bounded integer, a boolean
or the three numbers of a version. Any other value becomes the field's default. The ids, the time and the key must have
their shapes. So this file need not trust its input, which comes from a session's totals or from a journal.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import orjson

from . import frames
from .endpoint import is_plausible_key
from .schema import EVENTS, FIXED, EventSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


class InadmissibleError(ValueError):
    """An id or the timestamp of an event does not have its shape, and no default can replace it."""


def event_uuid(session: str, event: EventSpec) -> str:
    """Return the uuid of an event that a session sends only once.

    It depends only on the session and the event, so the endpoint recognises and drops a repetition.
    """
    return str(uuid5(UUID(session), event.name))


def admitted(event: EventSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return each field of the event with a value of its domain. Values of other fields are dropped."""
    return {name: field.domain.coerce(values[name]) for name, field in event.fields.items()}


def body(
    event: EventSpec, values: Mapping[str, Any], *, api_key: str, distinct_id: str, uuid: str, timestamp: str
) -> bytes:
    """Return the body of the request that sends the event. ``values`` must have every field of the event.

    If ``api_key`` is not plausible, the key in the body is empty. Such a body is not sent, but only kept in a receipt.
    Raises InadmissibleError if ``distinct_id``, ``uuid`` or ``timestamp`` does not have its shape.
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
    """Rebuild a body that was stored on disk. The result has the current ``api_key``, not the stored one.

    Returns None if the stored body does not round-trip: the bytes made from its own values must equal ``frozen``.
    """
    try:
        stored = orjson.loads(frozen)
        values, timestamp, stored_key = stored["properties"], stored["timestamp"], stored["api_key"]

        def body_with(key: str) -> bytes:
            return body(EVENTS[name], values, api_key=key, distinct_id=distinct_id, uuid=uuid, timestamp=timestamp)

        return body_with(api_key) if body_with(stored_key) == frozen else None
    except (ValueError, TypeError, KeyError, AttributeError):  # ``frozen`` is not the JSON of a body
        return None
