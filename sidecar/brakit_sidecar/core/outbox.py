"""What to send next, and what became of it. Bounded; knows no network and no clock: a shell asks ``next_task(now)``,
does it, and reports.

Each event is tried once. After repeated failures the breaker spares the attempts for a while: an endpoint that is
gone costs a developer's machine nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from . import payload

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from .schema import EventSpec

CAPACITY = 256  # events under 2 KiB each: half a megabyte. A session makes five or six
AT_ONCE = 4  # enough that one slow answer does not hold up the rest, too few to look like a flood
BREAKER_FAILURES = 5
BREAKER_REST_S = 60.0


class QueuedEvent(NamedTuple):
    """An event ready to be sent: its body is frozen, so every attempt and the receipt have the same bytes."""

    name: str
    uuid: str
    distinct_id: str  # as in the body: once it is replaced, this event is no longer anybody's to send
    body: bytes
    session: str | None = None  # whose journal keeps it until its outcome is known


def freeze(
    event: EventSpec,
    values: Mapping[str, Any],
    *,
    api_key: str,
    distinct_id: str,
    uuid: str,
    session: str | None,
    now: datetime,
) -> QueuedEvent:
    """Make an event whose bytes stay the same from here on. ``now`` is in UTC and becomes its timestamp."""
    timestamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = payload.body(event, values, api_key=api_key, distinct_id=distinct_id, uuid=uuid, timestamp=timestamp)
    return QueuedEvent(event.name, uuid, distinct_id, body, session)


class Outcome(str, Enum):
    """What became of an event."""

    SENT = "sent"
    LOCAL = "local"
    DROPPED = "dropped"


class Reason(str, Enum):
    """Why an event did not reach the endpoint: the label under which it is counted."""

    NONE = ""
    NO_KEY = "no_key"
    BAD_KEY = "bad_key"
    BAD_ENDPOINT = "bad_endpoint"
    CONSENT = "consent"
    NOBODY_JOINED = "nobody_joined"  # the event of a session that no worker joined
    OVERFLOW = "overflow"
    BREAKER = "breaker"
    SHUTDOWN = "shutdown"
    NAME_RESOLUTION = "name_resolution"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    PROXY = "proxy"
    TIMEOUT = "timeout"
    RESET = "reset"
    BAD_ANSWER = "bad_answer"
    REDIRECT = "redirect"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"
    TOO_MANY_REQUESTS = "too_many_requests"
    UNEXPECTED = "unexpected"


class Verdict(NamedTuple):
    outcome: Outcome
    reason: Reason = Reason.NONE

    @classmethod
    def dropped(cls, reason: Reason) -> Verdict:
        return cls(Outcome.DROPPED, reason)


SENT = Verdict(Outcome.SENT)

# Failures that say the endpoint is not there; the others are about one event, or about us.
_ENDPOINT_IS_GONE = frozenset(
    {
        Reason.NAME_RESOLUTION, Reason.REFUSED, Reason.UNREACHABLE, Reason.TLS, Reason.PROXY, Reason.TIMEOUT,
        Reason.RESET, Reason.BAD_ANSWER, Reason.SERVER_ERROR, Reason.TOO_MANY_REQUESTS,
    }
)  # fmt: skip


class Send(NamedTuple):
    """Try this event once, then ``report`` it."""

    event: QueuedEvent


class Drop(NamedTuple):
    """Do not try this event; ``report`` the verdict."""

    event: QueuedEvent
    verdict: Verdict


class Wait(Enum):
    """Nothing to do until something is put in, or reported."""

    FOR_REPORTS = "for reports"
    FOR_EVENTS = "for events"


class Outbox:
    def __init__(self) -> None:
        self._waiting: deque[QueuedEvent] = deque()
        self._under_way = 0
        self._failures = 0
        self._rest_until = float("-inf")
        self.outcomes: Counter[Outcome] = Counter()
        self.dropped: Counter[Reason] = Counter()

    @property
    def queued(self) -> int:
        """Events whose outcome is not known yet."""
        return len(self._waiting) + self._under_way

    def put(self, event: QueuedEvent) -> QueuedEvent | None:
        """Takes an event. Where there is no room the oldest one goes: it is counted as dropped for overflow, and
        returned for its receipt.
        """
        self._waiting.append(event)
        if len(self._waiting) <= CAPACITY:
            return None
        self._count(Verdict.dropped(Reason.OVERFLOW))
        return self._waiting.popleft()

    def next_task(self, now: float) -> Send | Drop | Wait:
        """``now``: monotonic seconds."""
        if self._waiting and now < self._rest_until:
            self._under_way += 1
            return Drop(self._waiting.popleft(), Verdict.dropped(Reason.BREAKER))
        if self._waiting and self._under_way < AT_ONCE:
            self._under_way += 1
            return Send(self._waiting.popleft())
        return Wait.FOR_REPORTS if self._under_way else Wait.FOR_EVENTS

    def report(self, verdict: Verdict, now: float) -> None:
        """What became of an event that ``next_task`` gave out."""
        self._under_way -= 1
        self._count(verdict)
        if verdict.reason in _ENDPOINT_IS_GONE:
            self._failures += 1
            if self._failures >= BREAKER_FAILURES:
                self._failures = 0
                self._rest_until = now + BREAKER_REST_S
        elif verdict.outcome is Outcome.SENT:
            self._failures = 0

    def give_up(self, reason: Reason) -> list[QueuedEvent]:
        """Drops whatever still waits, and returns it for its receipts."""
        given_up = [*self._waiting]
        self._waiting.clear()
        for _ in given_up:
            self._count(Verdict.dropped(reason))
        return given_up

    def drop(self, reason: Reason) -> None:
        """Count an event that was never queued."""
        self._count(Verdict.dropped(reason))

    def _count(self, verdict: Verdict) -> None:
        self.outcomes[verdict.outcome] += 1
        if verdict.outcome is Outcome.DROPPED:
            self.dropped[verdict.reason] += 1
