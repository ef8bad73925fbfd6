"""What one producer has said: running state, which may be said any number of times. Knows no socket.

Counts and rows are in the memory's cells. Where the daemon has that memory, nothing need be said of them; where it has
not, they are said like the rest. ``next_frame`` gives what is still to be said; ``owe_everything`` starts over, for a
daemon that has never heard of it. An event that a session has but once is state too: the daemon knows whether it was
sent. The others are none: each is said once, and kept (bounded) until it is.
"""

from __future__ import annotations

from ..core import counter_layout
from ..core.limits import COUNT_MAX, NS_MAX, ONCE_A_SESSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .counter_file import CounterFile

MAX_EVENTS = 64  # that wait for a daemon, and that are said again; a session has five
MAX_MISTAKES = 64  # likewise
MAX_FIELDS = 64  # twice those of a session
MAX_WORDS = 64  # of a scalar field, which has one, or a few
MAX_MARKS = 4096  # of a field: more insights than anybody reads
AT_ONCE = 64  # words, marks, rows in a frame: at their longest still within a line


class UnsentState:
    def __init__(self, memory: CounterFile) -> None:
        self.memory = memory
        # Every word, as some rules want more than the last one; with its type, as 1 and True are equal.
        self.scalars: dict[tuple[str, Any, type], None] = {}
        self.members: dict[str, dict[str, None]] = {}
        self.marks: dict[str, dict[str, None]] = {}
        self._fields: set[str] = set()
        self.end: str | None = None
        self._occurred: list[dict[str, Any]] = []  # what may be said again, the first of them
        self._occurred_said = 0  # how many of these, by now
        self._events: list[dict[str, Any]] = []  # of the others the latest, as many as may wait
        self._mistakes: list[dict[str, Any]] = []  # likewise
        self._owed: dict[str, dict[Any, None]] = {}  # by the wire's key, what of it; dicts, as they keep the order

    # --- what is said ------------------------------------------------------------------------------------------

    def set(self, field: str, value: Any) -> None:
        scalar = (field, value, type(value))
        words = sum(said[0] == field for said in self.scalars)
        if self._has_room_for(field) and scalar not in self.scalars and words < MAX_WORDS:
            self.scalars[scalar] = None
            self.owe("set", scalar)

    def add(self, field: str, word: str) -> None:
        self._member("add", self.members, field, word)

    def mark(self, field: str, opaque_id: str) -> None:
        self._member("mark", self.marks, field, opaque_id)

    def event(self, name: str, fields: dict[str, Any]) -> None:
        frame = {"event": {**fields, "name": name}}
        if name in ONCE_A_SESSION and len(self._occurred) < MAX_EVENTS:
            self._occurred.append(frame)
        else:
            self._events.append(frame)
            del self._events[:-MAX_EVENTS]

    def mistake(self, frame: dict[str, Any]) -> None:
        """A frame whose only use is to be refused: that is how a mistake is counted where ``status`` shows it."""
        self._mistakes.append(frame)
        del self._mistakes[:-MAX_MISTAKES]

    def part(self, exit_reason: str) -> None:
        self.end = exit_reason
        self.owe("end", exit_reason)

    def _member(self, key: str, sets: dict[str, dict[str, None]], field: str, member: str) -> None:
        members = sets.setdefault(field, {}) if self._has_room_for(field) else {member: None}
        if member not in members and len(members) < MAX_MARKS:
            members[member] = None
            self.owe(key, (field, member))

    def _has_room_for(self, field: str) -> bool:
        """What is no field the daemon refuses; only where it is said to no end is it looked up here."""
        if field not in self._fields and len(self._fields) >= MAX_FIELDS:
            from ..core.schema import SESSION_FIELDS  # noqa: PLC0415 (5 ms, and twice as much at exit)

            if field not in SESSION_FIELDS:
                return False
        self._fields.add(field)
        return True

    # --- what is still to be said --------------------------------------------------------------------------------

    def owe(self, key: str, what: Any) -> None:
        """It is still to be said."""
        self._owed.setdefault(key, {})[what] = None

    def owe_counts(self) -> None:
        """The counts and rows are to be said, as far as there are any."""
        cells = self.memory.cells
        self._owed["total"] = dict.fromkeys(name for name, cell in counter_layout.COUNTER_CELLS.items() if cells[cell])
        self._owed["histogram"] = dict.fromkeys(self.memory.routes)

    def owe_event(self, frame: dict[str, Any]) -> None:
        """An event's frame did not get through."""
        if frame not in self._occurred:
            self._events.insert(0, frame)
            del self._events[MAX_EVENTS:]

    def owe_everything(self) -> None:
        """Everything is to be said again, but counts, and events that are sent each time."""
        self._owed = {
            "set": dict.fromkeys(self.scalars),
            "add": dict.fromkeys((field, word) for field, words in self.members.items() for word in words),
            "mark": dict.fromkeys((field, mark) for field, marks in self.marks.items() for mark in marks),
        }
        self._occurred_said = 0
        if self.end is not None:
            self.owe("end", self.end)

    @property
    def has_said_all(self) -> bool:
        waiting = self._events or self._mistakes or any(self._owed.values())
        return not waiting and self._occurred_said == len(self._occurred)

    def next_frame(self) -> dict[str, Any] | None:
        """The next frame: state first, then events, mistakes, and the end last. None where all is said."""
        if self._owed and (frame := self._state_frame()):
            return frame
        if self._occurred_said < len(self._occurred):
            self._occurred_said += 1
            return self._occurred[self._occurred_said - 1]
        for queue in (self._events, self._mistakes):
            if queue:
                return queue.pop(0)
        if self._owed.pop("end", None):
            return {"end": {"exit_reason": self.end}}
        return None

    def _state_frame(self) -> dict[str, Any]:
        frame: dict[str, Any] = {}
        room = AT_ONCE
        for key, build in _FRAME_PARTS:
            waiting = self._owed.get(key)
            if waiting and room:
                some = list(waiting)[:room]
                room -= len(some)
                for said in some:
                    del waiting[said]
                frame[key] = build(self, some)
            if waiting is not None and not waiting:
                del self._owed[key]
        return frame


def _grouped(_account: UnsentState, pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for field, member in pairs:
        groups.setdefault(field, []).append(member)
    return groups


def _one_word_a_field(account: UnsentState, scalars: list[tuple[str, Any, type]]) -> dict[str, Any]:
    """A frame has one word for a field; a second one waits for the next frame."""
    words: dict[str, Any] = {}
    for field, word, kind in scalars:
        if field in words:
            account.owe("set", (field, word, kind))
        else:
            words[field] = word
    return words


def _totals(account: UnsentState, fields: list[str]) -> dict[str, int]:
    return {field: min(account.memory.cells[counter_layout.COUNTER_CELLS[field]], COUNT_MAX) for field in fields}


def _rows(account: UnsentState, routes: list[str]) -> dict[str, list[int]]:
    return {route: [min(cell, NS_MAX) for cell in account.memory.row_of(route)] for route in routes}


_FRAME_PARTS: tuple[tuple[str, Callable[[UnsentState, list[Any]], dict[str, Any]]], ...] = (
    ("set", _one_word_a_field),
    ("add", _grouped),
    ("mark", _grouped),
    ("total", _totals),
    ("histogram", _rows),
)
