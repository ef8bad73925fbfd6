"""The protocol of one connection without I/O: bytes in, calls to the sessions' book, bytes out.

This file knows no socket, no descriptor and no loop. The daemon's connection reads, writes and waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson

from . import counter_layout
from .frames import parse
from .lines import FrameReader
from .refusal import CLOSING, Refusal
from .wire import MAX_LINE

if TYPE_CHECKING:
    from .frames import Frame, Hello
    from .session.member import Member

MAX_UNSENT = 1024 * 1024  # bytes; a client that keeps asking without reading gets no further answers


class Joined(NamedTuple):
    """The hello is accepted. ``member`` is None if it names no session. Then only events and questions may follow."""

    member: Member | None
    takes_counter_file: bool = False
    refused: Refusal | None = None  # of a part of the hello


class Ended(NamedTuple):
    """The hello is accepted, but its session is over. Every line for it is refused."""

    refused: Refusal | None = None


class TryLater(NamedTuple):
    """The connection is closed without an answer, so that the client connects again, perhaps to the next daemon."""


class SessionBook(Protocol):
    """All that a connection knows of the daemon."""

    def hello(self, hello: Hello, descriptor: int | None, pid: int) -> Joined | Ended | TryLater:
        """Join the session that the hello names.

        Takes over ``descriptor``, which is None if no counter file came with the hello. ``pid`` is 0 if it is unknown.
        """

    def receive(self, member: Member, frame: Frame) -> list[Refusal]:
        """Apply a frame; return what is refused."""

    def receive_without_session(self, frame: Frame, destination: str | None) -> list[Refusal]:
        """Report the events of a frame; return what is refused. ``destination`` is the hello's."""

    def receive_increments(self, member: Member, lines: list[bytes]) -> bool:
        """Count lines that are increments and nothing else. Returns False, and counts none, if they are not."""

    def ask(self, member: Member | None, question: Any) -> Any:
        """Answer a question, after all that the member reported is journaled. May return a Refusal, or TryLater."""

    def refused(self, reason: Refusal) -> None:
        """Count a refusal."""

    def closed(self, member: Member, *, is_evicted: bool) -> None:
        """Note that the member's connection is closed, and that all of it was read.

        ``is_evicted``: the daemon closed it to free a descriptor, and the client may connect again.
        """


class LineProtocol:
    """One connection's lines, in order: the first is the hello, and the lines behind a question wait for its answer."""

    def __init__(self, book: SessionBook, pid: int = 0) -> None:
        """``pid`` is the peer's, 0 if it is unknown."""
        self._book = book
        self._pid = pid
        self._reader = FrameReader()
        self._pending: list[bytes] = []  # complete lines that were received and not yet applied
        self._lines = 0  # applied ones
        self._unsent = bytearray()
        self._answered: set[Refusal] = set()
        self.descriptor: int | None = None  # came with the bytes before the hello, and belongs to no counter file yet
        self.outcome: Joined | Ended | None = None  # None before the hello
        self._destination: str | None = None  # that the hello names
        self.owes_answer = False  # receiving pauses until it is sent; refusals never pause anything
        self.is_closing = False

    @property
    def member(self) -> Member | None:
        """This connection's part in a session, if it joined one."""
        return self.outcome.member if isinstance(self.outcome, Joined) else None

    # --- in --------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Cut bytes into pending lines."""
        self._pending += self._reader.cut(data)

    @property
    def has_pending(self) -> bool:
        """Return True if lines wait to be applied."""
        return bool(self._pending)

    def apply_pending(self, most: int | None) -> None:
        """Apply pending lines in order, at most ``most`` of them one by one.

        None applies all of them, even behind a question whose answer is not sent yet.
        """
        if self.outcome is None and self._pending:  # alone, so that the lines behind it may be counted at once
            if not self._apply_lines(1):
                return
            if self.owes_answer and most is not None:
                return
        if self._pending and self.member is not None and self._book.receive_increments(self.member, self._pending):
            self._lines += len(self._pending)
            self._pending = []
        elif not self._apply_lines(most):
            return
        if self._reader.is_overlong and not self._pending:
            self._lines += 1
            self.refuse(Refusal.OVERSIZE)

    def _apply_lines(self, most: int | None) -> bool:
        """Return False if the connection is closing."""
        lines, self._pending = self._pending, []
        for position, line in enumerate(lines, start=1):
            self._lines += 1
            if len(line) >= MAX_LINE:
                self.refuse(Refusal.OVERSIZE)
            else:
                self._apply(parse(line))
            if self.is_closing:
                return False
            if most is not None and (self.owes_answer or position == most):
                self._pending = lines[position:]
                break
        return True

    def _apply(self, frame: Frame) -> None:
        if self.outcome is None:
            self._greet(frame)
        elif frame.hello is not None or Refusal.BAD_HELLO in frame.refused:
            frame.refused = [reason for reason in frame.refused if reason is not Refusal.BAD_HELLO]
            frame.refused.append(Refusal.REPEATED_HELLO)
        for reason in frame.refused:
            self.refuse(reason)
        if self.is_closing:
            return
        if isinstance(self.outcome, Ended):
            if frame.needs_a_session or frame.events:
                self.refuse(Refusal.SESSION_ENDED)
        else:
            for reason in self._receive(frame):
                self.refuse(reason)
        if frame.ask is not None:
            self._answer(frame.ask)

    def _receive(self, frame: Frame) -> list[Refusal]:
        if self.member is None:
            return self._book.receive_without_session(frame, self._destination)
        return self._book.receive(self.member, frame)

    def _greet(self, frame: Frame) -> None:
        if frame.hello is None:
            bad = Refusal.BAD_HELLO in frame.refused
            frame.refused = [Refusal.BAD_HELLO if bad else Refusal.NO_HELLO]
            return
        descriptor = None
        if frame.hello.counter_file == counter_layout.VERSION:
            descriptor, self.descriptor = self.descriptor, None
        outcome = self._book.hello(frame.hello, descriptor, self._pid)
        if isinstance(outcome, TryLater):
            self.is_closing = True
            return
        self.outcome, self._destination = outcome, frame.hello.destination
        if outcome.refused is not None:
            self.refuse(outcome.refused)
        if isinstance(outcome, Joined) and outcome.takes_counter_file:
            self._send({"counter_file": counter_layout.VERSION})

    def _answer(self, question: Any) -> None:
        if len(self._unsent) > MAX_UNSENT:
            return
        answer = self._book.ask(self.member, question)
        if isinstance(answer, TryLater):
            self.is_closing = True
            return
        if isinstance(answer, Refusal):
            self.refuse(answer)
            answer = None
        self.owes_answer = True
        self._send({"answer": answer})

    # --- out -------------------------------------------------------------------------------------------------------

    def refuse(self, reason: Refusal) -> None:
        """Count a refusal. The first one of its reason is answered."""
        self._book.refused(reason)
        self.is_closing |= reason in CLOSING
        if reason not in self._answered:
            self._answered.add(reason)
            self._send({"refused": {"reason": reason.value, "line": self._lines}})

    def data_to_send(self) -> bytearray:
        """Return the bytes that are not sent yet."""
        return self._unsent

    def sent(self, count: int) -> None:
        """Note that the first ``count`` of these bytes are sent."""
        del self._unsent[:count]
        if not self._unsent:
            self.owes_answer = False

    def _send(self, line: dict[str, Any]) -> None:
        self._unsent += orjson.dumps(line) + b"\n"
