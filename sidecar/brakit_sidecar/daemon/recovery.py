"""Continues the sessions, events and counter files of a daemon that died.

Its files may hold anything by now. A file or record that cannot be used is skipped, and the others are recovered.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING
from uuid import uuid4

from ..core import counter_layout
from ..core.schema import SESSION
from ..core.session.effects import WatchOwner
from ..core.session.replay import replay
from ..core.session.table import Opening
from ..core.session.worker import Phase
from ..host import process
from . import receipts
from .counter_files import left_behind
from .log import log_unexpected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..core.destination import Destination
    from ..core.session.session import Session
    from ..core.session.table import SessionTable
    from .consent_gate import ConsentGate
    from .counter_files import CounterFile, CounterFiles, Origin
    from .delivery import Delivery
    from .interfaces import Drainer
    from .journal import Journal, Record
    from .service import Service
    from .service_manager import ServiceManager

_log = logging.getLogger(__name__)


@dataclass
class Recovery:
    """Runs once, before any connection is accepted."""

    table: SessionTable
    service: Service
    counter_files: CounterFiles
    journal: Journal
    delivery: Delivery
    consent: ConsentGate
    intake: Drainer
    manager: ServiceManager
    socket_path: str
    destination: Destination  # the daemon's own

    def recover(self, is_on: bool) -> None:  # noqa: FBT001 (a callback)
        """Continue what a dead daemon left behind. If telemetry is off, drop all of it."""
        try:
            self._recover()
        except Exception as error:  # noqa: BLE001 (what a dead daemon left behind must not end this one)
            log_unexpected(_log, "recovery", error)
        if not is_on:  # a service manager starts the daemon nevertheless
            self.service.withdraw()
        self.service.wake()  # a recovered session may be due

    def _recover(self) -> None:
        """Recover sessions and events first, because counter files belong to sessions."""
        now = monotonic()
        written = receipts.written()
        for uuid, event_name in written.items():
            if event_name == SESSION.name:
                self.table.remember_end(uuid)
        for session_id, records in self.journal.left_behind():
            with _at_its_own_cost("recovering a session"):
                self._recover_session(session_id, records, written, now)
        for producer, file in left_behind(self.socket_path, self.manager.take_stored()):
            with _at_its_own_cost("recovering a counter file", file.close):
                self._recover_counter_file(producer, file, now)
                if self.intake.is_short_of_descriptors():
                    file.release_descriptor()
        if self.table.open:
            _log.info("recovered %d sessions", len(self.table.open))

    def _recover_session(self, session_id: str, records: list[Record], written: Mapping[str, str], now: float) -> None:
        """Continue the session of a journal, and send its events that have no receipt.

        An event whose receipt cannot be read is sent again. It is the same frozen body with the same uuid, which the
        endpoint counts once, and without a second attempt it might be lost.
        """
        fresh = self.table.new_session(session_id, Opening(0.0, self.service.terms(None)))
        session, events, foreign = replay(
            fresh, records, now, process.boot_id(), destination=self.destination.digest, api_key=self.destination.key
        )
        for name in foreign:
            _log.warning("a journaled body of %s is not ours, and is not sent", name)
        for event in events:
            if event.name == SESSION.name:  # a frozen session event means that the session is over
                self.table.remember_end(event.uuid)
            if event.uuid in written:
                self.journal.settle(event)
            else:
                self.service.reporter.put(event)
        if session is None or self.table.has_ended(session.id):
            self.journal.seal(session_id)
        else:
            self._take_up(session, now)

    def _take_up(self, session: Session, now: float) -> None:
        self.table.take_up(session)
        self.journal.rewrite(session.id, session.whole(now))
        if session.owner.pid is None:
            return
        if process.exists(session.owner.pid):
            self.service.run([WatchOwner(session.id, session.owner.pid)])
        else:
            self.service.run(session.owner_exited(session.owner.pid, now))

    def _recover_counter_file(self, producer: str, file: CounterFile, now: float) -> None:
        """Merge the file of a worker that may have counted while no daemon ran. A live process may be idle."""
        is_alive, origin, snapshot = file.is_in_use(), file.origin, file.read()
        cell = counter_layout.anonymous_id_cell(self.consent.last_anonymous_id)
        is_foreign = self.journal.found_foreign_id or origin.anonymous_id_cell not in (0, cell)
        session = None
        if not (is_foreign or snapshot is None):  # else consent was withdrawn meanwhile
            session = self._session_of(producer, origin, now)
        if session is None or snapshot is None:
            self.counter_files.retire(producer, file)
            return
        self.counter_files.attach_found(session.id, producer, file)
        self.service.run(session.found(producer, snapshot, now, origin.pid, is_alive=is_alive))
        if origin.stamp is not None:
            self.service.compare_stamp(session, origin.stamp)

    def _session_of(self, producer: str, origin: Origin, now: float) -> Session | None:
        opening = Opening(now, self.service.terms(origin.destination), str(uuid4()))
        session_id, group = origin.session, origin.group
        if origin.is_retired:
            session_id = group = None  # only a session that knows the worker counts it
        session, effects = self.table.session_of_worker(producer, session_id, group, opening)
        self.service.run(effects)
        if session is None:
            return None
        worker = session.workers.get(producer)
        return None if worker is not None and worker.phase is Phase.COMPACTED else session


@contextmanager
def _at_its_own_cost(step: str, clean_up: Callable[[], None] = lambda: None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever is wrong with one part, the others are to be recovered)
        log_unexpected(_log, step, error)
        clean_up()
