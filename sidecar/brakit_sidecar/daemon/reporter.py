"""Makes events ready to be sent: values, uuid, timestamp and anonymous id are frozen here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..core import outbox, payload
from ..core.outbox import Outcome, Reason, Verdict
from ..core.schema import SESSION
from ..core.session.terms import Terms
from ..core.session.totals import SessionTotals
from ..host import config_file
from .outcomes import Outcomes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.destination import Destination
    from ..core.frames import Occurred
    from ..core.outbox import QueuedEvent
    from ..core.schema import EventSpec
    from ..core.session.effects import Emit
    from .consent_gate import ConsentGate
    from .delivery import Delivery


@dataclass
class Reporter:
    """Checks the consent, freezes an event, and gives it to the delivery."""

    destination: Destination  # if the shape of its key is wrong, nothing is sent
    own: Mapping[str, Any]  # the fields that only the daemon knows
    consent: ConsentGate
    delivery: Delivery
    outcomes: Outcomes = field(default_factory=Outcomes)
    withheld: Counter[Reason] = field(default_factory=Counter)  # events not made, because consent is missing

    def report(self, emit: Emit) -> None:
        """Report an event of a session.

        A session counts under one anonymous id. If consent is withdrawn, the id is replaced. The session's events are
        then not made, even if consent is given again. If the config has changed in another way, or if the session has
        another destination, its events are made, and kept on this machine.
        """
        terms = emit.terms
        is_unchanged = self.consent.allows_event(terms)
        if is_unchanged is None or terms.anonymous_id is None:
            self.withheld[Reason.CONSENT] += 1
            if emit.event is SESSION:
                self.outcomes.ended(emit.session_id, emit.workers, None)
            return
        values, event = emit.values, emit.event
        if event is SESSION and emit.workers:
            values = {**values, "first_session": config_file.take_first_session()}
        uuid = payload.event_uuid(emit.session_id, event) if event.once else str(uuid4())
        frozen = self._freeze(event, values, terms.anonymous_id, uuid, session=emit.session_id, terms=terms)
        if event is SESSION:
            self.outcomes.ended(emit.session_id, emit.workers, frozen)
        if event is SESSION and not emit.workers:
            self.delivery.settle_unsent(frozen, Verdict.dropped(Reason.NOBODY_JOINED))
        else:
            self.put(frozen, emit.kept_local or (None if is_unchanged else Reason.CONFIG_CHANGED))

    def report_without_session(self, occurred: Occurred, destination: str | None) -> None:
        """Report a journey event that does not belong to a session.

        ``destination`` is the digest of the reporting process. It is None if the process names none.
        """
        anonymous_id = self.consent.current_id()
        if anonymous_id is None:
            self.withheld[Reason.CONSENT] += 1
            return
        values = SessionTotals().report(occurred.event, occurred.fields, self.own)
        terms = Terms(anonymous_id, self.consent.last_stamp, destination or self.destination.digest)
        self.put(self._freeze(occurred.event, values, anonymous_id, str(uuid4()), session=None, terms=terms))

    def _freeze(
        self,
        event: EventSpec,
        values: Mapping[str, Any],
        anonymous_id: str,
        uuid: str,
        *,
        session: str | None,
        terms: Terms,
    ) -> QueuedEvent:
        return outbox.freeze(
            event,
            values,
            api_key=self.destination.key if terms.destination == self.destination.digest else "",
            distinct_id=anonymous_id,
            uuid=uuid,
            session=session,
            destination=terms.destination,
            stamp=terms.stamp,
            now=datetime.now(timezone.utc),
        )

    def put(self, event: QueuedEvent, kept_local: Reason | None = None) -> None:
        """Queue an event. Keep it on this machine if there is a reason, or if it has another destination."""
        if kept_local is None and event.destination != self.destination.digest:
            kept_local = Reason.OTHER_SETTINGS
        if kept_local is None:
            self.delivery.put(event)
        else:
            self.delivery.settle_unsent(event, Verdict(Outcome.LOCAL, kept_local))

    def withdraw(self) -> int:
        """Drop the queued events and cancel all attempts, because consent is withdrawn. Returns their number."""
        return self.delivery.withdraw()
