"""The daemon's main path, top-down: start, main loop, stop. Everything happens on one loop and in one task group."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ..core.destination import Destination
from ..core.session.table import SessionTable
from ..host import machine, paths, process
from .consent_gate import ConsentGate
from .control import Control
from .counter_files import CounterFiles
from .delivery import Delivery
from .intake import Intake
from .journal import Journal, sync
from .log import log_unexpected
from .outcomes import Outcomes
from .process_watcher import ProcessWatcher
from .recovery import Recovery
from .reporter import Reporter
from .service import Service
from .timers import NEVER, Timers

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskGroup

    from .config import Config
    from .service_manager import ServiceManager

_log = logging.getLogger(__name__)


def run(listening: socket.socket, socket_path: str, manager: ServiceManager, config: Config) -> None:
    """Serve until a signal, a ``stop`` or the end of the linger time."""

    async def serve() -> None:
        async with anyio.create_task_group() as tasks:
            await Server(listening, socket_path, manager, config, tasks).serve()
            tasks.cancel_scope.cancel()

    anyio.run(serve)


class Server:
    """Puts the daemon's parts together and runs them."""

    def __init__(
        self, listening: socket.socket, socket_path: str, manager: ServiceManager, config: Config, tasks: TaskGroup
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._manager = manager
        self._timers = Timers()
        self._changed = asyncio.Event()  # set if a due time may have moved; unlike anyio's events, it can be cleared
        self._stopping = anyio.Event()
        self._scheduled: set[str] = set()
        self._is_syncing = False  # only one sync runs at a time, because a second sync would also hang if a disk hangs
        self._idle_since = monotonic()

        own, destination = machine.facts(), Destination(os.environ)
        wake = self._changed.set
        consent = ConsentGate(os.environ)
        journal = Journal(paths.journal_dir(socket_path), consent)
        outcomes = Outcomes()
        delivery = Delivery(destination, journal, consent, outcomes)
        reporter = Reporter(destination, own, consent, delivery, outcomes)
        table = SessionTable(process.boot_id(), config.timing, own)
        watcher = ProcessWatcher()
        counter_files = CounterFiles(socket_path, manager)
        intake = Intake(listening, socket_path, tasks, wake, is_inherited=listening is manager.listening)
        service = Service(table, consent, counter_files, journal, reporter, watcher, intake, wake, destination.digest)
        control = Control(table, service, reporter, delivery.outbox, consent, socket_path, destination, self.stop, wake)
        service.answer = control.answer
        intake.connect(service, service)
        consent.when_readable(
            Recovery(
                table, service, counter_files, journal, delivery, consent, intake, manager, socket_path, destination
            ).recover
        )
        self._journal, self._delivery, self._table, self._watcher = journal, delivery, table, watcher
        self._intake, self._service = intake, service

    async def serve(self) -> None:
        """Run until the daemon stops. Then no session is open, and every event has a receipt."""
        _log.info("started, pid %d", os.getpid())
        if self._manager.watchdog_s is not None:
            self._tasks.start_soon(self._notify_watchdog, self._manager.watchdog_s)
        self._tasks.start_soon(self._intake.serve)
        self._tasks.start_soon(self._delivery.run, self._tasks)
        self._tasks.start_soon(self._stop_on_signals)
        self._tasks.start_soon(self._keep_time)
        await self._stopping.wait()
        await self._shut_down()
        _log.info("stopped")

    def stop(self) -> None:
        """Begin to stop."""
        self._stopping.set()

    # --- its tasks -------------------------------------------------------------------------------------------------

    async def _stop_on_signals(self) -> None:
        with anyio.open_signal_receiver(*process.ENDING_SIGNALS) as received:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, process.ENDING_SIGNALS)  # they were blocked before any connect
            async for _ in received:
                self.stop()

    async def _keep_time(self) -> None:
        """Seal the sessions that are due, and stop if nothing is left to do.

        Sleeps until the next due time or a change.
        """
        while not self._stopping.is_set():
            now = monotonic()
            if effects := self._table.advance(now):
                self._service.run(effects)
            for session in self._table.to_seal(now):
                self._service.seal(session)
            for session, workers in self._table.to_compact():
                self._service.compact(session, workers)
            due = self._table.next_due()
            exit_at = self._exit_at(now)
            self._changed.clear()
            if now >= self._timers.next_due:
                self._timers.run(now)
            self._schedule(now)
            if now >= exit_at and self._stop_if_idle():
                return
            with anyio.move_on_after(min(due or NEVER, self._timers.next_due, exit_at) - now):
                await self._changed.wait()

    async def _notify_watchdog(self, watchdog_s: float) -> None:
        """Send a service manager's watchdog twice as many messages as it asks for."""
        while not self._stopping.is_set():
            self._manager.alive()
            await anyio.sleep(watchdog_s / 2)

    # --- timers: each runs only while it is needed, so that an idle daemon does not wake up -----------------------

    def _schedule(self, now: float) -> None:
        needed = (
            (bool(self._table.open), "snapshot", self._config.snapshot_s, self._snapshot),
            (bool(self._watcher.polled), "poll", self._config.poll_s, self._poll),
            (bool(self._manager.unsent), "notify", self._config.notify_retry_s, self._retry_notify),
        )
        for is_needed, name, after_s, function in needed:
            if is_needed and name not in self._scheduled:
                self._scheduled.add(name)
                self._timers.call_at(now + after_s, function)

    def _snapshot(self) -> None:
        """Journal the counts, because a line that only counts is not journaled when it arrives."""
        self._scheduled.discard("snapshot")
        self._service.look_at_config()
        for session in list(self._table.open.values()):
            self._service.read_counters(session)
            self._service.run(session.journal_changes())
        if not self._is_syncing and (unsynced := self._journal.take_unsynced()):
            self._is_syncing = True
            self._tasks.start_soon(self._sync, unsynced)

    async def _sync(self, unsynced: list[str]) -> None:
        """Sync in a thread, because a disk may hang. An exit does not wait for the thread."""
        try:
            await to_thread.run_sync(sync, unsynced, abandon_on_cancel=True)
        except RuntimeError as error:  # no thread can be started
            log_unexpected(_log, "syncing the journal", error)
        self._is_syncing = False

    def _poll(self) -> None:
        """Poll the processes that are watched without a descriptor. Everything that they wrote is read first."""
        self._scheduled.discard("poll")
        self._intake.drain()
        self._watcher.poll()

    def _retry_notify(self) -> None:
        self._scheduled.discard("notify")
        self._manager.catch_up()

    # --- the end ---------------------------------------------------------------------------------------------------

    def _exit_at(self, now: float) -> float:
        """Return the monotonic time in seconds at which to exit if nothing happens.

        The linger time begins anew after every change, because a connection may have opened and closed meanwhile.
        """
        is_idle = not self._table.open and not self._intake.connections
        if self._changed.is_set() or not is_idle:
            self._idle_since = now
        return self._idle_since + self._config.linger_s if is_idle and self._config.linger_s is not None else NEVER

    def _stop_if_idle(self) -> bool:
        """Stop, and return True, unless a connection is pending.

        Race: a client may connect after this last accept. If the socket is ours, the client's connection is closed
        before any answer, and the client connects again to the next daemon. If the socket is a service manager's, the
        connection stays pending, and the service manager starts the next daemon.
        """
        if self._intake.accept():
            return False
        self._intake.stop()
        self._service.is_stopping = True
        self.stop()
        return True

    async def _shut_down(self) -> None:
        is_idle = self._service.is_stopping
        give_up_at = monotonic() + (self._config.last_attempt_s if is_idle else self._config.stop_s)
        if not is_idle:
            self._intake.drain()  # a client that has connected by now gets its session
            self._service.is_stopping = True
        self._manager.stopping()
        if self._table.open:
            self._tasks.start_soon(self._delivery.load)  # loads the sink while workers report their ends
            await self._finish_sessions()
        self._intake.remove_path()
        self._intake.stop()
        await self._delivery.finish(within_s=give_up_at - monotonic())

    async def _finish_sessions(self) -> None:
        now = monotonic()
        for session in self._table.open.values():
            self._service.run(session.end("unknown", now, now, self._config.stop_goodbye_s))
        with anyio.move_on_after(self._config.stop_goodbye_s):
            while any(session.has_live_workers for session in self._table.open.values()):
                self._changed.clear()
                await self._changed.wait()
        for session in list(self._table.open.values()):
            session.stop_waiting()
            self._service.seal(session)
