"""A day of flips of the config, in simulated time. No body holds a count of a moment at which the config said no.

Flips are written as the Node CLI and as editors write them: they keep the anonymous id. The daemon looks at each
snapshot and before it seals, and is killed now and then.
"""

from __future__ import annotations

import heapq
import json
import os
import random
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core.frames import Hello
from brakit_sidecar.core.outbox import Outcome
from brakit_sidecar.core.protocol import Joined
from brakit_sidecar.daemon import service as service_module
from brakit_sidecar.host import consent

from tests.daemon.in_process import Daemon
from tests.daemon.test_recovery_in_process import next_daemon
from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from brakit_sidecar.core.session.member import Member

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
SNAPSHOT_S = 25.0
FLIPS = 60  # each is followed by another one after a second, a minute or an hour
SESSIONS = 120


def write_as_node(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_as_an_editor(path: Path, content: bytes) -> None:
    path.with_suffix(".swp").write_bytes(content)
    path.with_suffix(".swp").rename(path)


def write_and_restore_times(path: Path, content: bytes) -> None:
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def retarget_a_link(path: Path, content: bytes) -> None:
    """Do what stow and chezmoi do: the config is a link, and the files to which it leads stay as they are."""
    name = f"{path.name}.{'yes' if b'true' in content else 'no'}"
    target = path.with_name(name)
    if not target.exists():
        target.write_bytes(content)
    path.with_suffix(".link").symlink_to(name)
    path.with_suffix(".link").rename(path)


WAYS = (retarget_a_link, write_as_node, write_as_an_editor, write_and_restore_times)


class Worker:
    """A worker that reports by lines. It read the config when it started, and does nothing if it was off."""

    def __init__(self, day: Day) -> None:
        decision = consent.current({"HOME": str(day.root)})
        self.day = day
        self.session, self.producer = new_id(), new_id()
        self.is_on, self.stamp = decision.on, decision.stamp
        self.member: Member | None = None
        self.total = 0

    def connect(self) -> None:
        if not self.is_on:
            return
        hello = Hello(self.session, None, self.producer, "node", False, stamp=self.stamp)
        outcome = self.day.daemon.service.hello(hello, None, os.getpid())
        self.member = outcome.member if isinstance(outcome, Joined) else None
        self.report()

    def count(self) -> None:
        if self.is_on:
            self.total += 1
            self.day.counted(self)
            self.report()

    def report(self) -> None:
        if self.member is not None and self.total:
            self.day.daemon.send(self.member, total={"request_count": self.total})

    def end(self) -> None:
        session = self.day.daemon.table.open.get(self.session)
        if session is not None:
            self.day.daemon.service.run(session.end("clean", self.day.now, self.day.now, goodbye_s=0.0))
            self.day.daemon.service.seal(session)
        self.member = None
        self.day.workers.remove(self)


class Day:
    """Simulated time with a daemon, its config and workers."""

    def __init__(self, root: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.now = 0.0
        monkeypatch.setattr(service_module, "monotonic", lambda: self.now)
        self.daemon = Daemon(root)
        self.delivered: list[dict[str, Any]] = []
        self.kept_local = 0
        self.is_on = True
        self.workers: list[Worker] = []
        self.by_session: dict[str, list[bool]] = {}  # for each count: whether the config said yes
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def at(self, when: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._calls, (when, next(self._numbers), call))

    def run(self) -> None:
        while self._calls:
            self.now, _number, call = heapq.heappop(self._calls)
            call()
        self._take_delivered()

    def counted(self, worker: Worker) -> None:
        self.by_session.setdefault(worker.session, []).append(self.is_on)

    def flip(self, *, on: bool) -> None:
        content = json.dumps({"telemetry": on, "anonymousId": self.daemon.anonymous_id}).encode()
        write, before = self.random.choice(WAYS), self.stamp()
        while self.stamp() == before:  # the filesystem's clock ticks every few ms
            if write is not retarget_a_link and self.daemon.config.is_symlink():
                self.daemon.config.unlink()  # the other ways would write to the target
                self.daemon.config.write_bytes(b"{}")
            write(self.daemon.config, content)
        self.is_on = on

    def stamp(self) -> int | None:
        return consent.current({"HOME": str(self.root)}).stamp

    def look(self) -> None:
        """Do what a snapshot does."""
        self.daemon.service.look_at_config()
        for session in self.daemon.table.open.values():
            self.daemon.service.run(session.journal_changes())

    def kill(self) -> None:
        """Kill the daemon. The next one starts, and the workers connect to it."""
        self._take_delivered()
        for worker in self.workers:
            worker.member = None
        self.daemon = next_daemon(self.daemon, is_on=self.is_on)
        self.daemon.delivery.journal = self.daemon.journal
        for worker in self.workers:
            worker.connect()

    def start_worker(self, lasts_s: float) -> None:
        worker = Worker(self)
        self.workers.append(worker)
        self.at(self.now + self.random.uniform(0, 5), worker.connect)
        for _ in range(5):
            self.at(self.now + self.random.uniform(5, lasts_s), worker.count)
        self.at(self.now + lasts_s, worker.end)

    def _take_delivered(self) -> None:
        for event in self.daemon.delivery.queued:
            self.delivered.append({"session": event.session, **json.loads(event.body)["properties"]})
            self.daemon.journal.settle(event)
        self.daemon.delivery.queued.clear()
        self.kept_local += sum(verdict.outcome is Outcome.LOCAL for _event, verdict in self.daemon.delivery.unsent)
        self.daemon.delivery.unsent.clear()


@pytest.mark.parametrize("seed", range(8))
def test_no_count_of_a_moment_at_which_the_config_said_no_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    day = Day(tmp_path, seed, monkeypatch)
    day.daemon.delivery.journal = day.daemon.journal
    when = 0.0
    for _ in range(FLIPS // 2):
        when += day.random.choice((1.0, 60.0, HOUR_S)) * day.random.uniform(0.5, 1.5)
        day.at(when, lambda: day.flip(on=False))
        when += day.random.choice((1.0, 60.0, HOUR_S)) * day.random.uniform(0.5, 1.5)
        day.at(when, lambda: day.flip(on=True))
    for _ in range(SESSIONS):
        lasts_s = day.random.choice((20.0, 300.0, 2 * HOUR_S))
        day.at(day.random.uniform(0, DAY_S), lambda lasts_s=lasts_s: day.start_worker(lasts_s))  # type: ignore[misc]
    for number in range(int(DAY_S / SNAPSHOT_S)):
        day.at(number * SNAPSHOT_S, day.look)
    for _ in range(10):
        day.at(day.random.uniform(0, DAY_S), day.kill)
    day.run()

    assert day.delivered, "no session was sent, so this shows nothing"
    assert day.kept_local, "no session was kept, so this shows nothing"
    for sent in day.delivered:
        counts = day.by_session.get(sent["session"], [])
        assert sent["request_count"] == len(counts)
        assert all(counts), "a count of an off moment was sent"
