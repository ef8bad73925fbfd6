"""What occurred, made into events that are ready to be sent: values, uuid, timestamp and id are frozen here."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..core import outbox, payload
from ..core.schema import SESSION
from ..core.session.state import SessionState
from ..host import config_file, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..core.frames import Occurred
    from ..core.schema import EventSpec
    from .session import Session


class Reporter:
    def __init__(self, environ: Mapping[str, str], put: Callable[[outbox.QueuedEvent], None]) -> None:
        self._environ = environ
        self._put = put
        self._machine = machine.facts()
        self.api_key = environ.get("BRAKIT_TELEMETRY_KEY", "")  # the sink says why nothing is sent with a wrong one
        self.withheld: Counter[outbox.Reason] = Counter()  # events that were never made, for want of consent

    def journey(self, occurred: Occurred, session: Session | None) -> None:
        """A journey event: one of a session knows what the session knows."""
        state = session.state if session else SessionState()
        values = state.report(occurred.event, occurred.fields, self._machine)
        self._report(occurred.event, values, session)

    def session(self, session: Session, now: float) -> None:
        """The one event of a session that is being sealed."""
        values = self.session_values(session, now, first_session=config_file.take_first_session())
        self._report(SESSION, values, session)

    def session_values(self, session: Session, now: float, *, first_session: bool = False) -> dict[str, Any]:
        """The session event's fields as they are by now."""
        own = {
            **self._machine,
            "first_session": first_session,
            "session_duration_s": math.ceil(session.age_s(now)),
            "exit_reason": session.ending.exit_reason if session.ending else "unknown",
        }
        return payload.admitted(SESSION, session.state.report(SESSION, {}, own))

    def _report(self, event: EventSpec, values: Mapping[str, Any], session: Session | None) -> None:
        """A session is of the id under which it was opened: where consent was withdrawn and came back, it came with
        another one, and what was counted meanwhile is nobody's.
        """
        decision = config_file.settled(self._environ)
        if not decision.on or decision.anonymous_id is None or (session and session.whose != decision.anonymous_id):
            self.withheld[outbox.Reason.CONSENT] += 1
            return
        uuid = payload.event_uuid(session.id, event) if session and event.once else str(uuid4())
        body = payload.body(
            event,
            values,
            api_key=self.api_key,
            distinct_id=decision.anonymous_id,
            uuid=uuid,
            timestamp=datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        self._put(outbox.QueuedEvent(event.name, uuid, decision.anonymous_id, body, session.id if session else None))
