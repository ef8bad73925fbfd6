"""The daemon's main path, top-down: who runs in its one task group, when it leaves, and how it ends."""

from __future__ import annotations

import os
import signal
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ..host import consent, paths, process
from ..host.debug import debug
from ..host.launch import BACKLOG
from . import records, recovery
from .connection import Connection
from .control import Control
from .delivery import Delivery
from .journal import Journal, sync
from .listener import ACCEPT_AT_ONCE, OUT_OF_DESCRIPTORS_S, Listener
from .process_watcher import ProcessWatcher
from .reporter import Reporter
from .sessions import Sessions

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from ..core.refusal import Refusal
    from .counter_files import CounterFile
    from .records import Record
    from .service_manager import ServiceManager
    from .session import Memory, Session

# A daemon that leaves because it is idle waits this long for a last answer of the endpoint's, also where the endpoint
# never answers: with the linger it is gone within four seconds after the last session's end.
LAST_TRY_S = 0.75
# stop and signals: from then on, goodbyes, and a last try for what is left of the time; and out within two seconds.
STOP_S = 1.6
STOP_GOODBYE_S = 0.3
# What a power cut may cost is half a minute: this long between two looks, and some seconds for the disk.
SNAPSHOT_S = 25.0
POLL_S = 1.0
MAX_PENDING = BACKLOG + 1  # the kernel lets one more wait than it was told
MANAGER_READS_S = 0.1  # a service manager that has not read what it was told by now is told again


def run(listening: socket.socket, socket_path: str, manager: ServiceManager, *, linger_s: float | None) -> None:
    """Serves until it is stopped, or for ``linger_s`` seconds without session, connection and queue."""

    async def serve() -> None:
        listener = Listener(listening, socket_path, is_inherited=listening is manager.listening)
        await Daemon(listener, socket_path, manager, linger_s).serve()

    anyio.run(serve)


