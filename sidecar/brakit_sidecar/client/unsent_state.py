"""The state that one producer has to report. It may be sent any number of times. Knows no socket.

Counts and rows are in the counter file's cells. A daemon that reads the counter file needs no lines for them; any other
daemon gets them by lines. ``next_frame`` returns the next frame to send. ``owe_everything`` starts over, for a daemon
that knows nothing of this producer. An event that a session has once is state, because the daemon knows whether it was
sent. Every other event is sent once, and is kept (bounded) until then.
"""

from __future__ import annotations

from ..core import counter_layout
from ..core.limits import COUNT_MAX, NS_MAX, ONCE_A_SESSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .counter_file import CounterFile

MAX_EVENTS = 64  # events that wait for a daemon, and events that may be sent again; a session has five
MAX_MISTAKES = 64  # mistakes that wait for a daemon
MAX_FIELDS = 64  # twice as many as a session has
MAX_WORDS = 64  # words of one scalar field, which has one or a few
MAX_MARKS = 4096  # members of one field; more insights than a person reads
ITEMS_PER_FRAME = 64  # words, marks and rows together; even the longest ones then fit into a line


class UnsentState:
    """A producer's state, and which part of it is still to be sent."""

    def __init__(self, counter_file: CounterFile) -> None:
        self.counter_file = counter_file
        # Every word, because some rules need more than the last one; with its type, because 1 and True are equal.
        self.scalars: dict[tuple[str, Any, type], None] = {}
        self.members: dict[str, dict[str, None]] = {}
        self.marks: dict[str, dict[str, None]] = {}
        self._fields: set[str] = set()
        self.end: str | None = None
        self._repeatable: list[dict[str, Any]] = []  # the first MAX_EVENTS events that may be sent again
        self._repeatable_sent = 0  # how many of these were sent
        self._events: list[dict[str, Any]] = []  # the latest MAX_EVENTS of the other events
        self._mistakes: list[dict[str, Any]] = []  # the latest MAX_MISTAKES
        self._owed: dict[str, dict[Any, None]] = {}  # by the wire's key, what is to be sent; a dict keeps the order

    # --- what the producer reports ---------------------------------------------------------------------------------

    def set(self, field: str, value: Any) -> None:
        """Add a word to a scalar field."""
        scalar = (field, value, type(value))
        words = sum(known[0] == field for known in self.scalars)
        if self._has_room_for(field) and scalar not in self.scalars and words < MAX_WORDS:
            self.scalars[scalar] = None
            self.owe("set", scalar)

    def add(self, field: str, word: str) -> None:
        """Add a member to a set field."""
        self._add_member("add", self.members, field, word)

    def mark(self, field: str, opaque_id: str) -> None:
        """Add an opaque id to a field that counts distinct ids."""
        self._add_member("mark", self.marks, field, opaque_id)

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Add a journey event."""
        frame = {"event": {**fields, "name": name}}
        if name in ONCE_A_SESSION and len(self._repeatable) < MAX_EVENTS:
            self._repeatable.append(frame)
        else:
            self._events.append(frame)
            del self._events[:-MAX_EVENTS]

    def mistake(self, frame: dict[str, Any]) -> None:
        """Add a frame that the daemon refuses. ``status`` shows the caller's mistakes as refusals."""
        self._mistakes.append(frame)
        del self._mistakes[:-MAX_MISTAKES]

    def finish(self, exit_reason: str) -> None:
        """Add the end of this producer."""
        self.end = exit_reason
        self.owe("end", exit_reason)

    def _add_member(self, key: str, sets: dict[str, dict[str, None]], field: str, member: str) -> None:
        members = sets.setdefault(field, {}) if self._has_room_for(field) else {member: None}
        if member not in members and len(members) < MAX_MARKS:
            members[member] = None
            self.owe(key, (field, member))

    def _has_room_for(self, field: str) -> bool:
        """Return False for an unknown field once there are MAX_FIELDS fields. Until then the daemon refuses it."""
        if field not in self._fields and len(self._fields) >= MAX_FIELDS:
            from ..core.schema import SESSION_FIELDS  # noqa: PLC0415 (5 ms, for a caller with a mistake only)

            if field not in SESSION_FIELDS:
                return False
        self._fields.add(field)
        return True

    # --- what is still to be sent ----------------------------------------------------------------------------------

    def owe(self, key: str, item: Any) -> None:
        """Queue one item of a key of the wire.

        Race: a signal handler may run between the two steps here, and send what is queued. It is harmless because a
        dict of ``_owed`` is emptied, but not replaced, when its items are sent.
        """
        self._owed.setdefault(key, {})[item] = None

    def owe_counts(self) -> None:
        """Queue the counts and rows that are not zero. Queues none if the file was overwritten."""
        cells = self.counter_file.cells
        if not self.counter_file.is_intact:
            self._owed["total"], self._owed["histogram"] = {}, {}
            return
        self._owed["total"] = dict.fromkeys(name for name, cell in counter_layout.COUNTER_CELLS.items() if cells[cell])
        self._owed["histogram"] = dict.fromkeys(self.counter_file.routes)

    def owe_event(self, frame: dict[str, Any]) -> None:
        """Queue an event again, because its frame may not have reached the daemon."""
        if frame not in self._repeatable:
            self._events.insert(0, frame)
            del self._events[MAX_EVENTS:]

    def owe_everything(self) -> None:
        """Queue all state again, except counts. Events that are sent each time are not state."""
        self._owed = {
            "set": dict.fromkeys(self.scalars),
            "add": dict.fromkeys((field, word) for field, words in self.members.items() for word in words),
            "mark": dict.fromkeys((field, mark) for field, marks in self.marks.items() for mark in marks),
        }
        self._repeatable_sent = 0
        if self.end is not None:
            self.owe("end", self.end)

    @property
    def is_all_sent(self) -> bool:
        """Return True if ``next_frame`` would return None."""
        waiting = self._events or self._mistakes or any(self._owed.values())
        return not waiting and self._repeatable_sent == len(self._repeatable)

    def next_frame(self) -> dict[str, Any] | None:
        """Return the next frame: state, then events, then mistakes, and the end last. Returns None if all is sent."""
        if any(self._owed.values()) and (frame := self._state_frame()):
            return frame
        if self._repeatable_sent < len(self._repeatable):
            self._repeatable_sent += 1
            return self._repeatable[self._repeatable_sent - 1]
        for queue in (self._events, self._mistakes):
            if queue:
                return queue.pop(0)
        if self._owed.pop("end", None):
            return {"end": {"exit_reason": self.end}}
        return None

    def _state_frame(self) -> dict[str, Any]:
        frame: dict[str, Any] = {}
        room = ITEMS_PER_FRAME
        for key, build in _FRAME_PARTS:
            waiting = self._owed.get(key)
            if waiting and room:
                items = list(waiting)[:room]
                room -= len(items)
                for item in items:
                    del waiting[item]
                frame[key] = build(self, items)
        return frame


def _grouped(_unsent: UnsentState, pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for field, member in pairs:
        groups.setdefault(field, []).append(member)
    return groups


def _one_word_a_field(unsent: UnsentState, scalars: list[tuple[str, Any, type]]) -> dict[str, Any]:
    """Return one word for each field, because a frame holds one. The others wait for the next frame."""
    words: dict[str, Any] = {}
    for field, word, kind in scalars:
        if field in words:
            unsent.owe("set", (field, word, kind))
        else:
            words[field] = word
    return words


def _totals(unsent: UnsentState, fields: list[str]) -> dict[str, int]:
    cells = unsent.counter_file.cells
    return {field: min(cells[counter_layout.COUNTER_CELLS[field]], COUNT_MAX) for field in fields}


def _rows(unsent: UnsentState, routes: list[str]) -> dict[str, list[int]]:
    return {route: [min(cell, NS_MAX) for cell in unsent.counter_file.row_of(route)] for route in routes}


_FRAME_PARTS: tuple[tuple[str, Callable[[UnsentState, list[Any]], dict[str, Any]]], ...] = (
    ("set", _one_word_a_field),
    ("add", _grouped),
    ("mark", _grouped),
    ("total", _totals),
    ("histogram", _rows),
)
