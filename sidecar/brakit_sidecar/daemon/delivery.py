"""The shell around the outbox: asks it for the next task, does it, reports. Whoever waits for the network is nobody."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from ..core.outbox import Drop, Outbox, QueuedEvent, Reason, Send, Verdict
from ..host import consent
from ..host.debug import debug
from . import receipts, sinks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import TaskGroup

    from .journal import Journal

DEADLINE_S = 3.0  # for all of one attempt, name resolution included
ASK_S = 0.25  # how often consent is asked while an attempt is under way: whoever withdraws it need not tell us


class Delivery:
    def __init__(self, environ: Mapping[str, str], journal: Journal) -> None:
        self.outbox = Outbox()
        self._journal = journal
        self._environ = environ
        self._sink: sinks.Sink | None = None
        self._sink_lock = anyio.Lock()
        self._stirred = anyio.Event()
        self.settled = anyio.Event()
        self._under_way: dict[anyio.CancelScope, QueuedEvent] = {}

    def put(self, event: QueuedEvent) -> None:
        self._journal.freeze(event)
        if overflowed := self.outbox.put(event):
            self._record(overflowed, Verdict.dropped(Reason.OVERFLOW))
        self._stirred.set()

    async def run(self, tasks: TaskGroup) -> None:
        while True:
            task = self.outbox.next_task(monotonic())
            if isinstance(task, Send):
                if not self._under_way:
                    tasks.start_soon(self._ask_meanwhile)
                tasks.start_soon(self._attempt, task.event)
            elif isinstance(task, Drop):
                self._settle(task.event, task.verdict)
            else:
                await self._stirred.wait()
                self._stirred = anyio.Event()

    async def load(self) -> None:
        """Loads what sends, ahead of an event that will have little time."""
        try:
            await self._loaded()
        except Exception as error:  # noqa: BLE001 (it is tried again for the event, whose outcome it is then)
            debug("what sends cannot be loaded", error)

    async def finish(self, within_s: float) -> None:
        """One bounded try for what is queued; what is then left is dropped."""
        with anyio.move_on_after(within_s):
            while self.outbox.queued:
                self.settled = anyio.Event()
                await self.settled.wait()
        for event in self.outbox.give_up(Reason.SHUTDOWN):
            self._record(event, Verdict.dropped(Reason.SHUTDOWN))

    def withdraw(self) -> None:
        """Consent is gone: what waits is dropped, and what is under way is broken off."""
        for event in self.outbox.give_up(Reason.CONSENT):
            self._record(event, Verdict.dropped(Reason.CONSENT))
        for attempt in self._under_way:
            attempt.cancel()

    async def _attempt(self, event: QueuedEvent) -> None:
        verdict = Verdict.dropped(Reason.SHUTDOWN)  # stands where the daemon ends first
        withdrawn = anyio.CancelScope()
        self._under_way[withdrawn] = event
        try:
            with withdrawn, anyio.move_on_after(DEADLINE_S) as deadline:
                verdict = await self._send(event)
            if deadline.cancelled_caught:
                verdict = Verdict.dropped(Reason.TIMEOUT)
            if withdrawn.cancelled_caught:
                verdict = Verdict.dropped(Reason.CONSENT)
        except Exception as error:  # noqa: BLE001 (one event's failure, whatever it is, must not end the daemon)
            debug("delivery failed", error)
            verdict = Verdict.dropped(Reason.UNEXPECTED)
        finally:
            del self._under_way[withdrawn]
            self._settle(event, verdict)

    async def _send(self, event: QueuedEvent) -> Verdict:
        sink = await self._loaded()
        if not self._may_send(event):  # asked again, right before the request
            return Verdict.dropped(Reason.CONSENT)
        return await sink.send(event.body)

    async def _loaded(self) -> sinks.Sink:
        async with self._sink_lock:  # the first event loads it, the others wait for it
            if self._sink is None:
                self._sink = await sinks.choose(self._environ)
            return self._sink

    def _may_send(self, event: QueuedEvent) -> bool:
        decision = consent.current(self._environ)
        return decision.on and decision.anonymous_id == event.distinct_id

    async def _ask_meanwhile(self) -> None:
        """For as long as attempts are under way."""
        await checkpoint()  # the first one's beginning
        while self._under_way:
            for attempt, event in self._under_way.items():
                if not self._may_send(event):
                    attempt.cancel()
            await anyio.sleep(ASK_S)

    def _settle(self, event: QueuedEvent, verdict: Verdict) -> None:
        self.outbox.report(verdict, monotonic())
        self._record(event, verdict)
        debug(f"{event.name}: {verdict.outcome.value} {verdict.reason.value}")
        self._stirred.set()
        self.settled.set()

    def _record(self, event: QueuedEvent, verdict: Verdict) -> None:
        """The receipt first: an event that has one is not sent again, whatever the journal says."""
        try:
            receipts.write(event, verdict)
        except OSError as error:  # a full or read-only disk costs the receipt, nothing else
            debug("no receipt", error)
        self._journal.settle(event)
