"""The terms under which a session counts. They are fixed when the session is opened, and journaled."""

from __future__ import annotations

from typing import NamedTuple


class Terms(NamedTuple):
    """Events of the session are sent only if all of this still holds when they are made."""

    anonymous_id: str | None  # a withdrawal of consent replaces it
    stamp: int = 0  # the config's; if it changes, the config may have said no meanwhile
    destination: str = ""  # the digest of the endpoint and the key in the environment that opened the session
