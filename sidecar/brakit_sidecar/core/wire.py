"""The limits of a line between a producer and the daemon, and how a line is written.

``lines`` cuts a stream into lines, and ``frames`` parses a line. A worker loads this file. The file therefore imports
only the standard library, and runs on Python 3.9.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
MAX_LINE = 64 * 1024  # including its newline; forty times the longest honest line; bounds the memory of a connection

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode(frame: dict[str, Any]) -> bytes:
    """Return the frame as one line of ASCII. Raises ValueError or TypeError if JSON cannot express a value."""
    return _encode(frame).encode() + b"\n"
