"""One connection: a producer's bytes into frames, frames into its session, and what was refused back to it.

Reading is synchronous (``pump``), so that whatever waits in the socket can also be taken in at once, right before a
session is sealed; only waiting for it is not.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import orjson

from sidecar.core.frames import parse
from sidecar.core.wire import CLOSING, FrameReader, LineTooLong, Refusal
from sidecar.host import peer

if TYPE_CHECKING:
    import socket

    from sidecar.core.frames import Frame, Hello
    from sidecar.daemon.app import Daemon
    from sidecar.daemon.sessions import Session

READ_SIZE = 64 * 1024
READ_AT_ONCE = 256 * 1024  # then the others have their turn
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
        self._closing = False
        if not peer.is_own_user(stream):
            self._refuse(Refusal.FOREIGN_USER)

    async def serve(self) -> None:
        """Until the producer or a closing refusal ends it."""
        try:
            while not self._closing:
                await anyio.wait_readable(self._stream)
                self.pump()
                while self._owes_answer and self._unsent:  # whoever asked is waited for; who was refused is not
                    await anyio.wait_writable(self._stream)
                    self._flush()
                self._owes_answer = False
        finally:
            self._stream.close()
            self._daemon.forget(self)
            if self._session is not None:
                self._daemon.sessions.leave(self._session, self, monotonic())

    def pump(self, most: int = READ_AT_ONCE) -> None:
        """Takes in what the producer has written by now, at most about ``most`` bytes of it."""
        while most > 0 and not self._closing:
            try:
                chunk = self._stream.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError:  # reset: as good as closed, and what came before it has been read
                chunk = b""
            if not chunk:
                self._closing = True
                return
            most -= len(chunk)
            self._take(chunk)

    # --- from bytes to the session -------------------------------------------------------------------------

    def _take(self, chunk: bytes) -> None:
        try:
            for line in self._reader.feed(chunk):
                self._lines += 1
                self._apply(parse(line))
                if self._closing:
                    return
        except LineTooLong:
            self._lines += 1
            self._refuse(Refusal.OVERSIZE)

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
        self._hello = frame.hello
        self._session = self._daemon.sessions.join(frame.hello, self, monotonic())
        if frame.hello.is_owner and self._session is not None:
            self._daemon.watch_owner(self._session, peer.peer_of(self._stream).pid)

    def _apply_to_session(self, frame: Frame) -> None:
        hello, session, daemon = self._hello, self._session, self._daemon
        assert hello is not None  # else the connection is closing
        if session is not None and hello.producer is not None and session.id in daemon.sessions.open:
            occurred, refused = daemon.sessions.say(session, hello.producer, frame, monotonic())
            for event in occurred:
                daemon.reporter.journey(event, session)
            for reason in refused:
                self._refuse(reason)
            if frame.end is not None:
                daemon.sessions.part(session, self, frame.end, monotonic())
        elif hello.session is not None or hello.group is not None:
            if frame.speaks_of_a_session or frame.events:
                self._refuse(Refusal.SESSION_ENDED)
        else:
            if frame.speaks_of_a_session:
                self._refuse(Refusal.NO_SESSION)
            for event in frame.events:
                daemon.reporter.journey(event, None)

    # --- back to the producer --------------------------------------------------------------------------------

    def _answer(self, question: Any) -> None:
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
