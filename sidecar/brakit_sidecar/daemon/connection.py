"""One connection: a producer's bytes into frames, frames into its session, and what was refused back to it.

Reading is synchronous (``pump``), so that whatever waits in the socket can also be taken in at once, right before a
session is sealed; only waiting for it is not.
"""

from __future__ import annotations

import socket
import termios
from array import array
from contextlib import suppress
from fcntl import ioctl
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import orjson
from anyio.lowlevel import checkpoint

from ..core import counter_layout
from ..core.frames import parse
from ..core.lines import FrameReader
from ..core.refusal import CLOSING, Refusal
from ..core.wire import MAX_LINE
from ..host import peercred, process
from .counter_files import CounterFile

if TYPE_CHECKING:
    from ..core.frames import Frame, Hello
    from .app import Daemon
    from .session import Session

READ_SIZE = 128 * 1024  # in one turn, of which
LINES_AT_ONCE = 4096  # are taken one by one: a hundred thousand empty ones, each refused, take most of a second
_FD = 4  # an int, as SCM_RIGHTS carries it
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
HELLO_TIMEOUT_S = 1.0  # producers say hello at once
TO_THE_END = 1024 * 1024  # more than any Unix socket holds
MAX_PUT_OFF = 16  # questions; who waits for answers asks one at a time
MAX_UNREAD_REFUSALS = 4096  # bytes that may wait for a producer which does not read


