"""A daemon in the test's own process: a service over real files, with neighbours that record their calls."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Any, cast

from brakit_sidecar.client import counter_file
from brakit_sidecar.client.place import Place
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, VERSION
from brakit_sidecar.core.destination import Destination
from brakit_sidecar.core.frames import Hello, parse
from brakit_sidecar.core.protocol import Ended, Joined, TryLater
from brakit_sidecar.core.session.table import SessionTable
from brakit_sidecar.daemon.consent_gate import ConsentGate
from brakit_sidecar.daemon.counter_files import CounterFiles
from brakit_sidecar.daemon.journal import Journal
from brakit_sidecar.daemon.reporter import Reporter
from brakit_sidecar.daemon.service import Service
from brakit_sidecar.daemon.service_manager import ServiceManager
from brakit_sidecar.host import process

from tests.daemon.by_name import NamedCounterFile, name_beside
from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from brakit_sidecar.core.outbox import QueuedEvent, Verdict
    from brakit_sidecar.core.refusal import Refusal
    from brakit_sidecar.core.session.member import Member
    from brakit_sidecar.core.session.session import Session
    from brakit_sidecar.daemon.delivery import Delivery
    from brakit_sidecar.daemon.process_watcher import ProcessWatcher

OWNER = f"owner {os.getpid()}"  # how the process of the tests is watched as an owner
SESSION = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01"


class RecordingIntake:
    """An intake whose drains have the results and the side effect that the test sets."""

    def __init__(self) -> None:
        self.is_short = False
        self.while_draining: Callable[[], object] = lambda: None
        self.drained: list[bool] = []  # the results of the next drains, then True
        self.expendable: list[Callable[[Member], bool]] = []

    def drain(self, expendable: Callable[[Member], bool] = lambda _member: False) -> bool:
        self.expendable.append(expendable)
        self.while_draining()
        return self.drained.pop(0) if self.drained else True

    def is_short_of_descriptors(self) -> bool:
        return self.is_short


class RecordingDelivery:
    """A delivery that keeps each event instead of sending it."""

    def __init__(self) -> None:
        self.queued: list[QueuedEvent] = []
        self.unsent: list[tuple[QueuedEvent, Verdict]] = []
        self.is_withdrawn = False
        self.journal: Journal | None = None  # if set, events are journaled as a real delivery does

    def put(self, event: QueuedEvent) -> None:
        if self.journal is not None:
            self.journal.freeze(event)
        self.queued.append(event)

    def settle_unsent(self, event: QueuedEvent, verdict: Verdict) -> None:
        self.unsent.append((event, verdict))

    def withdraw(self) -> int:
        self.is_withdrawn = True
        return len(self.queued)


class RecordingWatcher:
    """A watcher of processes, which exit when the test calls ``exit``."""

    def __init__(self) -> None:
        self.watched: dict[tuple[str, str], tuple[int, Callable[[], object], bool]] = {}
        self.is_alive: dict[tuple[str, str], Callable[[], bool]] = {}

    def watch(
        self,
        name: tuple[str, str],
        pid: int,
        is_alive: Callable[[], bool],
        then: Callable[[], object],
        *,
        by_descriptor: bool = True,
    ) -> None:
        self.watched[name] = pid, then, by_descriptor
        self.is_alive[name] = is_alive

    def unwatch(self, name: tuple[str, str]) -> None:
        self.watched.pop(name, None)

    def unwatch_all(self, session_id: str) -> None:
        for name in [name for name in self.watched if name[0] == session_id]:
            del self.watched[name]

    def exit(self, session_id: str, producer: str) -> None:
        """Let a watched process exit."""
        self.watched.pop((session_id, producer))[1]()


class Daemon:
    """A service with real files, and with recording parts around it."""

    def __init__(
        self, root: Path, anonymous_id: str | None = None, *, opt_in: bool = True, key: str = "phc_test"
    ) -> None:
        """Start in a directory that an earlier daemon with this anonymous id may have used."""
        self.root = root
        self.config = root / ".brakit" / "config.json"
        self.config.parent.mkdir(mode=0o700, exist_ok=True)
        self.anonymous_id = anonymous_id or new_id()
        self.consent = ConsentGate({"HOME": str(root)})
        self.runtime = root / "r"
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        self.socket_path = str(self.runtime / "sidecar-1.sock")
        self.intake, self.delivery, self.watcher = RecordingIntake(), RecordingDelivery(), RecordingWatcher()
        self.table = SessionTable(process.boot_id())
        self.journal = Journal(str(root / "journal"), self.consent)
        self.counter_files = CounterFiles(self.socket_path, ServiceManager({}))
        self.wakes: list[None] = []
        self.destination = Destination({"BRAKIT_TELEMETRY_KEY": key})
        self.service = Service(
            self.table,
            self.consent,
            self.counter_files,
            self.journal,
            Reporter(self.destination, {}, self.consent, cast("Delivery", self.delivery)),
            cast("ProcessWatcher", self.watcher),
            self.intake,
            wake=lambda: self.wakes.append(None),
            destination=self.destination.digest,
        )
        self.opt(in_=opt_in)
        self.consent.allows()

    def opt(self, *, in_: bool) -> None:
        """Write the config, unless it says this already. An unneeded write would be a change of the config."""
        content = json.dumps({"telemetry": in_, "anonymousId": self.anonymous_id})
        if not self.config.exists() or self.config.read_text() != content:
            self.config.write_text(content)

    def make_counter_file(self, session: str | None = SESSION) -> counter_file.CounterFile:
        """Make the counter file of a worker of this process, which names the session if there is one."""
        made = counter_file.shared(str(self.runtime))
        assert made is not None
        key = uuid.UUID(session).bytes if session else bytes(16)
        stamp = self.consent.last_stamp
        made.sign(os.getpid(), Place("", {"session": ""}, key, destination=self.destination.digest, stamp=stamp))
        if not session:
            made.cells[counter_layout.KIND] = 0
        return made

    def named_counter_file(self, producer: str, session: str | None = SESSION) -> NamedCounterFile:
        """Make a counter file of this process by name, which is open and not mapped."""
        return NamedCounterFile(name_beside(self.socket_path, producer), session)

    def count(self, made: counter_file.CounterFile, field: str, total: int) -> None:
        """Count in a counter file as its worker does."""
        made.cells[COUNTER_CELLS[field]] = total

    def hello(
        self,
        producer: str | None = None,
        session: str | None = SESSION,
        counter_fd: int | None = None,
        *,
        is_owner: bool = False,
        by_name: bool = False,
    ) -> Joined | Ended | TryLater:
        """``by_name``: the producer counts in the file that it has named."""
        version = None if counter_fd is None and not by_name else VERSION
        hello = Hello(session, None, producer or new_id(), "python", is_owner, version)
        return self.service.hello(hello, None if counter_fd is None else os.dup(counter_fd), os.getpid())

    def join(
        self,
        producer: str | None = None,
        counter_fd: int | None = None,
        *,
        is_owner: bool = False,
        by_name: bool = False,
    ) -> Member:
        outcome = self.hello(producer, counter_fd=counter_fd, is_owner=is_owner, by_name=by_name)
        assert isinstance(outcome, Joined)
        assert outcome.member is not None
        assert outcome.takes_counter_file == (counter_fd is not None or by_name)
        return outcome.member

    def send(self, member: Member | None, **keys: Any) -> list[Refusal]:
        frame = parse(json.dumps(keys).encode())
        if member is None:
            return self.service.receive_without_session(frame, None)
        return self.service.receive(member, frame)

    @property
    def session(self) -> Session:
        return self.table.open[SESSION]

    def seal(self) -> None:
        """Seal the session, as the main loop does when the session is over."""
        self.service.run(self.session.end("clean", 0.0, 0.0, goodbye_s=0.0))
        self.service.seal(self.session)

    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(event.body) for event in self.delivery.queued]

    def journaled(self) -> list[dict[str, Any]]:
        """Return the journaled records that the next daemon would find."""
        return [
            record
            for _session, records in Journal(self.journal.directory, self.consent).left_behind()
            for record in records
        ]
