"""What one producer has said: running state, which may be said any number of times. Knows no socket.

Counts and rows are in the memory's cells. Where the daemon has that memory, nothing need be said of them; where it has
not, they are said like the rest. ``unsaid`` gives the next frame to say; ``say_again`` makes everything unsaid, for a
daemon that has never heard of it. Only events are no state: each is said once, and kept (bounded) until it is.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from sidecar.core import slab

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sidecar.client.memory import Memory

MAX_EVENTS = 64  # that wait for a daemon; a session has five
MAX_MISTAKES = 64  # likewise
MAX_SCALARS = 256  # words for scalar fields, of which there are a dozen
MAX_MARKS = 4096  # of a field: more insights than anybody reads
AT_ONCE = 256  # rows or marks in a frame: 16 KiB of the line's 64


class Account:
    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.scalars: dict[tuple[str, Any], None] = {}  # every word, as some rules want more than the last one
        self.members: dict[str, dict[str, None]] = {}
        self.marks: dict[str, dict[str, None]] = {}
        self.end: str | None = None
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._mistakes: deque[dict[str, Any]] = deque(maxlen=MAX_MISTAKES)
        self._unsaid: dict[str, dict[Any, None]] = {}  # by the wire's key, what of it; dicts, as they keep the order

    # --- what is said ------------------------------------------------------------------------------------------

    def set(self, field: str, value: Any) -> None:
        if (field, value) not in self.scalars and len(self.scalars) < MAX_SCALARS:
            self.scalars[field, value] = None
            self.unsay("set", (field, value))

    def add(self, field: str, word: str) -> None:
        self._member("add", self.members, field, word)

    def mark(self, field: str, opaque_id: str) -> None:
        self._member("mark", self.marks, field, opaque_id)

    def event(self, name: str, fields: dict[str, Any]) -> None:
        self._events.append({"event": {**fields, "name": name}})

    def mistake(self, frame: dict[str, Any]) -> None:
        """A frame whose only use is to be refused: that is how a mistake is counted where ``status`` shows it."""
        self._mistakes.append(frame)

    def part(self, exit_reason: str) -> None:
        self.end = exit_reason
        self.unsay("end", exit_reason)

    def _member(self, key: str, sets: dict[str, dict[str, None]], field: str, member: str) -> None:
        members = sets.setdefault(field, {})
        if member not in members and len(members) < MAX_MARKS:
            members[member] = None
            self.unsay(key, (field, member))

    # --- what is still to be said --------------------------------------------------------------------------------

    def unsay(self, key: str, what: Any) -> None:
        """Marks as still to be said."""
        self._unsaid.setdefault(key, {})[what] = None

    def unsay_counts(self) -> None:
        """The counts and rows are to be said, as far as there are any."""
        cells = self.memory.cells
        self._unsaid["total"] = dict.fromkeys(name for name, cell in slab.COUNTER_CELLS.items() if cells[cell])
        self._unsaid["histogram"] = dict.fromkeys(self.memory.routes)

    def unsay_event(self, frame: dict[str, Any]) -> None:
        """An event's frame did not get through."""
        self._events.appendleft(frame)

    def say_again(self) -> None:
        """Everything but counts and events is unsaid again."""
        self._unsaid = {
            "set": dict.fromkeys(self.scalars),
            "add": dict.fromkeys((field, word) for field, words in self.members.items() for word in words),
            "mark": dict.fromkeys((field, mark) for field, marks in self.marks.items() for mark in marks),
        }
        if self.end is not None:
            self.unsay("end", self.end)

    def unsaid(self) -> dict[str, Any] | None:
        """The next frame: state first, then events, mistakes, and the end last. None where all is said."""
        frame: dict[str, Any] = {}
        for key, build in _FRAME_PARTS:
            waiting = self._unsaid.get(key)
            if waiting:
                some = list(islice(waiting, AT_ONCE))
                for said in some:
                    del waiting[said]
                frame[key] = build(self, some)
        if frame:
            return frame
        for queue in (self._events, self._mistakes):
            if queue:
                return queue.popleft()
        if self._unsaid.pop("end", None):
            return {"end": {"exit_reason": self.end}}
        return None


def _grouped(_account: Account, pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for field, member in pairs:
        groups.setdefault(field, []).append(member)
    return groups


def _one_word_a_field(account: Account, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A frame has one word for a field; a second one waits for the next frame."""
    words: dict[str, Any] = {}
    for field, word in pairs:
        if field in words:
            account.unsay("set", (field, word))
        else:
            words[field] = word
    return words


def _totals(account: Account, fields: list[str]) -> dict[str, int]:
    return {field: account.memory.cells[slab.COUNTER_CELLS[field]] for field in fields}


def _rows(account: Account, routes: list[str]) -> dict[str, list[int]]:
    return {route: account.memory.row_of(route) for route in routes}


_FRAME_PARTS: tuple[tuple[str, Callable[[Account, list[Any]], dict[str, Any]]], ...] = (
    ("set", _one_word_a_field),
    ("add", _grouped),
    ("mark", _grouped),
    ("total", _totals),
    ("histogram", _rows),
)
