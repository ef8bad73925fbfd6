"""Makes events ready to be sent: values, uuid, timestamp and anonymous id are frozen here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..core import outbox, payload
from ..core.schema import SESSION
from ..core.session.totals import SessionTotals
from ..host import config_file
from .outcomes import Outcomes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.frames import Occurred
    from ..core.session.effects import Emit
    from .consent_gate import ConsentGate
    from .delivery import Delivery


@dataclass
class Reporter:
    """Checks the consent, freezes an event, and gives it to the delivery."""

    api_key: str  # if its shape is wrong, nothing is sent
    own: Mapping[str, Any]  # the fields that only the daemon knows
    consent: ConsentGate
    delivery: Delivery
    outcomes: Outcomes = field(default_factory=Outcomes)
    withheld: Counter[outbox.Reason] = field(default_factory=Counter)  # events not made, because consent is missing

    def report(self, emit: Emit) -> None:
        """Report an event of a session.

        A session counts under one anonymous id. If consent is withdrawn, the id is replaced. The session's events are
        then not made, even if consent is given again.
        """
        if emit.anonymous_id is None or not self.consent.allows_event(emit.anonymous_id):
            self.withheld[outbox.Reason.CONSENT] += 1
            if emit.event is SESSION:
                self.outcomes.ended(emit.session_id, emit.workers, None)
            return
        values, event = emit.values, emit.event
        if event is SESSION and emit.workers:
            values = {**values, "first_session": config_file.take_first_session()}
        uuid = payload.event_uuid(emit.session_id, event) if event.once else str(uuid4())
        frozen = outbox.freeze(
            event,
            values,
            api_key=self.api_key,
            distinct_id=emit.anonymous_id,
            uuid=uuid,
            session=emit.session_id,
            now=datetime.now(timezone.utc),
        )
        if event is SESSION:
            self.outcomes.ended(emit.session_id, emit.workers, frozen)
        if event is SESSION and not emit.workers:
            self.delivery.drop(frozen, outbox.Reason.NOBODY_JOINED)
        else:
            self.delivery.put(frozen)

    def report_without_session(self, occurred: Occurred) -> None:
        """Report a journey event that does not belong to a session."""
        anonymous_id = self.consent.settled_id()
        if anonymous_id is None:
            self.withheld[outbox.Reason.CONSENT] += 1
            return
        values = SessionTotals().report(occurred.event, occurred.fields, self.own)
        frozen = outbox.freeze(
            occurred.event,
            values,
            api_key=self.api_key,
            distinct_id=anonymous_id,
            uuid=str(uuid4()),
            session=None,
            now=datetime.now(timezone.utc),
        )
        self.delivery.put(frozen)

    def withdraw(self) -> None:
        """Drop the queued events and cancel all attempts, because consent is withdrawn."""
        self.delivery.withdraw()