class Connection:
    def __init__(self, stream: socket.socket, daemon: Daemon) -> None:
        self._stream = stream
        self._daemon = daemon
        self._reader = FrameReader()
        self._lines = 0
        self._hello: Hello | None = None
        self._session: Session | None = None
        self._answered: set[Refusal] = set()
        self._unsent = bytearray()
        self._owes_answer = False
        self._waiting: list[bytes] = []  # lines behind a question
        self._put_off: list[Any] = []  # questions behind one, of lines that could not wait
        self._draining = False
        self._memory: CounterFile | None = None  # came with the bytes before the hello, and is not yet anybody's
        self._closing = False
        self._opened_at = monotonic()
        if not peercred.is_own_user(stream):
            self._refuse(Refusal.FOREIGN_USER)

    async def serve(self) -> None:
        """Until the producer, a closing refusal or ``end`` ends it."""
        try:
            while not self._closing:
                with suppress(anyio.ClosedResourceError):  # ended meanwhile, or drained and left an answer
                    await self._take_turn()
        finally:
            self.end()

    async def _take_turn(self) -> None:
        took_in = self.pump()
        while self._owes_answer:  # whoever asked is waited for; who was refused is not
            while self._unsent:
                await anyio.wait_writable(self._stream)
                self._flush()
            self._owes_answer = False
            if self._put_off:
                self._answer(self._put_off.pop(0))
        if took_in:
            await checkpoint()  # the others' turn; whoever writes much is not waited for each time
        elif not self._closing:
            await anyio.wait_readable(self._stream)

    def end(self) -> None:
        """Nothing more comes of it. At once, also beside the task that serves it."""
        self._closing = True
        anyio.notify_closing(self._stream)
        self._hang_up()
        self._drop_memory()
        self._daemon.forget(self)
        if self._session is not None:
            self._daemon.sessions.leave(self._session, self, monotonic())

    def make_room(self) -> bool:
        """Ends, if that loses nothing. It can then write no more, so that nothing is written and not read."""
        if not self._closing:
            if not self._may_go():
                return False
            with suppress(OSError):
                self._stream.shutdown(socket.SHUT_RD)
            self.drain()
            if self._session is not None:
                self._daemon.sessions.hang_up(self._session, self)
        self.end()
        return True

    def is_workers_of(self, session: Session) -> bool:
        return self._session is session and self._hello is not None and not self._hello.is_owner

    def _may_go(self) -> bool:
        """Where nobody has said who is there, for a while now; where all that is said is refused; and where a worker
        counts in a memory that has a name: it says the rest again when it comes back.
        """
        sessions, session, hello = self._daemon.sessions, self._session, self._hello
        if hello is None:
            return monotonic() - self._opened_at >= HELLO_TIMEOUT_S
        if self._owes_answer:
            return False
        if session is None:
            return hello.session is not None or hello.group is not None
        return session.id not in sessions.open or sessions.counts_by_name(session, self)

    def pump(self) -> bool:
        """Takes in what the producer has written by now, READ_SIZE bytes of it at most. False for none. Then the others
        have their turn, and more piles up: one read of much costs less than many of little.
        """
        waited = bool(self._waiting)
        self._take_waiting()
        return self._read(READ_SIZE) > 0 or waited

    def drain(self) -> None:
        """Takes in all of it, before a session is sealed: what was written counts, also behind a question whose answer
        nobody reads. The first question is answered; the others, in their turn, by the task that serves. What is
        written meanwhile is not waited for: a flood has no end.
        """
        if self._closing:
            return
        left = _written(self._stream) + 1  # the end is found behind the last byte
        self._draining = True
        self._take_waiting()
        while left > 0 and (read := self._read(min(left, READ_SIZE))):
            left -= read
        self._draining = False
        if self._owes_answer:
            anyio.notify_closing(self._stream)  # wakes that task, which may be waiting for something to read

    def _read(self, most: int) -> int:
        """How many bytes were there, and are taken in. At the end of them the connection is closing."""
        if self._closing or self._waiting or (self._owes_answer and not self._draining):
            return 0
        try:
            chunk = self._stream.recv(most) if self._hello else self._receive_hello(most)
        except BlockingIOError:
            return 0
        except OSError:  # reset: as good as closed, and what came before it has been read
            chunk = b""
        if chunk:
            self._take(chunk)
        else:
            self._closing = True
        return len(chunk)

    # --- from bytes to the session -------------------------------------------------------------------------

    def _receive_hello(self, most: int) -> bytes:
        """Until the hello a worker's memory may come with the bytes; descriptors of later ones the kernel drops."""
        chunk, ancillary, _flags, _address = self._stream.recvmsg(most, socket.CMSG_SPACE(_FD), _CLOEXEC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                for fd in reversed(array("i", data)):  # the room for one is rounded up to two; the first one is kept
                    self._drop_memory()
                    self._memory = CounterFile(fd)
        return chunk

    def _take(self, chunk: bytes) -> None:
        lines = self._reader.cut(chunk)
        if lines and self._hello is None:  # alone, so that what came with it may be counted in one go
            first, lines = lines[:1], lines[1:]
            self._take_lines(first)
            if self._closing:
                return
            if self._owes_answer and not self._draining:
                self._waiting, lines = lines, []
        if lines and self._count(lines):
            self._lines += len(lines)
        elif lines:
            self._take_lines(lines)
        self._refuse_overlong()

    def _take_waiting(self) -> None:
        if self._waiting:
            self._take_lines(self._waiting)
            self._refuse_overlong()

    def _refuse_overlong(self) -> None:
        """The unfinished line, once all before it are taken."""
        if self._reader.is_overlong and not (self._closing or self._waiting):
            self._lines += 1
            self._refuse(Refusal.OVERSIZE)

    def _take_lines(self, lines: list[bytes]) -> None:
        """One by one, and in order. Behind a question the rest waits until the answer is on its way: whoever asks
        without reading costs one answer. Behind many lines it waits for the next turn.
        """
        self._waiting = []
        for position, line in enumerate(lines, start=1):
            self._lines += 1
            if len(line) >= MAX_LINE:
                self._refuse(Refusal.OVERSIZE)
            else:
                self._apply(parse(line))
            if self._closing:
                return
            if (self._owes_answer or position == LINES_AT_ONCE) and not self._draining:
                self._waiting = lines[position:]
                return

    def _count(self, lines: list[bytes]) -> bool:
        """The fast path: increments of an open session, and nothing else."""
        session, sessions = self._session, self._daemon.sessions
        return session is not None and session.id in sessions.open and sessions.count(session, self, lines)

    def _apply(self, frame: Frame) -> None:
        if self._hello is None:
            self._greet(frame)
        elif frame.hello is not None or Refusal.BAD_HELLO in frame.refused:
            frame.refused = [reason for reason in frame.refused if reason is not Refusal.BAD_HELLO]
            frame.refused.append(Refusal.REPEATED_HELLO)
        for reason in frame.refused:
            self._refuse(reason)
        if self._closing:
            return
        self._apply_to_session(frame)
        if frame.ask is not None:
            self._answer(frame.ask)

    def _greet(self, frame: Frame) -> None:
        if frame.hello is None:
            bad = Refusal.BAD_HELLO in frame.refused
            frame.refused = [Refusal.BAD_HELLO if bad else Refusal.NO_HELLO]
            return
        if self._daemon.is_stopping and not self._daemon.sessions.has_open(frame.hello):
            self._closing = True
            return
        may_count = self._daemon.may_count()
        if may_count is None and (frame.hello.session is not None or frame.hello.group is not None):
            self._closing = True  # without an answer, after which nobody would come again
            return
        self._hello = frame.hello
        memory = self._memory if frame.hello.counter_file == counter_layout.VERSION else None
        if memory is not None and not memory.is_acceptable():
            self._refuse(Refusal.BAD_COUNTER_FILE)
            memory = None
        # Otherwise all that is said of a session is refused, as of one that ended.
        if may_count and not (memory and memory.origin.is_retired):
            pid = peercred.pid_of(self._stream)
            self._session = self._daemon.sessions.join(frame.hello, self, monotonic(), memory, pid)
        if memory is not None and frame.hello.producer is not None:
            self._daemon.keep_memory(frame.hello.producer, memory)
            self._memory = None
            if self._session is not None:
                self._send({"counter_file": counter_layout.VERSION})  # it is the session's now
            else:
                self._daemon.let_go_of_memory(frame.hello.producer, memory)
        self._drop_memory()
        if frame.hello.is_owner and self._session is not None:
            end_of_owner = process.end_of(peercred.pid_of(self._stream))
            if end_of_owner is not None:
                self._daemon.watch_owner(self._session, end_of_owner)

    def _apply_to_session(self, frame: Frame) -> None:
        hello, session, daemon = self._hello, self._session, self._daemon
        assert hello is not None  # else the connection is closing
        if session is not None and session.id in daemon.sessions.open:
            occurred, refused = daemon.sessions.say(session, self, frame, monotonic())
            for event in occurred:
                daemon.reporter.journey(event, session)
            for reason in refused:
                self._refuse(reason)
            if frame.end is not None:
                daemon.sessions.part(session, self, frame.end, monotonic())
        elif hello.session is not None or hello.group is not None:
            if frame.needs_a_session or frame.events:
                self._refuse(Refusal.SESSION_ENDED)
        else:
            if frame.needs_a_session:
                self._refuse(Refusal.NO_SESSION)
            for event in frame.events:
                daemon.reporter.journey(event, None)

    def _hang_up(self) -> None:
        """What was not read is read away: closing over it would reset the connection, before the refusal is read."""
        with suppress(OSError):
            for _ in range(TO_THE_END // READ_SIZE):
                if not self._stream.recv(READ_SIZE):
                    break
        self._stream.close()

    def _drop_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # --- back to the producer --------------------------------------------------------------------------------

    def _answer(self, question: Any) -> None:
        opens = isinstance(question, dict) and "open" in question and self._session is None
        if opens and (self._daemon.is_stopping or self._daemon.may_count() is None):
            self._closing = True
            return
        if self._owes_answer:  # only while draining
            if len(self._put_off) < MAX_PUT_OFF:
                self._put_off.append(question)
            return
        if self._session is not None:
            self._daemon.sessions.settle(self._session, self)
        answer = self._daemon.control.answer(question)
        if isinstance(answer, Refusal):
            self._refuse(answer)
        self._owes_answer = True
        self._send({"answer": None if isinstance(answer, Refusal) else answer})

    def _refuse(self, reason: Refusal) -> None:
        """Counts it; the first of its reason is answered, if the producer reads."""
        self._daemon.refused[reason] += 1
        if reason in CLOSING:
            self._closing = True
            with suppress(OSError):
                self._stream.shutdown(socket.SHUT_RD)  # wakes whoever waits to read from it
        if reason not in self._answered and len(self._unsent) < MAX_UNREAD_REFUSALS:
            self._answered.add(reason)
            self._send({"refused": {"reason": reason.value, "line": self._lines}})

    def _send(self, said: dict[str, Any]) -> None:
        self._unsent += orjson.dumps(said) + b"\n"
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._stream.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:  # it is gone; reading will find that out
            sent = len(self._unsent)
        del self._unsent[:sent]


def _written(stream: socket.socket) -> int:
    """How many bytes wait to be read."""
    waiting = array("i", [0])
    ioctl(stream, termios.FIONREAD, waiting)
    return waiting[0]
