"""A daemon goes on where one that died was: with its sessions, its events, and the memories of its workers."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from ..core import counter_layout
from ..core.schema import SESSION
from ..host import process
from ..host.debug import debug
from . import receipts, records
from .counter_files import left_behind
from .journal_replay import recovered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .app import Daemon
    from .counter_files import CounterFile
    from .records import Record
    from .session import Session


def go_on(daemon: Daemon, now: float) -> None:
    """Before anybody is accepted. Sessions and events first, as memories belong to them. What a dead daemon left behind
    may be anything by now: whatever of it cannot be used costs itself, and nothing else.
    """
    written = receipts.written()
    for uuid, event_name in written.items():
        if event_name == SESSION.name:
            daemon.sessions.remember_end(uuid)
    for session_id, journal in daemon.journal.left_behind():
        with _at_its_own_cost("a session"):
            _recover(daemon, session_id, journal, written, now)
    for producer, memory in left_behind(daemon.socket_path, daemon.manager.kept()):
        with _at_its_own_cost("a memory"):
            _take_in(daemon, producer, memory, now)
            if daemon.listener.is_near_the_limit():
                memory.let_go()


@contextmanager
def _at_its_own_cost(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever is wrong with one, the others are to be recovered)
        debug(f"{what} cannot be recovered", error)


def _recover(daemon: Daemon, session_id: str, journal: list[Record], written: Mapping[str, str], now: float) -> None:
    """An event whose receipt cannot be read is sent again: it is the same frozen body with the same uuid, which the
    endpoint takes once, and not sent it might be lost.
    """
    session, events = recovered(session_id, journal, now, process.boot_id(), daemon.reporter.api_key)
    for event in events:
        if event.name == SESSION.name:  # frozen is over, whether it has a receipt or not
            daemon.sessions.remember_end(event.uuid)
        if event.uuid in written:
            daemon.journal.settle(event)
        else:
            daemon.delivery.put(event)
    if session is None or daemon.sessions.has_ended(session.id):
        daemon.journal.seal(session_id)
    else:
        _take_up(daemon, session, now)


def _take_up(daemon: Daemon, session: Session, now: float) -> None:
    daemon.sessions.take_up(session)
    daemon.journal.rewrite(session.id, records.whole(session, now))
    if session.owner_pid is not None:
        end_of_owner = process.end_of(session.owner_pid)
        if end_of_owner is None:
            daemon.sessions.owner_ended(session, now)
        else:
            daemon.watch_owner(session, end_of_owner)


def _take_in(daemon: Daemon, producer: str, memory: CounterFile, now: float) -> None:
    """Of a worker that counted while no daemon ran. Who lives is awaited, though it may have nothing to say."""
    is_alive, pid, whose = memory.is_in_use, memory.origin.pid, memory.origin.whose
    is_anothers = daemon.journal.found_anothers or whose not in (0, counter_layout.anonymous_id_cell(daemon.whose()))
    session = None
    if not is_anothers:  # else consent was withdrawn meanwhile
        session = daemon.sessions.adopt(producer, memory, is_alive=is_alive, now=now)
    if session is None:
        daemon.let_go_of_memory(producer, memory)
    elif is_alive and not daemon.listener.is_near_the_limit():
        end = process.end_of(pid)
        if end is not None:
            daemon.watch(producer, end, lambda: daemon.sessions.awaited_in_vain(session, producer, monotonic()))
