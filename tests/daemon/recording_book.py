"""A sessions' book that lets every hello join, and records what connections give it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brakit_sidecar.core.protocol import Ended, Joined, TryLater
from brakit_sidecar.core.session.member import Member
from brakit_sidecar.core.session.totals import ProducerTotals

if TYPE_CHECKING:
    from brakit_sidecar.core.frames import Frame, Hello
    from brakit_sidecar.core.refusal import Refusal


class RecordingBook:
    """Implements SessionBook."""

    def __init__(self) -> None:
        self.outcome: Joined | Ended | TryLater | None = None  # of every hello; None lets each join as a member
        self.hellos: list[tuple[int | None, int]] = []  # the descriptor and the pid of each
        self.totals: list[int] = []
        self.refusals: list[Refusal] = []
        self.closed_as: dict[str, bool] = {}  # by producer: whether it was evicted
        self.fails = False  # whether every frame raises an error

    def hello(self, hello: Hello, descriptor: int | None, pid: int) -> Joined | Ended | TryLater:
        self.hellos.append((descriptor, pid))
        if self.outcome is not None:
            return self.outcome
        assert hello.session is not None
        assert hello.producer is not None
        return Joined(Member(hello.session, hello.producer, ProducerTotals(hello.producer), None))

    def receive_without_session(self, frame: Frame, destination: str | None) -> list[Refusal]:
        return []

    def receive(self, member: Member, frame: Frame) -> list[Refusal]:
        if self.fails:
            raise ArithmeticError
        self.totals += [total for _field, total in frame.totals]
        return []

    def receive_increments(self, member: Member, lines: list[bytes]) -> bool:
        return False

    def ask(self, member: Member | None, question: Any) -> Any:
        return question

    def refused(self, reason: Refusal) -> None:
        self.refusals.append(reason)

    def closed(self, member: Member, *, is_evicted: bool) -> None:
        assert member.producer not in self.closed_as
        self.closed_as[member.producer] = is_evicted
