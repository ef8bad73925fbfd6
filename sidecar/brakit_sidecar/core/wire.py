"""The lines between a producer and the daemon: their limits, and how one is written. What a line says is ``frames``'
business, how they are read ``lines``'.

The worker's side loads this file, so it imports little.
"""

from __future__ import annotations

from . import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
MAX_LINE = 64 * 1024  # with its newline; forty times the largest honest line; bounds a connection's memory


def encode(frame: dict[str, Any]) -> bytes:
    """One line of the wire. Raises ValueError or TypeError for what JSON cannot say."""
    return plain_json.dumps(frame).encode() + b"\n"
