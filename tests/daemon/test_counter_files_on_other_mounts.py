"""A filesystem that never answers does not stop the daemon, wherever a producer gives it a file of it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, SIZE
from brakit_sidecar.host import process

from tests.daemon.by_name import NamedCounterFile, name_beside
from tests.daemon.counting import fd_of, make_counter_file
from tests.daemon.in_process import SESSION, Daemon
from tests.harness import Place, Wire, new_id
from tests.silent_filesystem import bound, silent_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.daemon.counting import CountingDaemon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the mount of a descriptor")

ACCEPTED, REFUSED = [{"counter_file": 1}], [{"refused": {"reason": "bad_counter_file", "line": 1}}]


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """Return a directory in which every name is a file that never answers."""
    directory = tmp_path / "silent"
    directory.mkdir()
    with silent_filesystem(str(directory)):
        yield str(directory)


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[int]:
    """Return the descriptor of a good counter file of another filesystem."""
    other = "/dev/shm"
    if not os.path.isdir(other) or os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs a second filesystem")
    made = make_counter_file(other)
    yield fd_of(made)
    made.close()


def by_name(session: str, producer: str) -> dict[str, object]:
    return {"protocol": 1, "session": session, "producer": producer, "counter_file": 1}


def test_a_passed_file_that_never_answers_is_refused_and_its_lines_count(
    daemon: CountingDaemon, session: str, silent: str
) -> None:
    fd = os.open(f"{silent}/counters", os.O_RDWR)
    with daemon.worker() as worker:
        assert worker.send_hello(session, fd).send(incr={"request_count": 2}).replies() == REFUSED
    assert daemon.fields(session)["request_count"] == 2
    os.close(fd)


def test_a_named_file_that_never_answers_is_refused_and_its_lines_count(
    daemon: CountingDaemon, session: str, silent: str
) -> None:
    producer = new_id()
    path = name_beside(daemon.place.socket_path, producer)
    NamedCounterFile(path, session).close()
    with bound(f"{silent}/counters", path), daemon.worker() as worker:
        worker.send(hello=by_name(session, producer))
        assert worker.send(incr={"request_count": 2}).replies() == REFUSED
    assert daemon.fields(session)["request_count"] == 2


def test_a_file_that_never_answers_at_an_accepted_files_name_costs_only_the_name(
    daemon: CountingDaemon, session: str, silent: str
) -> None:
    """The name is looked at when the producer reconnects, and when its session is sealed."""
    producer = new_id()
    path = name_beside(daemon.place.socket_path, producer)
    made = make_counter_file(os.path.dirname(path))
    with daemon.worker() as worker, daemon.worker() as reconnected:
        assert worker.send_hello(session, fd_of(made), producer=producer).replies() == ACCEPTED
        with bound(f"{silent}/counters", path):
            assert reconnected.send_hello(session, fd_of(made), producer=producer).replies() == ACCEPTED
            made.cells[COUNTER_CELLS["request_count"]] = 7
            assert daemon.fields(session)["request_count"] == 7
    made.close()


def test_a_daemon_starts_beside_a_named_file_that_never_answers(silent: str) -> None:
    with Place() as place:
        os.mkdir(os.path.dirname(place.socket_path), 0o700)
        path = name_beside(place.socket_path, new_id())
        NamedCounterFile(path, new_id()).close()
        with bound(f"{silent}/counters", path):
            place.serve()
            with Wire(place.socket_path).hello() as wire:
                assert wire.ask()[0]["sessions"] == []
            place.run("stop")


def test_a_process_is_asked_for_its_open_files_only_on_the_counter_files_mount(silent: str, tmp_path: Path) -> None:
    name = f"counters-1-{new_id()}"
    info = os.stat(tmp_path)
    fd = os.open(f"{silent}/{name}", os.O_RDWR)
    here = os.open(tmp_path, os.O_RDONLY)
    assert process.has_open(os.getpid(), name, (info.st_dev, info.st_ino), mount=mount_of(here))
    os.close(here)
    os.close(fd)


def mount_of(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as fields:
        return next(int(line.split()[1]) for line in fields if line.startswith("mnt_id"))


def test_a_good_file_of_another_filesystem_is_refused(daemon: CountingDaemon, session: str, in_memory: int) -> None:
    with daemon.worker() as worker:
        assert worker.send_hello(session, in_memory).replies() == REFUSED


def test_a_file_of_another_filesystem_is_refused_without_a_call_on_it(
    tmp_path: Path, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, theirs = Daemon(tmp_path), os.fstat(in_memory)

    def checked(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: int, *more: Any) -> Any:
            assert not os.path.samestat(os.stat(f"/proc/self/fd/{fd}"), theirs), "this call might block for ever"
            return plain(fd, *more)

        return call

    for name in ("fstat", "pread", "pwrite", "fchmod"):
        monkeypatch.setattr(os, name, checked(getattr(os, name)))
    assert not daemon.hello(counter_fd=in_memory).takes_counter_file  # type: ignore[union-attr] # it has joined


def test_a_file_in_memory_without_a_filesystem_is_accepted(daemon: CountingDaemon, session: str) -> None:
    made = make_counter_file("/no/such/directory")
    with daemon.worker() as worker:
        assert worker.send_hello(session, fd_of(made)).replies() == ACCEPTED
    made.close()


def test_the_file_of_a_worker_that_has_the_directory_on_another_mount_is_opened_by_its_name(
    daemon: CountingDaemon, tmp_path: Path
) -> None:
    """A worker in a container, or the daemon in a service manager's sandbox, has a mount namespace of its own."""
    session, producer = new_id(), new_id()
    directory = os.path.dirname(daemon.place.socket_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    with (
        bound(directory, str(theirs)),
        daemon.worker() as worker,
        NamedCounterFile(name_beside(f"{theirs}/sidecar-1.sock", producer), session) as named,
    ):
        assert worker.send_hello(session, named.fd, producer=producer).replies() == ACCEPTED
        named.count("request_count", 7)
        assert daemon.finish(session)["request_count"] == 7
        assert named.is_retired


def test_a_file_of_another_mount_is_not_opened_by_the_name_of_a_producer_without_a_session(
    tmp_path: Path, in_memory: int
) -> None:
    daemon, producer = Daemon(tmp_path), new_id()
    with daemon.named_counter_file(producer, SESSION) as named:
        assert os.fstat(named.fd).st_size == SIZE
        daemon.hello(producer, session=None, counter_fd=in_memory)
        assert named.has_name
        assert not named.is_retired
