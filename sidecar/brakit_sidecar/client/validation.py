"""The checks of what a caller passes. Each check returns the value, or raises Mistake for the producer to count."""

from __future__ import annotations

from ..core.limits import COUNT_MAX, admit_duration, admit_increment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_NAME = 64
_INFINITE = float("inf")
_MAX_WORDS = 64  # words of a list; three times as many as the largest vocabulary has
_MAX_TEXT = 64  # longer than any word of any vocabulary


class Mistake(Exception):
    """A call that cannot be counted.

    ``frame`` holds none of the call's text, and the daemon refuses it for the mistake's reason. So ``status`` shows the
    mistake among the refusals.
    """

    def __init__(self, message: str, frame: dict[str, Any]) -> None:
        super().__init__(message)
        self.frame = frame


def name_of(name: object, key: str) -> str:
    """Return a name of lower-case ASCII letters, digits and underscores that begins with a letter."""
    if isinstance(name, str) and len(name) <= _MAX_NAME and _is_identifier(name):
        return name
    raise Mistake("no such field or event", {key: {"name": "?"} if key == "event" else {"?": None}})


def _is_identifier(name: str) -> bool:
    return name.isascii() and name.isidentifier() and name.islower() and not name.startswith("_")


def increment(n: object, field: object) -> int:
    """Return a whole number, 1 to 2^53-1."""
    count = admit_increment(n)
    if count is not None:
        return count
    raise Mistake("a count must be a whole number, 1 to 2^53-1", {"incr": {field: None}})


def duration_of(duration_ms: object) -> float:
    """Return a duration in ms, 0 to 86,400,000."""
    admitted = admit_duration(duration_ms)
    if admitted is not None:
        return admitted
    raise Mistake("a duration must be a number of ms, 0 to 86,400,000", {"observe": {"0" * 16: [None]}})


def scalar(value: object, refusable: dict[str, Any]) -> Any:
    """Return a scalar field's value: a text, a finite number or a bool."""
    if isinstance(value, str):
        return word_of(value, refusable)
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) <= COUNT_MAX):
        return value
    if isinstance(value, float) and abs(value) < _INFINITE:  # False for NaN
        return value
    raise Mistake("a field's value must be a text, a number or a bool", refusable)


def word_of(word: object, refusable: dict[str, Any]) -> str:
    """Return a text's first 64 characters."""
    if isinstance(word, str):
        try:
            word.encode()
        except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot encode and JSON readers refuse
            pass
        else:
            return word[:_MAX_TEXT]
    raise Mistake("a word must be a text", refusable)


def event_value(value: object) -> Any:
    """Return a list of words or a scalar. Returns a value that the daemon refuses for anything else."""
    if isinstance(value, (list, tuple)):
        return [word_or_null(word) for word in value[:_MAX_WORDS]]
    try:
        return scalar(value, {})
    except Mistake:
        return [None]


def word_or_null(word: object) -> str | None:
    """Return the word, or None if it is not a valid one."""
    try:
        return word_of(word, {})
    except Mistake:
        return None


def text_of(text: object, refusable: dict[str, Any]) -> str:
    """Return a route or a mark, which may be of any length."""
    if isinstance(text, str):
        return text
    raise Mistake("a route or mark must be a text", refusable)
