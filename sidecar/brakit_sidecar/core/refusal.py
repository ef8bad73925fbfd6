"""Why a part of a line, or a connection, was refused."""

from __future__ import annotations

from enum import Enum


class Refusal(str, Enum):
    """The label under which it is counted and answered."""

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
    BAD_COUNTER_FILE = "bad_counter_file"  # a descriptor that is no worker's memory
    BAD_ID = "bad_id"  # a mark or route that is not 16 hex digits
    TOO_MANY = "too_many"  # beyond what one producer may make the daemon remember
    NO_SESSION = "no_session"
    SESSION_ENDED = "session_ended"


# Only these close the connection: nothing that follows them can be trusted to be lines of a known producer.
CLOSING = frozenset({Refusal.OVERSIZE, Refusal.NO_HELLO, Refusal.BAD_HELLO, Refusal.FOREIGN_USER})
