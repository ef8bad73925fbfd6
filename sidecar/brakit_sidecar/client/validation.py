"""What a caller may have got wrong. Each check gives the value back, or raises Mistake for the producer to count."""

from __future__ import annotations

from ..core.limits import COUNT_MAX, admit_duration, admit_increment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_NAME = 64
_INFINITE = float("inf")
_MAX_WORDS = 64  # of a list: three times the largest vocabulary
_MAX_TEXT = 64  # no word of any vocabulary is as long


class Mistake(Exception):
    """A call that says nothing countable. ``frame`` has none of its text, and the daemon refuses it for its reason:
    that is how the mistake is counted where ``status`` shows it.
    """

    def __init__(self, what: str, frame: dict[str, Any]) -> None:
        super().__init__(what)
        self.frame = frame


def name_of(name: object, key: str) -> str:
    """Lower-case ASCII letters, digits and underscores, the first a letter."""
    if isinstance(name, str) and len(name) <= _MAX_NAME and _is_identifier(name):
        return name
    raise Mistake("no such field or event", {key: {"name": "?"} if key == "event" else {"?": None}})


def _is_identifier(name: str) -> bool:
    return name.isascii() and name.isidentifier() and name.islower() and not name.startswith("_")


def increment(n: object, field: object) -> int:
    count = admit_increment(n)
    if count is not None:
        return count
    raise Mistake("counts are whole numbers, 1 to 2^53-1", {"incr": {field: None}})


def duration_of(duration_ms: object) -> float:
    admitted = admit_duration(duration_ms)
    if admitted is not None:
        return admitted
    raise Mistake("a duration is a number of ms, 0 to a day", {"observe": {"0" * 16: [None]}})


def scalar(value: object, refusable: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return word_of(value, refusable)
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) <= COUNT_MAX):
        return value
    if isinstance(value, float) and abs(value) < _INFINITE:  # a NaN compares false
        return value
    raise Mistake("a field is a text, a number or a truth value", refusable)


def word_of(word: object, refusable: dict[str, Any]) -> str:
    if isinstance(word, str):
        try:
            word.encode()
        except UnicodeEncodeError:  # half a character: no UTF-8 has it, and no JSON reader takes it
            pass
        else:
            return word[:_MAX_TEXT]
    raise Mistake("a word is a text", refusable)


def event_value(value: object) -> Any:
    """A list of words, or a scalar; anything else becomes what the daemon refuses."""
    if isinstance(value, (list, tuple)):
        return [word_or_null(word) for word in value[:_MAX_WORDS]]
    try:
        return scalar(value, {})
    except Mistake:
        return [None]


def word_or_null(word: object) -> str | None:
    try:
        return word_of(word, {})
    except Mistake:
        return None


def text_of(text: object, refusable: dict[str, Any]) -> str:
    if isinstance(text, str):
        return text
    raise Mistake("a route or mark is a text", refusable)
