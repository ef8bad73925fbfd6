"""What became of the latest sessions, for the line with which ``run`` ends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.outbox import Reason, Verdict

if TYPE_CHECKING:
    from ..core.outbox import QueuedEvent

REMEMBERED = 64  # sessions, each with an event of 2 KiB; `run` asks within a second of its session's end


@dataclass
class _Ended:
    """A session that has ended: the number of its workers, its event, and the event's verdict once it is known."""

    workers: int
    event: QueuedEvent | None
    verdict: Verdict | None = None


@dataclass
class Outcomes:
    """The latest session events by their sessions."""

    _sessions: dict[str, _Ended] = field(default_factory=dict)

    def ended(self, session_id: str, workers: int, event: QueuedEvent | None) -> None:
        """Note the event of a session. ``event`` is None if it was never made, because consent was missing."""
        verdict = Verdict.dropped(Reason.CONSENT) if event is None else None
        self._sessions[session_id] = _Ended(workers, event, verdict)
        if len(self._sessions) > REMEMBERED:
            del self._sessions[next(iter(self._sessions))]

    def settle(self, event: QueuedEvent, verdict: Verdict) -> None:
        """Note the verdict of an event. Ignores an event that is not a remembered session event."""
        ended = self._sessions.get(event.session or "")
        if ended is not None and ended.event is event:
            ended.verdict = verdict

    def of(self, session_id: str) -> dict[str, Any] | None:
        """Return the ``workers``, ``properties``, ``outcome`` and ``reason`` of a session.

        The outcome is ``queued`` until it is known. Returns None if the session is not remembered.
        """
        ended = self._sessions.get(session_id)
        if ended is None:
            return None
        outcome, reason = (
            ("queued", "") if ended.verdict is None else (ended.verdict.outcome.value, ended.verdict.reason.value)
        )
        properties = {} if ended.event is None else json.loads(ended.event.body)["properties"]
        return {"workers": ended.workers, "properties": properties, "outcome": outcome, "reason": reason}