class Daemon:
    """What the connections share. Everything here happens on one loop, and only awaits give others a turn."""

    def __init__(self, listener: Listener, socket_path: str, manager: ServiceManager, linger_s: float | None) -> None:
        self.socket_path = socket_path
        self.manager = manager
        self.started_at = monotonic()
        self.refused: Counter[Refusal] = Counter()
        self._whose: str | None = None
        self._has_gone_on = False
        self.journal = Journal(paths.journal_dir(socket_path), self.whose)
        self.sessions = Sessions(self._wake, self._keep, process.boot_id(), process.exists, self.whose)
        self.delivery = Delivery(os.environ, self.journal)
        self.reporter = Reporter(os.environ, self.delivery.put)
        self.control = Control(self)
        self.listener = listener
        self._linger_s = linger_s
        self._connections: dict[Connection, None] = {}  # the oldest first
        self._watches = ProcessWatcher()  # of owners and awaited producers, by session or producer
        self._snapshot_at = self._look_at = float("inf")
        self._is_syncing = False  # one at a time: while a disk hangs, there is no use in another
        self._tasks: TaskGroup
        self._changed = anyio.Event()
        self._stopping = anyio.Event()
        self.is_stopping = False  # no session is opened, as nobody would end it: who wants one asks the next daemon
        self._accepting = anyio.CancelScope()
        self._busy_until = monotonic()

    async def serve(self) -> None:
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._stop_on_signals)
            self.may_count()
            self._tasks.start_soon(self._accept)
            self._tasks.start_soon(self._keep_time)
            self._tasks.start_soon(self._show_life)
            self._tasks.start_soon(self.delivery.run, self._tasks)
            await self._stopping.wait()
            give_up_at = monotonic() + (LAST_TRY_S if self.is_stopping else STOP_S)
            if not self.is_stopping:  # told to, and not idle: who came before that has its session
                self._take_in_all()
                self.is_stopping = True
            if self.sessions.open:
                self._tasks.start_soon(self.delivery.load)  # while they say goodbye
            self.manager.stopping()
            await self._finish_sessions()
            self.listener.remove_path()
            self._accepting.cancel()
            await self.delivery.finish(within_s=give_up_at - monotonic())
            self._tasks.cancel_scope.cancel()

    def stop(self) -> None:
        self._stopping.set()

    # --- its tasks ---------------------------------------------------------------------------------------------

    async def _stop_on_signals(self) -> None:
        with anyio.open_signal_receiver(*process.ENDING_SIGNALS) as received:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, process.ENDING_SIGNALS)  # blocked since somebody could connect
            async for _ in received:
                self.stop()

    async def _accept(self) -> None:
        """Closes the listener when nobody waits on it any more: its number may be another socket's at once."""
        with self._accepting:
            while True:
                await self.listener.wait()
                if self._accepting.cancel_called:  # it became readable in the very turn in which we left
                    break
                self._take_in_connections(ACCEPT_AT_ONCE)
                if self.listener.is_starved and not self._make_room():
                    await anyio.sleep(OUT_OF_DESCRIPTORS_S)
        self.listener.close()

    async def _keep_time(self) -> None:
        """Seals what is due, and leaves when nothing is left to do. Sleeps until the next due time, or a change."""
        while not self._stopping.is_set():
            now = monotonic()
            for session in self.sessions.due(now):
                self._seal(session)
            self._take_snapshots(now)
            self._look_after_awaited(now)
            for producer, memory in self.sessions.merge_departed(self._take_in_all).items():
                self.let_go_of_memory(producer, memory)
            busy = self.sessions.open or self._connections
            leave_at = float("inf") if busy or self._linger_s is None else self._busy_until + self._linger_s
            if now >= leave_at and self._leave():
                return
            self._changed = anyio.Event()
            self.manager.catch_up()
            told_at = now + MANAGER_READS_S if self.manager.is_behind else float("inf")
            looks = self._snapshot_at, self._look_at, told_at
            due = min(self.sessions.next_due() or float("inf"), leave_at, *looks)
            with anyio.move_on_after(due - now):
                await self._changed.wait()

    async def _show_life(self) -> None:
        """To a service manager's watchdog, twice as often as it asks for; no timer where there is none."""
        while self.manager.watchdog_s is not None and not self._stopping.is_set():
            self.manager.alive()
            await anyio.sleep(self.manager.watchdog_s / 2)

    def _leave(self) -> bool:
        """False where somebody connected at the last moment. Who connects after that is never accepted. In a socket of
        ours they are hung up on before any answer, and ask again: the next daemon. In one of a service manager's they
        wait, and it starts the next daemon for them.
        """
        if self._take_in_connections(ACCEPT_AT_ONCE):
            return False
        self._accepting.cancel()
        self.is_stopping = True
        self.stop()
        return True

    # --- consent -----------------------------------------------------------------------------------------------

    def may_count(self) -> bool | None:
        """Whether telemetry is on. None while the config cannot be read: who comes then is to come again, and what a
        daemon that died left behind waits for it too, as it could be nobody's, or somebody's.
        """
        decision = consent.current(os.environ)
        if decision.unreadable:
            return None
        self._whose = decision.anonymous_id
        if not self._has_gone_on:
            self._has_gone_on = True
            self._go_on()
            if not decision.on:  # a service manager starts us nevertheless
                self.forget_everything()
        return decision.on

    def forget_everything(self) -> None:
        """Consent is withdrawn: what was counted is nobody's, and what is queued or under way is dropped.

        Workers that run now count for nothing until they are started again, also where consent comes back: what they
        counted meanwhile cannot be told from the rest.
        """
        for session in list(self.sessions.open.values()):
            self._close(session)
            self._let_go(session)
        self.delivery.withdraw()

    def _go_on(self) -> None:
        """Where a daemon that died was."""
        try:
            recovery.go_on(self, monotonic())
        except Exception as error:  # noqa: BLE001 (what a dead daemon left behind may not end the living one)
            debug("not all could be recovered", error)

    def whose(self) -> str | None:
        """The anonymous id as of now, or as of when the config could be read last: whoever withdraws consent gets
        another one, and with an old one nothing is sent.
        """
        decision = consent.current(os.environ)
        if not decision.unreadable:
            self._whose = decision.anonymous_id
        return self._whose

    # --- connections -------------------------------------------------------------------------------------------

    def forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._busy_until = monotonic()
        self._wake()

    def _take_in_connections(self, most: int) -> list[Connection]:
        taken = [Connection(stream, self) for stream in self.listener.accept(most)]
        for connection in taken:
            self._connections[connection] = None
            self._tasks.start_soon(self._serve_one, connection)
        return taken

    def _take_in_all(self) -> bool:
        """Who waits is accepted, and what waits is read. A few at once: what comes with a hello takes descriptors
        too, and one that cannot be taken is lost. As many in all as can have waited by now, since a flood has no end.
        Nothing here gives another task a turn. False where somebody has to wait on, as no connection can be had.
        """
        left = MAX_PENDING
        while True:
            taken = self._take_in_connections(min(ACCEPT_AT_ONCE, left))
            left -= len(taken)
            for connection in taken:
                self._drain(connection)
            if taken and left and not self.listener.is_starved:
                continue
            for connection in list(self._connections):
                self._drain(connection)
            if not self.listener.is_starved:
                return True
            if not self._make_room():
                return False

    def _make_room(self) -> bool:
        """Descriptors are short: workers' memories are read by their names from here on, and the connections that have
        been open longest without need are closed, one for each that waits. False where all are needed, and where it is
        not ours that are short but the machine's.
        """
        if not self.listener.is_near_the_limit():
            return False
        for session in self.sessions.open.values():
            for memory in session.memories.values():
                memory.let_go()
        for connection in list(self._connections):
            if not self.listener.is_near_the_limit():
                break
            try:
                connection.make_room()
            except Exception as error:  # noqa: BLE001 (one connection's fault must not cost the others)
                debug("a connection failed", error)
        return not self.listener.is_near_the_limit()

    async def _serve_one(self, connection: Connection) -> None:
        try:
            await connection.serve()
        except Exception as error:  # noqa: BLE001 (one connection's fault must not end the daemon)
            debug("a connection failed", error)

    # --- the end of sessions -----------------------------------------------------------------------------------

    def watch_owner(self, session: Session, end_of_owner: int) -> None:
        """When the process ends whose end ``host.process`` gave us to wait on, so does its session."""
        self.watch(session.id, end_of_owner, lambda: self.sessions.owner_ended(session, monotonic()))

    def watch(self, name: str, end_of_process: int, then: Callable[[], None]) -> None:
        self._watches.start(self._tasks, name, end_of_process, then)

    def _seal(self, session: Session) -> None:
        """Everything that was written before the end is in the event: who still waits is accepted, what still waits is
        read. Nothing here gives another task a turn. A living worker that is found only now may say goodbye first.
        """
        self._take_in_all()
        now = monotonic()
        if self.sessions.may_still_hear(session, now):
            return
        while not self._take_in_all() and self._hang_up_on_one_of(session):  # what that says from now on is too late
            pass
        if session.id not in self.sessions.open:  # consent was withdrawn by what was read just now
            return
        self._close(session)
        self.reporter.session(session, now)
        self._let_go(session)

    def _hang_up_on_one_of(self, session: Session) -> bool:
        for connection in self._connections:
            if connection.is_workers_of(session):
                connection.end()
                return True
        return False

    def _drain(self, connection: Connection) -> None:
        try:
            connection.drain()
        except Exception as error:  # noqa: BLE001 (one connection's fault must not cost a session)
            debug("a connection failed", error)

    def _close(self, session: Session) -> None:
        self.sessions.seal(session)
        self._busy_until = monotonic()
        for name in (session.id, *session.workers):  # some came back, and nobody need be told of their end
            self._watches.stop(name)

    def _let_go(self, session: Session) -> None:
        """Only once its event is frozen: until then the next daemon would need all of it."""
        for producer, memory in session.memories.items():
            self.let_go_of_memory(producer, memory)
        session.memories.clear()
        self.journal.seal(session.id)

    async def _finish_sessions(self) -> None:
        now = monotonic()
        for session in self.sessions.open.values():
            self.sessions.end(session, "unknown", now, now, goodbye_s=STOP_GOODBYE_S)
        with anyio.move_on_after(STOP_GOODBYE_S):
            while any(session.live_producers for session in self.sessions.open.values()):
                self._changed = anyio.Event()
                await self._changed.wait()
        for session in list(self.sessions.open.values()):
            session.hear_no_more()
            self._seal(session)

    # --- what the next daemon would need -----------------------------------------------------------------------

    def keep_memory(self, producer: str, memory: CounterFile) -> None:
        """By a name beside the socket, and in a service manager's store: in its sandbox no name can be given."""
        memory.keep_as(paths.counter_file_path(self.socket_path, producer))
        self.manager.keep(paths.counter_file_name(producer), memory.fileno())

    def let_go_of_memory(self, producer: str, memory: Memory) -> None:
        """It counts for no session, or for none any more: its worker learns that, and its name goes."""
        self.manager.forget(paths.counter_file_name(producer))
        memory.retire()

    def _keep(self, session: Session, news: list[Record]) -> None:
        if self.journal.append(session.id, news):
            self.journal.rewrite(session.id, records.whole(session, monotonic()))

    def _take_snapshots(self, now: float) -> None:
        """Now and then, of what is counted without a word."""
        if not self.sessions.open:
            self._snapshot_at = float("inf")
        elif self._snapshot_at == float("inf"):
            self._snapshot_at = now + SNAPSHOT_S
        elif now >= self._snapshot_at:
            self._snapshot_at = now + SNAPSHOT_S
            for session in self.sessions.open.values():
                self.sessions.snapshot(session)
            if not self._is_syncing and (unsynced := self.journal.take_unsynced()):
                self._is_syncing = True
                self._tasks.start_soon(self._sync, unsynced)

    async def _sync(self, unsynced: list[str]) -> None:
        """In a thread, which a disk may hold up for as long as it likes: not us, who may be about to leave."""
        try:
            await to_thread.run_sync(sync, unsynced, abandon_on_cancel=True)
        except RuntimeError as error:  # there is no thread to be had
            debug("nothing is synced", error)
        self._is_syncing = False

    def _look_after_awaited(self, now: float) -> None:
        """Now and then, whether those still live whose end no descriptor tells."""
        awaited = [(s, p) for s in self.sessions.open.values() for p in s.awaited if p not in self._watches]
        if not awaited:
            self._look_at = float("inf")
        elif self._look_at == float("inf"):
            self._look_at = now + POLL_S
        elif now >= self._look_at:
            self._look_at = now + POLL_S
            self._take_in_all()  # who is just coming back, or was and has died since
            for session, producer in awaited:
                memory = session.memories.get(producer)
                if producer in session.awaited and not (memory and memory.is_in_use):
                    self.sessions.awaited_in_vain(session, producer, now)

    def _wake(self) -> None:
        self._changed.set()
