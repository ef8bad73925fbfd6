"""What the service, the recovery and the release of descriptors do with a file that the daemon opened by its name."""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_layout import SIZE
from brakit_sidecar.core.frames import Hello
from brakit_sidecar.core.protocol import Ended, Joined, TryLater
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.core.session.session import COMPACT_AFTER
from brakit_sidecar.core.session.worker import Phase
from brakit_sidecar.daemon import counter_files
from brakit_sidecar.host import process

from tests.daemon.in_process import SESSION, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon.by_name import NamedCounterFile

has_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/fd")

PRODUCER = "5d0e8a11-0000-4000-8000-000000000001"
REFUSED = (False, Refusal.BAD_COUNTER_FILE)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


@pytest.fixture
def named(daemon: Daemon) -> Iterator[NamedCounterFile]:
    """Give the counter file that PRODUCER has named and keeps open."""
    with daemon.named_counter_file(PRODUCER) as named:
        yield named


def open_fds() -> int:
    return len(os.listdir("/dev/fd"))


def answer(outcome: object) -> tuple[bool, Refusal | None]:
    """Return whether the hello's counter file was taken, and why it was refused."""
    assert isinstance(outcome, Joined)
    assert outcome.member is not None
    return outcome.takes_counter_file, outcome.refused


# --- hello ----------------------------------------------------------------------------------------------------------


def test_a_named_file_counts_for_the_session(daemon: Daemon, named: NamedCounterFile) -> None:
    assert answer(daemon.hello(PRODUCER, by_name=True)) == (True, None)
    named.count("request_count", 7)
    daemon.service.read_counters(daemon.session)
    assert daemon.session.totals.total("request_count") == 7


def test_a_hello_is_accepted_even_if_its_producer_has_named_no_file(daemon: Daemon) -> None:
    assert answer(daemon.hello(PRODUCER, by_name=True)) == REFUSED


