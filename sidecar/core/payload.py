"""The bytes that may leave the machine. What is not in the schema cannot be named here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import orjson

from sidecar.core.schema import FIXED, Event

if TYPE_CHECKING:
    from collections.abc import Mapping


def event_uuid(session: str, event: Event) -> str:
    """The uuid of what a session sends once: the same whoever sends it, so the endpoint drops a repetition."""
    return str(uuid5(UUID(session), event.name))


def body(
    event: Event, values: Mapping[str, Any], *, api_key: str, distinct_id: str, uuid: str, timestamp: str
) -> bytes:
    """The request's body. ``values`` has each field of the event, as ``SessionState.report`` makes them."""
    return orjson.dumps(
        {
            "api_key": api_key,
            "event": event.name,
            "distinct_id": distinct_id,
            "uuid": uuid,
            "timestamp": timestamp,
            "properties": {**{name: values[name] for name in event.fields}, **FIXED},
        }
    )
