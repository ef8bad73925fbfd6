"""Carries out the outbox's tasks and reports their verdicts. No caller waits for the network."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

import anyio

from ..core.endpoint import describe
from ..core.outbox import Drop, Outbox, Outcome, QueuedEvent, Reason, Send, Verdict
from . import receipts, sinks
from .log import log_unexpected
from .outcomes import Outcomes
from .sending_budget import SendingBudget

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ..core.destination import Destination
    from .consent_gate import ConsentGate
    from .journal import Journal

DEADLINE_S = 3.0  # for one whole attempt, including name resolution
CONSENT_POLL_S = 0.25  # consent is read this often during an attempt, because an editor may change the config

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Delivery:
    """Sends queued events, and writes a receipt for each event."""

    destination: Destination
    journal: Journal
    consent: ConsentGate
    outcomes: Outcomes = field(default_factory=Outcomes)
    outbox: Outbox = field(default_factory=Outbox)
    budget: SendingBudget = field(default_factory=SendingBudget)
    _sink: sinks.Sink | None = None
    _sink_lock: anyio.Lock = field(default_factory=anyio.Lock)
    _has_work: anyio.Event = field(default_factory=anyio.Event)
    _settled: anyio.Event = field(default_factory=anyio.Event)
    _attempts: dict[anyio.CancelScope, QueuedEvent] = field(default_factory=dict)
    _is_polling: bool = False

    def put(self, event: QueuedEvent) -> None:
        """Journal an event and queue it."""
        self.journal.freeze(event)
        if overflowed := self.outbox.put(event):
            self._record(overflowed, Verdict.dropped(Reason.OVERFLOW))
        self._has_work.set()

    def settle_unsent(self, event: QueuedEvent, verdict: Verdict) -> None:
        """Write the receipt of an event that is not to be sent."""
        self.outbox.settle(verdict)
        self._record(event, verdict)

    async def run(self, tasks: TaskGroup) -> None:
        """Send queued events until cancelled."""
        while True:
            task = self.outbox.next_task(monotonic())
            if isinstance(task, Send):
                if not self._is_polling:
                    self._is_polling = True
                    tasks.start_soon(self._poll_consent)
                tasks.start_soon(self._attempt, task.event)
            elif isinstance(task, Drop):
                self._settle(task.event, task.verdict)
            else:
                await self._has_work.wait()
                self._has_work = anyio.Event()

    async def load(self) -> None:
        """Import the sink before the last event is queued, because a stop leaves that event little time."""
        try:
            await self._loaded()
        except Exception as error:  # noqa: BLE001 (the event's attempt loads the sink again)
            log_unexpected(_log, "loading the sink", error)

    async def finish(self, within_s: float) -> None:
        """Send the queued events for at most ``within_s`` seconds, and drop the events that are left then."""
        with anyio.move_on_after(within_s):
            while self.outbox.queued:
                self._settled = anyio.Event()
                await self._settled.wait()
        for event in self.outbox.give_up(Reason.SHUTDOWN):
            self._record(event, Verdict.dropped(Reason.SHUTDOWN))

    def withdraw(self) -> int:
        """Drop the queued events and cancel all attempts, because consent is withdrawn. Returns their number."""
        _log.info("consent is withdrawn")
        dropped = self.outbox.queued
        for event in self.outbox.give_up(Reason.CONSENT):
            self._record(event, Verdict.dropped(Reason.CONSENT))
        for attempt in self._attempts:
            attempt.cancel()
        return dropped

    async def _attempt(self, event: QueuedEvent) -> None:
        verdict = Verdict.dropped(Reason.SHUTDOWN)  # the verdict if the daemon exits first
        withdrawn = anyio.CancelScope()
        self._attempts[withdrawn] = event
        try:
            with withdrawn, anyio.move_on_after(DEADLINE_S) as deadline:
                verdict = await self._send(event)
            if deadline.cancelled_caught:
                verdict = Verdict.dropped(Reason.TIMEOUT)
            if withdrawn.cancelled_caught:
                verdict = Verdict.dropped(Reason.CONSENT)
        except Exception as error:  # noqa: BLE001 (one event's failure must not end the daemon)
            log_unexpected(_log, "delivery", error)
            verdict = Verdict.dropped(Reason.UNEXPECTED)
        finally:
            del self._attempts[withdrawn]
            self._settle(event, verdict)

    async def _send(self, event: QueuedEvent) -> Verdict:
        sink = await self._loaded()
        is_allowed = self.consent.allows_sending(event.distinct_id, event.stamp)  # read right before the request
        if is_allowed is None:
            return Verdict.dropped(Reason.CONSENT)
        if not is_allowed:
            return Verdict(Outcome.LOCAL, Reason.CONFIG_CHANGED)
        if not isinstance(sink, sinks.LocalSink) and not self.budget.take():
            return Verdict.dropped(Reason.TOO_MANY)
        return await sink.send(event.body)

    async def _loaded(self) -> sinks.Sink:
        async with self._sink_lock:  # the first event loads the sink, and other events wait for that
            if self._sink is None:
                self._sink = await sinks.choose(self.destination)
            return self._sink

    async def _poll_consent(self) -> None:
        """Read the consent while attempts run, and cancel the attempts whose consent was withdrawn."""
        await anyio.sleep(CONSENT_POLL_S)  # the first attempt has just read the consent
        while self._attempts:
            for attempt, event in self._attempts.items():
                if not self.consent.allows_id(event.distinct_id):
                    attempt.cancel()
            await anyio.sleep(CONSENT_POLL_S)
        self._is_polling = False

    def _settle(self, event: QueuedEvent, verdict: Verdict) -> None:
        self.outbox.report(verdict, monotonic())
        self._record(event, verdict)
        self._has_work.set()
        self._settled.set()

    def _destination_of(self, event: QueuedEvent) -> str:
        return describe(self.destination) if event.destination == self.destination.digest else "of other settings"

    def _record(self, event: QueuedEvent, verdict: Verdict) -> None:
        """Write the receipt, then the journal.

        In this order, no daemon sends the event again, because an event that has a receipt is not sent again, whatever
        the journal holds.
        """
        try:
            receipts.write(event, verdict, self._destination_of(event))
        except OSError as error:  # on a full or read-only disk, only the receipt is lost
            _log.warning("no receipt: %s", os.strerror(error.errno or 0))
        _log.debug("%s: %s %s", event.name, verdict.outcome.value, verdict.reason.value)
        self.outcomes.settle(event, verdict)
        self.journal.settle(event)