def test_a_file_of_another_user_is_refused(
    daemon: Daemon, named: NamedCounterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.getuid()
    hello = Hello(SESSION, None, PRODUCER, "node", False, counter_layout.VERSION)
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert daemon.counter_files.open_named(hello) is None


def test_a_file_that_is_truncated_while_it_is_checked_is_refused(
    daemon: Daemon, named: NamedCounterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_acceptable = counter_files.CounterFile.is_acceptable

    def check_and_truncate(file: counter_files.CounterFile) -> bool:
        checked = is_acceptable(file)
        os.ftruncate(named.fd, 0)
        return checked

    monkeypatch.setattr(counter_files.CounterFile, "is_acceptable", check_and_truncate)
    before = open_fds()
    assert answer(daemon.hello(PRODUCER, by_name=True)) == REFUSED
    assert open_fds() == before


def test_a_file_that_is_truncated_before_its_hello_joins_is_closed(
    daemon: Daemon, named: NamedCounterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_named = daemon.counter_files.open_named

    def open_and_truncate(hello: Hello) -> Any:
        file = open_named(hello)
        os.ftruncate(named.fd, 0)
        return file

    monkeypatch.setattr(daemon.counter_files, "open_named", open_and_truncate)
    before = open_fds()
    assert daemon.hello(PRODUCER, by_name=True) == Ended()
    assert open_fds() == before


def test_the_name_stays_for_the_next_daemon_if_the_producer_is_to_try_later(
    daemon: Daemon, named: NamedCounterFile
) -> None:
    daemon.service.is_stopping = True
    before = open_fds()
    assert daemon.hello(PRODUCER, by_name=True) == TryLater()
    assert open_fds() == before
    assert named.has_name
    assert not named.is_retired


def test_a_named_file_is_retired_if_telemetry_is_off(daemon: Daemon, named: NamedCounterFile) -> None:
    daemon.opt(in_=False)
    assert daemon.hello(PRODUCER, by_name=True) == Ended()
    assert named.is_retired
    assert not named.has_name


def test_a_retired_named_file_joins_no_session(daemon: Daemon, named: NamedCounterFile) -> None:
    named.write(counter_layout.RETIRED, 1)
    assert daemon.hello(PRODUCER, by_name=True) == Ended()
    assert not daemon.table.open
    assert not named.has_name


def test_the_same_file_by_name_and_by_descriptor_is_one_file(daemon: Daemon, named: NamedCounterFile) -> None:
    named.count("request_count", 7)
    before = open_fds()
    daemon.join(PRODUCER, by_name=True)
    daemon.join(PRODUCER, named.fd)
    daemon.join(PRODUCER, by_name=True)
    daemon.service.read_counters(daemon.session)
    assert daemon.session.totals.total("request_count") == 7
    assert open_fds() == before + 1
    assert named.has_name


def test_a_second_named_file_keeps_the_counts_of_the_first(daemon: Daemon, named: NamedCounterFile) -> None:
    named.count("request_count", 7)
    daemon.join(PRODUCER, by_name=True)
    os.unlink(named.path)
    with daemon.named_counter_file(PRODUCER) as second:
        daemon.join(PRODUCER, by_name=True)
        assert daemon.session.totals.total("request_count") == 7
        second.count("request_count", 9)
        daemon.service.read_counters(daemon.session)
        assert daemon.session.totals.total("request_count") == 9
        assert second.has_name


def test_a_named_file_is_stored_by_the_service_manager_and_discarded_at_the_end(
    daemon: Daemon, named: NamedCounterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(daemon.counter_files.manager, "store", lambda name, _fd: calls.append(("store", name)))
    monkeypatch.setattr(daemon.counter_files.manager, "discard", lambda name: calls.append(("discard", name)))
    daemon.join(PRODUCER, by_name=True)
    daemon.seal()
    name = os.path.basename(named.path)
    assert calls == [("store", name), ("discard", name)]


# --- descriptors ----------------------------------------------------------------------------------------------------


def test_the_descriptor_of_a_named_file_can_be_released(daemon: Daemon, named: NamedCounterFile) -> None:
    before = open_fds()
    member = daemon.join(PRODUCER, by_name=True)
    assert daemon.service.may_evict(member)
    daemon.service.release_descriptors()
    assert open_fds() == before
    named.count("request_count", 7)
    daemon.seal()
    (body,) = daemon.sent()
    assert body["properties"]["request_count"] == 7
    assert named.is_retired
    assert not named.has_name


# --- is it in use ---------------------------------------------------------------------------------------------------


@has_proc
def test_an_evicted_worker_is_alive_as_long_as_it_has_its_file_open(daemon: Daemon) -> None:
    named = daemon.named_counter_file(PRODUCER)
    daemon.service.closed(daemon.join(PRODUCER, by_name=True), is_evicted=True)
    daemon.service.release_descriptors()  # because the daemon is this process too
    assert daemon.watcher.is_alive[SESSION, PRODUCER]()
    named.close()
    assert not daemon.watcher.is_alive[SESSION, PRODUCER]()


@has_proc
def test_an_evicted_worker_is_alive_although_its_files_name_was_removed(daemon: Daemon) -> None:
    with daemon.named_counter_file(PRODUCER) as named:
        daemon.service.closed(daemon.join(PRODUCER, by_name=True), is_evicted=True)
        os.unlink(named.path)
        assert daemon.watcher.is_alive[SESSION, PRODUCER]()


@has_proc
@pytest.mark.parametrize("is_open", [True, False])
def test_a_worker_is_compacted_after_it_has_closed_its_file(daemon: Daemon, is_open: bool) -> None:
    """The process lives on, as that of a thread of Node that ended."""
    named = daemon.named_counter_file(PRODUCER)
    daemon.service.closed(daemon.join(PRODUCER, by_name=True))
    for _ in range(COMPACT_AFTER):
        daemon.service.closed(daemon.join())
    named.count("request_count", 7)
    daemon.service.release_descriptors()
    if not is_open:
        named.close()
    for session, workers in daemon.table.to_compact():
        daemon.service.compact(session, workers)
    phase = daemon.session.workers[PRODUCER].phase
    assert phase is (Phase.GONE if is_open else Phase.COMPACTED)
    daemon.service.read_counters(daemon.session)
    assert daemon.session.totals.total("request_count") == 7
    if is_open:
        named.close()


@has_proc
def test_a_named_file_is_not_in_use_by_a_process_that_has_not_opened_it(
    daemon: Daemon, named: NamedCounterFile
) -> None:
    daemon.service.closed(daemon.join(PRODUCER, by_name=True), is_evicted=True)
    named.write(counter_layout.PID, os.getppid())
    assert process.exists(os.getppid())
    assert not daemon.watcher.is_alive[SESSION, PRODUCER]()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs a file that cannot be linked")
def test_a_passed_file_without_a_name_is_in_use_only_if_it_is_mapped(daemon: Daemon) -> None:
    fd = os.memfd_create("unmapped")
    os.truncate(fd, SIZE)
    os.pwrite(fd, counter_layout.MAGIC.to_bytes(counter_layout.CELL, sys.byteorder), 0)
    os.pwrite(fd, os.getpid().to_bytes(counter_layout.CELL, sys.byteorder), counter_layout.CELL * counter_layout.PID)
    daemon.service.closed(daemon.join(PRODUCER, fd), is_evicted=True)
    assert not daemon.watcher.is_alive[SESSION, PRODUCER]()
    with mmap.mmap(fd, SIZE):
        assert daemon.watcher.is_alive[SESSION, PRODUCER]()
    os.close(fd)
