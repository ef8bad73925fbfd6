"""The reasons why the daemon refuses a part of a line or closes a connection."""

from __future__ import annotations

from enum import Enum


class Refusal(str, Enum):
    """The reason of a refusal. Its value is the label in ``status`` and in the answer to the producer."""

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
    WRONG_KEY = "wrong_key"  # the field exists, but may not be reported under this key
    BAD_VALUE = "bad_value"
    BAD_COUNTER_FILE = "bad_counter_file"  # the descriptor, or the file of that name, is not the worker's counter file
    BAD_ID = "bad_id"  # a mark or a route that is not an opaque id of 16 hex digits
    TOO_MANY = "too_many"  # more sessions, producers or marks than the daemon stores
    NO_SESSION = "no_session"
    SESSION_ENDED = "session_ended"


# Only these reasons close the connection, because the bytes that follow may not be lines of a known producer.
CLOSING = frozenset({Refusal.OVERSIZE, Refusal.NO_HELLO, Refusal.BAD_HELLO, Refusal.FOREIGN_USER})
