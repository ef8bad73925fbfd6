"""The outbox decides which event is sent next, and counts the outcomes of events. It is bounded.

It uses neither the network nor a clock. Its caller calls ``next_task(now)``, carries out the task, and reports the
verdict. Each event is tried once. After repeated failures, a breaker drops events for a while without trying them, so
that an unreachable endpoint costs a developer's machine nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from . import payload
from .counter_layout import NOT_BELIEVED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from .schema import EventSpec

CAPACITY = 256  # events of less than 2 KiB each, so half a megabyte; a session makes five or six events
AT_ONCE = 4  # enough attempts that one slow answer does not delay the other events; too few to look like a flood
BREAKER_FAILURES = 5
BREAKER_REST_S = 60.0


class QueuedEvent(NamedTuple):
    """An event that is ready to be sent. Its body is frozen: every attempt and the receipt have the same bytes."""

    name: str
    uuid: str
    distinct_id: str  # the anonymous id in the body; the event may not be sent after that id was replaced
    body: bytes
    session: str | None = None  # the session whose journal keeps the event until its outcome is known
    destination: str = ""  # the digest of the only destination to which the event may be sent
    stamp: int = NOT_BELIEVED  # the config's; the event is not sent if the config has changed since


def freeze(
    event: EventSpec,
    values: Mapping[str, Any],
    *,
    api_key: str,
    distinct_id: str,
    uuid: str,
    session: str | None,
    destination: str,
    stamp: int,
    now: datetime,
) -> QueuedEvent:
    """Make an event whose bytes stay the same from here on. ``now`` is in UTC and becomes the timestamp."""
    timestamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = payload.body(event, values, api_key=api_key, distinct_id=distinct_id, uuid=uuid, timestamp=timestamp)
    return QueuedEvent(event.name, uuid, distinct_id, body, session, destination, stamp)


class Outcome(str, Enum):
    """How an event ended: it was sent, kept only on this machine, or dropped."""

    SENT = "sent"
    LOCAL = "local"
    DROPPED = "dropped"


class Reason(str, Enum):
    """Why an event did not reach the endpoint. The value is the label under which the event is counted."""

    NONE = ""
    NO_KEY = "no_key"
    BAD_KEY = "bad_key"
    BAD_ENDPOINT = "bad_endpoint"
    CONSENT = "consent"
    CONFIG_CHANGED = "config_changed"  # the config may have said no for a part of the session
    OTHER_SETTINGS = "other_settings"  # the daemon sends to another destination
    NOBODY_JOINED = "nobody_joined"  # the event of a session that no worker joined
    TOO_MANY = "too_many"  # 5,000 events were sent in the last 24 hours
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
    """An event's outcome and its reason. Only an event that was sent has no reason."""

    outcome: Outcome
    reason: Reason = Reason.NONE

    @classmethod
    def dropped(cls, reason: Reason) -> Verdict:
        """Return the verdict of an event that was dropped for ``reason``."""
        return cls(Outcome.DROPPED, reason)


SENT = Verdict(Outcome.SENT)

# Failures after which another attempt would probably fail, because the endpoint does not work or cannot be reached. The
# other reasons are about one event or about this machine.
_ENDPOINT_FAILURES = frozenset(
    {
        Reason.NAME_RESOLUTION, Reason.REFUSED, Reason.UNREACHABLE, Reason.TLS, Reason.PROXY, Reason.TIMEOUT,
        Reason.RESET, Reason.BAD_ANSWER, Reason.SERVER_ERROR, Reason.TOO_MANY_REQUESTS,
    }
)  # fmt: skip


class Send(NamedTuple):
    """Try to send this event once, then ``report`` the verdict."""

    event: QueuedEvent


class Drop(NamedTuple):
    """Do not try this event; ``report`` the verdict."""

    event: QueuedEvent
    verdict: Verdict


class Wait(Enum):
    """There is no task until an event is queued or a verdict is reported."""

    FOR_REPORTS = "for reports"
    FOR_EVENTS = "for events"


class Outbox:
    """The queue of events whose outcome is not known yet. ``outcomes`` and ``dropped`` count the other events."""

    def __init__(self) -> None:
        self._waiting: deque[QueuedEvent] = deque()
        self._under_way = 0
        self._failures = 0
        self._rest_until = float("-inf")
        self.outcomes: Counter[Outcome] = Counter()
        self.dropped: Counter[Reason] = Counter()

    @property
    def queued(self) -> int:
        """The number of events whose outcome is not known yet."""
        return len(self._waiting) + self._under_way

    def put(self, event: QueuedEvent) -> QueuedEvent | None:
        """Add an event to the queue.

        If the queue is full, its oldest event is counted as dropped for overflow, and is returned so that the caller
        can write its receipt. Returns None if the queue is not full.
        """
        self._waiting.append(event)
        if len(self._waiting) <= CAPACITY:
            return None
        self._count(Verdict.dropped(Reason.OVERFLOW))
        return self._waiting.popleft()

    def next_task(self, now: float) -> Send | Drop | Wait:
        """Return the next task. ``now`` is a monotonic time in seconds."""
        if self._waiting and now < self._rest_until:
            self._under_way += 1
            return Drop(self._waiting.popleft(), Verdict.dropped(Reason.BREAKER))
        if self._waiting and self._under_way < AT_ONCE:
            self._under_way += 1
            return Send(self._waiting.popleft())
        return Wait.FOR_REPORTS if self._under_way else Wait.FOR_EVENTS

    def report(self, verdict: Verdict, now: float) -> None:
        """Count the verdict of an event that ``next_task`` returned. ``now`` is a monotonic time in seconds."""
        self._under_way -= 1
        self._count(verdict)
        if verdict.reason in _ENDPOINT_FAILURES:
            self._failures += 1
            if self._failures >= BREAKER_FAILURES:
                self._failures = 0
                self._rest_until = now + BREAKER_REST_S
        elif verdict.outcome is Outcome.SENT:
            self._failures = 0

    def give_up(self, reason: Reason) -> list[QueuedEvent]:
        """Drop every waiting event for ``reason``. Returns them, so that the caller can write their receipts."""
        given_up = [*self._waiting]
        self._waiting.clear()
        for _ in given_up:
            self._count(Verdict.dropped(reason))
        return given_up

    def settle(self, verdict: Verdict) -> None:
        """Count an event that was not queued, because its verdict was known before."""
        self._count(verdict)

    def _count(self, verdict: Verdict) -> None:
        self.outcomes[verdict.outcome] += 1
        if verdict.outcome is Outcome.DROPPED:
            self.dropped[verdict.reason] += 1
