"""The bytes between a producer and the daemon: lines, their limits, and why one is refused. What a line says is
``frames``' business; the worker's side loads this file, so it costs nothing to import.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL = 1
MAX_LINE = 64 * 1024  # with its newline; forty times the largest honest line; bounds a connection's memory


class Refusal(str, Enum):
    """Why a part of a line, or a connection, was refused: the label under which it is counted and answered."""

    OVERSIZE = "oversize"
    NO_HELLO = "no_hello"
    BAD_HELLO = "bad_hello"
    FOREIGN_USER = "foreign_user"

    BAD_JSON = "bad_json"
    NOT_AN_OBJECT = "not_an_object"
    REPEATED_HELLO = "repeated_hello"
    UNKNOWN_KEY = "unknown_key"
    UNKNOWN_FIELD = "unknown_field"
    UNKNOWN_EVENT = "unknown_event"
    UNKNOWN_ASK = "unknown_ask"
    WRONG_KEY = "wrong_key"  # the field exists, but is not said under this key
    BAD_VALUE = "bad_value"
    BAD_MEMORY = "bad_memory"  # a descriptor that is no worker's memory
    BAD_ID = "bad_id"  # a mark or route that is not 16 hex digits
    TOO_MANY = "too_many"  # beyond what one producer may make the daemon remember
    NO_SESSION = "no_session"
    SESSION_ENDED = "session_ended"


# Only these close the connection: nothing that follows them can be trusted to be lines of a known producer.
CLOSING = frozenset({Refusal.OVERSIZE, Refusal.NO_HELLO, Refusal.BAD_HELLO, Refusal.FOREIGN_USER})


class LineTooLong(ValueError):
    """A line exceeds MAX_LINE, so where the next one starts is not worth finding out."""


class FrameReader:
    """Cuts a byte stream into lines, however the stream was split."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the unfinished line; joined once, so that a dripping sender costs no copies
        self._held = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that ``chunk`` completes, without their newlines. Raises LineTooLong behind the good ones."""
        for line in self.cut(chunk):
            if len(line) >= MAX_LINE:
                raise LineTooLong
            yield line
        if self.is_overlong:
            raise LineTooLong

    def cut(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, whatever their length."""
        if b"\n" not in chunk:
            self._held += len(chunk)
            if not self.is_overlong:  # else nothing will come of it: why keep it
                self._pieces.append(chunk)
            return []
        if self._held:
            chunk = b"".join([*self._pieces, chunk])
        lines = chunk.split(b"\n")
        tail = lines.pop()
        self._pieces, self._held = [tail], len(tail)
        return lines

    @property
    def is_overlong(self) -> bool:
        """Whether the unfinished line is too long by now, whatever completes it."""
        return self._held >= MAX_LINE


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)  # json.dumps would make one for each line


def encode(frame: dict[str, Any]) -> bytes:
    """One line of the wire. Raises ValueError or TypeError for what JSON cannot say."""
    return _ENCODER.encode(frame).encode() + b"\n"
