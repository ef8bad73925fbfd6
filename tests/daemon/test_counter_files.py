"""Workers' memory as the daemon sees it: somebody else's descriptor, in which nothing is trusted."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import uuid
from array import array
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.client import counter_file
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, SIZE

from tests.harness import Endpoint, Place, Wire, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brakit_sidecar.client.counter_file import CounterFile

COUNT_MAX = 9_007_199_254_740_991
ROUTE, OTHER_ROUTE = "9f3a61c2d4e5b607", "00000000000000aa"
TAKEN, REFUSED = [{"counter_file": 1}], [{"refused": {"reason": "bad_counter_file", "line": 1}}]

sees_descriptors = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/fd")


class Worker(Wire):
    """A producer that passes descriptors."""

    def greet(self, session: str, *fds: int, **more: Any) -> Worker:
        hello = {"protocol": 1, "session": session, "producer": new_id(), "sdk": "python", "counter_file": 1, **more}
        return self.write_with(json.dumps({"hello": hello}).encode() + b"\n", *fds)

    def write_with(self, data: bytes, *fds: int) -> Worker:
        sent = self.stream.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))])
        assert sent == len(data)
        return self

    def __enter__(self) -> Worker:
        return self

    def write(self, data: bytes) -> Worker:
        super().write(data)
        return self

    def send(self, **frame: Any) -> Worker:
        super().send(**frame)
        return self

    def heard(self) -> list[dict[str, Any]]:
        """What the daemon had to say of everything until now."""
        self.send(ask="identity")
        heard: list[dict[str, Any]] = []
        for said in self.lines():
            if "answer" in said:
                return heard
            heard.append(said)
        raise AssertionError("the daemon hung up before it answered")


class Daemon:
    """The daemon that this file's tests share: each test has sessions of its own, and counts what it added."""

    def __init__(self, endpoint: Endpoint | None, place: Place) -> None:
        self.endpoint = endpoint
        self.place = place
        self.pid = place.serve().pid

    def worker(self) -> Worker:
        return Worker(self.place.socket_path)

    def owner(self, session: str) -> Wire:
        """The owner of the session, which is open when this returns."""
        owner = Wire(self.place.socket_path).hello(session, role="owner")
        owner.sync()
        return owner

    def status(self) -> dict[str, Any]:
        with Wire(self.place.socket_path).hello() as wire:
            status: dict[str, Any] = wire.ask()[0]
            return status

    def refused(self) -> Counter[str]:
        return Counter(self.status()["refused"])

    def fields(self, session: str) -> dict[str, Any]:
        """The session's event, as it would be sent now."""
        (fields,) = [found["fields"] for found in self.status()["sessions"] if found["id"] == session]
        return dict(fields)

    def is_sealed(self, session: str) -> bool:
        return session not in {found["id"] for found in self.status()["sessions"]}

    def finish(self, session: str) -> dict[str, Any]:
        """Ends the session as an owner does; the properties of its event."""
        assert self.endpoint is not None
        endpoint = self.endpoint
        expected = str(uuid.uuid5(uuid.UUID(session), "session"))
        with self.owner(session) as owner:
            owner.send(end={"exit_reason": "clean"})
            wait_until(lambda: any(body["uuid"] == expected for body in endpoint.bodies), "the session event")
        (properties,) = [body["properties"] for body in endpoint.bodies if body["uuid"] == expected]
        return dict(properties)

    def descriptors(self, *, only: Callable[[os.stat_result], bool] = lambda _info: True) -> int:
        """How many are open in the daemon."""
        found = 0
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            with suppress(FileNotFoundError):
                found += only(os.stat(f"/proc/{self.pid}/fd/{fd}"))
        return found

    def memories(self) -> int:
        """How many of them are what a worker may pass. At rest none, as each test waits for its sessions' end."""
        return self.descriptors(only=lambda info: info.st_size == SIZE)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    endpoint = Endpoint()
    with Place(endpoint.url) as place:
        yield Daemon(endpoint, place)
    endpoint.close()


@pytest.fixture
def session(daemon: Daemon) -> Iterator[str]:
    """A session that this test owns."""
    session = new_id()
    with daemon.owner(session) as owner:
        yield session
        owner.send(end={"exit_reason": "clean"})
        wait_until(lambda: daemon.is_sealed(session), "the seal")


@pytest.fixture
def cells(daemon: Daemon) -> Iterator[CounterFile]:
    """A worker's memory, made as workers make it."""
    made = counter_file.shared(os.path.dirname(daemon.place.socket_path))
    assert made is not None
    yield made
    made.close()


def fd_of(made: CounterFile) -> int:
    assert made.fd is not None
    return made.fd


def set_count(made: CounterFile, field: str, count: int) -> None:
    made.cells[COUNTER_CELLS[field]] = count


def observe(made: CounterFile, route: str, times: int) -> None:
    row = made.row(route)
    made.cells[row + 1] += 5_000_000 * times
    made.cells[row + 2] += times


# --- when it is read ------------------------------------------------------------------------------------------


def test_a_memory_is_taken_and_read_whenever_the_daemon_is_asked(
    daemon: Daemon, session: str, cells: CounterFile
) -> None:
    with daemon.worker() as worker:
        assert worker.greet(session, fd_of(cells)).heard() == TAKEN
        for count in (1, 7):
            set_count(cells, "request_count", count)
            observe(cells, ROUTE, count)
            assert daemon.fields(session)["request_count"] == count
            assert daemon.fields(session)["avg_duration_ms"] == 5


def test_what_was_counted_before_the_hello_counts(daemon: Daemon, session: str, cells: CounterFile) -> None:
    set_count(cells, "query_count", 3)
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
        assert daemon.fields(session)["query_count"] == 3


def test_what_a_worker_counted_without_a_word_is_in_the_event(daemon: Daemon, cells: CounterFile) -> None:
    session = new_id()
    with daemon.owner(session), daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
        set_count(cells, "request_count", 57)
        observe(cells, ROUTE, 2)
        ended = daemon.finish(session)
    assert (ended["request_count"], ended["endpoint_count"]) == (57, 1)


def test_the_memory_of_a_worker_that_is_gone_is_still_read(daemon: Daemon, session: str, cells: CounterFile) -> None:
    """Another process may have it mapped still: a child that has not counted yet."""
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
    set_count(cells, "request_count", 4)
    assert daemon.fields(session)["request_count"] == 4


def test_lines_and_memory_of_one_producer_are_one_running_total(
    daemon: Daemon, session: str, cells: CounterFile
) -> None:
    set_count(cells, "request_count", 5)
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).send(total={"request_count": 5, "query_count": 2}).heard()
        assert daemon.fields(session)["request_count"] == 5
        assert daemon.fields(session)["query_count"] == 2


def test_the_memories_of_two_producers_add_up(daemon: Daemon, session: str, cells: CounterFile) -> None:
    set_count(cells, "request_count", 5)
    others = counter_file.shared(os.path.dirname(daemon.place.socket_path))
    assert others is not None
    set_count(others, "request_count", 7)
    observe(cells, ROUTE, 1)
    observe(others, ROUTE, 1)
    with daemon.worker() as worker, daemon.worker() as other:
        worker.greet(session, fd_of(cells)).heard()
        other.greet(session, fd_of(others)).heard()
        fields = daemon.fields(session)
    assert (fields["request_count"], fields["endpoint_count"]) == (12, 1)
    others.close()


# --- a producer that comes back -------------------------------------------------------------------------------


def test_who_comes_back_with_its_memory_is_counted_once(daemon: Daemon, session: str, cells: CounterFile) -> None:
    producer = new_id()
    for count in (3, 8):
        set_count(cells, "request_count", count)
        with daemon.worker() as worker:
            assert worker.greet(session, fd_of(cells), producer=producer).heard() == TAKEN
    assert daemon.fields(session)["request_count"] == 8


def test_who_comes_back_with_another_memory_keeps_what_it_had_counted(
    daemon: Daemon, session: str, cells: CounterFile
) -> None:
    producer = new_id()
    fresh = counter_file.shared(os.path.dirname(daemon.place.socket_path))
    assert fresh is not None
    with daemon.worker() as worker, daemon.worker() as again:
        worker.greet(session, fd_of(cells), producer=producer).heard()
        set_count(cells, "request_count", 8)
        set_count(fresh, "request_count", 2)
        again.greet(session, fd_of(fresh), producer=producer).heard()
        assert daemon.fields(session)["request_count"] == 8
        set_count(fresh, "request_count", 9)
        assert daemon.fields(session)["request_count"] == 9
    fresh.close()


# --- what is no worker's memory -------------------------------------------------------------------------------


def a_file(size: int, content: bytes = b"", flags: int = os.O_RDWR) -> int:
    fd, path = tempfile.mkstemp(prefix="bs-")
    os.write(fd, content)
    os.ftruncate(fd, size)
    again = os.open(path, flags)
    os.close(fd)
    os.unlink(path)
    return again


def a_pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


MAGIC = counter_layout.MAGIC.to_bytes(8, sys.byteorder)
BAD: dict[str, Callable[[], int]] = {
    "an empty file": lambda: a_file(0),
    "a file that is a byte short": lambda: a_file(SIZE - 1, MAGIC),
    "a file that is a byte long": lambda: a_file(SIZE + 1, MAGIC),
    "a huge file": lambda: a_file(2**40, MAGIC),
    "a pipe": a_pipe,
    "a directory": lambda: os.open("/", os.O_RDONLY),
    "a socket": lambda: socket.socket(socket.AF_UNIX).detach(),
    "a device": lambda: os.open("/dev/zero", os.O_RDWR),
    "a file of zeros": lambda: a_file(SIZE),
    "a file of the other byte order": lambda: a_file(SIZE, MAGIC[::-1]),
    "a file of another program": lambda: a_file(SIZE, b"SQLite format 3\0"),
    "a file that cannot be read": lambda: a_file(SIZE, MAGIC, os.O_WRONLY),
}


@pytest.fixture(params=BAD.values(), ids=[*BAD])
def bad(request: pytest.FixtureRequest) -> Iterator[int]:
    fd = request.param()
    yield fd
    os.close(fd)


def test_what_is_no_memory_is_refused_and_costs_nothing_else(daemon: Daemon, session: str, bad: int) -> None:
    before = daemon.refused()
    with daemon.worker() as worker:
        worker.greet(session, bad)
        worker.send(incr={"request_count": 2}, total={"query_count": 3})
        worker.send(end={"exit_reason": "clean"})
        assert worker.heard() == REFUSED
    fields = daemon.fields(session)
    assert (fields["request_count"], fields["query_count"], fields["endpoint_count"]) == (2, 3, 0)
    assert daemon.refused() - before == Counter(bad_memory=1)


def test_who_was_refused_may_come_back_with_its_memory(daemon: Daemon, session: str, cells: CounterFile) -> None:
    producer, foreign = new_id(), a_file(SIZE)
    set_count(cells, "request_count", 5)
    with daemon.worker() as worker:
        assert worker.greet(session, foreign, producer=producer).heard() == REFUSED
    with daemon.worker() as worker:
        assert worker.greet(session, fd_of(cells), producer=producer).heard() == TAKEN
        assert daemon.fields(session)["request_count"] == 5
    os.close(foreign)


def test_who_comes_back_with_what_is_no_memory_keeps_its_memory(
    daemon: Daemon, session: str, cells: CounterFile
) -> None:
    producer, foreign = new_id(), a_file(SIZE)
    with daemon.worker() as worker, daemon.worker() as again:
        worker.greet(session, fd_of(cells), producer=producer).heard()
        assert again.greet(session, foreign, producer=producer).heard() == REFUSED
        set_count(cells, "request_count", 5)
        assert daemon.fields(session)["request_count"] == 5
    os.close(foreign)


# --- what becomes of it after it was taken --------------------------------------------------------------------


@pytest.mark.parametrize(
    "left",
    [0, 1, 100, counter_layout.CELL * counter_layout.FIRST_ROW, counter_layout.CELL * counter_layout.row_cell(2) - 1],
)
def test_a_memory_that_is_truncated_later_takes_nothing_back(
    daemon: Daemon, session: str, cells: CounterFile, left: int
) -> None:
    fd = os.dup(fd_of(cells))
    with daemon.worker() as worker:
        worker.greet(session, fd).heard()
        set_count(cells, "request_count", 3)
        observe(cells, ROUTE, 3)
        assert daemon.fields(session)["request_count"] == 3
        cells.close()  # nobody touches the pages any more: that would end us
        os.ftruncate(fd, left)
        worker.send(incr={"query_count": 2}, total={"request_count": 4}).heard()
        fields = daemon.fields(session)
    assert (fields["request_count"], fields["query_count"], fields["endpoint_count"]) == (4, 2, 1)
    os.close(fd)


def test_a_memory_whose_magic_is_overwritten_takes_nothing_back(
    daemon: Daemon, session: str, cells: CounterFile
) -> None:
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
        set_count(cells, "request_count", 3)
        assert daemon.fields(session)["request_count"] == 3
        cells.cells[0] = 0
        set_count(cells, "request_count", 9)
        assert daemon.fields(session)["request_count"] == 3


def test_cells_that_go_backwards_take_nothing_back(daemon: Daemon, session: str, cells: CounterFile) -> None:
    seen = []
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
        for count in (10, 3, 0, 12):
            set_count(cells, "request_count", count)
            seen.append(daemon.fields(session)["request_count"])
    assert seen == [10, 10, 10, 12]


def test_rows_that_go_backwards_take_nothing_back(daemon: Daemon, session: str, cells: CounterFile) -> None:
    observe(cells, ROUTE, 4)
    observe(cells, OTHER_ROUTE, 1)
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
        before = daemon.fields(session)
        row = counter_layout.row_cell(1)
        cells.cells[row + 1 : row + counter_layout.ROW] = memoryview(array("Q", [0] * (counter_layout.ROW - 1)))
        cells.cells[counter_layout.USED_ROWS] = 0
        after = daemon.fields(session)
    assert (before["endpoint_count"], before["avg_duration_ms"]) == (2, 5)
    assert (after["endpoint_count"], after["avg_duration_ms"]) == (2, 5)


def test_absurd_cells_are_read_within_bounds(daemon: Daemon, session: str, cells: CounterFile) -> None:
    absurd = array("Q", [2**64 - 1] * (SIZE // counter_layout.CELL - 1))
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
        cells.cells[1:] = memoryview(absurd)
        worker.send(incr={"request_count": 1}).heard()
        fields = daemon.fields(session)
    assert {fields[field] for field in COUNTER_CELLS} == {COUNT_MAX}
    assert fields["endpoint_count"] == 1
    assert 0 <= fields["avg_duration_ms"] <= 86_400_000


def test_absurd_cells_are_no_other_producers_loss(daemon: Daemon, session: str, cells: CounterFile) -> None:
    others = counter_file.shared(os.path.dirname(daemon.place.socket_path))
    assert others is not None
    with daemon.worker() as worker, daemon.worker() as other, daemon.owner(new_id()):
        worker.greet(session, fd_of(cells)).heard()
        neighbours = new_id()
        other.greet(neighbours, fd_of(others)).heard()
        cells.cells[1:] = memoryview(array("Q", [2**64 - 1] * (SIZE // counter_layout.CELL - 1)))
        set_count(others, "request_count", 6)
        daemon.fields(session)
        fields = daemon.fields(neighbours)
    daemon.finish(neighbours)
    assert (fields["request_count"], fields["endpoint_count"]) == (6, 0)
    others.close()


def test_routes_that_change_their_ids_all_the_time_are_bounded(
    daemon: Daemon, session: str, cells: CounterFile
) -> None:
    row = cells.row(ROUTE)
    for number in range(1, 1 + counter_layout.MAX_ROUTES):
        observe(cells, f"{number:016x}", 1)
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
        for turn in range(8):
            for number in range(counter_layout.MAX_ROUTES):
                cells.cells[row + counter_layout.ROW * number] = turn * 10_000 + number + 1
            routes = daemon.fields(session)["endpoint_count"]
    assert counter_layout.MAX_ROUTES < routes <= 4096


# --- how it comes ---------------------------------------------------------------------------------------------


def test_of_several_descriptors_the_first_is_the_memory(daemon: Daemon, session: str, cells: CounterFile) -> None:
    set_count(cells, "request_count", 5)
    others = [a_file(SIZE, MAGIC), a_pipe(), os.dup(0)]
    before = daemon.refused()
    for number in (1, 2, 3):
        with daemon.worker() as worker:
            assert worker.greet(session, fd_of(cells), *others[:number]).heard() == TAKEN
    assert daemon.fields(session)["request_count"] == 15
    assert daemon.refused() == before
    for fd in others:
        os.close(fd)


def test_a_descriptor_with_a_later_line_is_nobodys(daemon: Daemon, session: str, cells: CounterFile) -> None:
    others = counter_file.shared(os.path.dirname(daemon.place.socket_path))
    assert others is not None
    set_count(others, "request_count", 1000)
    before = daemon.refused()
    with daemon.worker() as worker:
        worker.greet(session, fd_of(cells)).heard()
        worker.write_with(b'{"incr":{"query_count":1}}\n', fd_of(others))
        worker.write_with(b'{"incr":{"query_count":1},"set":{"framework":"flask"}}\n', fd_of(others))
        set_count(cells, "request_count", 5)
        assert worker.heard() == []
        fields = daemon.fields(session)
    assert (fields["request_count"], fields["query_count"], fields["framework"]) == (5, 2, "flask")
    assert daemon.refused() == before
    others.close()


def test_a_hello_in_pieces_brings_its_memory_with_the_first(daemon: Daemon, session: str, cells: CounterFile) -> None:
    set_count(cells, "request_count", 5)
    hello = json.dumps({"hello": {"protocol": 1, "session": session, "producer": new_id(), "counter_file": 1}}).encode()
    with daemon.worker() as worker:
        worker.write_with(hello[:1], fd_of(cells))
        worker.write(hello[1:20]).write(hello[20:] + b"\n")
        assert worker.heard() == TAKEN
    assert daemon.fields(session)["request_count"] == 5


@pytest.mark.parametrize("version", [None, 0, 2, True, 1.0, "1", [1]])
def test_a_memory_of_a_layout_that_the_daemon_does_not_know_is_not_taken(
    daemon: Daemon, session: str, cells: CounterFile, version: Any
) -> None:
    set_count(cells, "request_count", 5)
    before = daemon.refused()
    with daemon.worker() as worker:
        assert worker.greet(session, fd_of(cells), counter_file=version).send(incr={"request_count": 1}).heard() == []
    assert daemon.fields(session)["request_count"] == 1
    assert daemon.refused() == before


def test_a_hello_whose_memory_did_not_come_is_not_told_that_it_was_taken(daemon: Daemon, session: str) -> None:
    with daemon.worker() as worker:
        assert worker.greet(session).send(total={"request_count": 4}).heard() == []
    assert daemon.fields(session)["request_count"] == 4


def test_a_memory_for_a_session_that_has_ended_is_not_taken(daemon: Daemon, cells: CounterFile) -> None:
    session = new_id()
    assert daemon.finish(session)["request_count"] == 0
    set_count(cells, "request_count", 5)
    with daemon.worker() as worker:
        assert worker.greet(session, fd_of(cells)).heard() == []
    assert daemon.is_sealed(session)


# --- descriptors ----------------------------------------------------------------------------------------------


HELLO = {"protocol": 1, "producer": new_id(), "counter_file": 1}
CARELESS: dict[str, bytes] = {
    "and then hangs up": b"{",
    "and is no hello": b'{"incr":{"request_count":1}}\n',
    "and is no JSON": b"nonsense\n",
    "and names no producer": json.dumps({"hello": {**HELLO, "producer": "me", "session": new_id()}}).encode() + b"\n",
    "and speaks another protocol": json.dumps({"hello": {**HELLO, "protocol": 2}}).encode() + b"\n",
    "and has no session": json.dumps({"hello": HELLO}).encode() + b"\n",
    "and is too long": b"x" * 65_536,
}


@sees_descriptors
@pytest.mark.parametrize("line", CARELESS.values(), ids=CARELESS)
def test_whoever_passes_descriptors_leaves_none_in_the_daemon(daemon: Daemon, cells: CounterFile, line: bytes) -> None:
    fd = fd_of(cells)
    for _ in range(3):
        with daemon.worker() as worker:
            worker.write_with(line[:1], fd, fd).write_with(line[1:] or b" ", fd)
            worker.stream.shutdown(socket.SHUT_WR)
            assert not [said for said in worker.lines() if "counter_file" in said]
    daemon.status()  # by the time of its answer, who was hung up on is forgotten
    assert daemon.memories() == 0


@sees_descriptors
def test_what_was_refused_or_came_too_late_is_closed_at_once(daemon: Daemon, session: str, cells: CounterFile) -> None:
    foreign = a_file(SIZE)
    with daemon.worker() as worker, daemon.worker() as late:
        assert worker.greet(session, foreign, fd_of(cells)).heard() == REFUSED
        assert (
            late.greet(session, counter_file=None).write_with(b'{"incr":{"request_count":1}}\n', fd_of(cells)).heard()
            == []
        )
        assert daemon.memories() == 0
    os.close(foreign)


@sees_descriptors
def test_a_memory_is_one_descriptor_however_often_its_producer_comes_back(
    daemon: Daemon, session: str, cells: CounterFile
) -> None:
    producer = new_id()
    for _ in range(5):
        with daemon.worker() as worker:
            worker.greet(session, fd_of(cells), producer=producer).heard()
    assert daemon.memories() == 1


@sees_descriptors
def test_a_sessions_descriptors_are_closed_when_it_is_sealed(daemon: Daemon, cells: CounterFile) -> None:
    session = new_id()
    with daemon.owner(session) as owner, daemon.worker() as worker, daemon.worker() as gone:
        worker.greet(session, fd_of(cells)).heard()
        gone.greet(session, fd_of(cells)).heard()
        gone.close()
        assert daemon.memories() == 2
        owner.send(end={"exit_reason": "clean"})
        wait_until(lambda: daemon.is_sealed(session), "the seal")
        assert daemon.memories() == 0
        assert worker.heard() == []  # it is still there


@sees_descriptors
def test_a_hundred_sessions_leave_no_descriptor_in_the_daemon(cells: CounterFile) -> None:
    with Place() as place:  # local mode: no connection to an endpoint comes and goes
        daemon = Daemon(None, place)

        def run_a_session() -> None:
            session = new_id()
            with daemon.owner(session) as owner, daemon.worker() as one, daemon.worker() as two, daemon.worker() as bad:
                one.greet(session, fd_of(cells)).heard()
                two.greet(session, fd_of(cells), 0, 1).send(incr={"request_count": 1}, end={"exit_reason": "clean"})
                bad.greet(session, 0)
                one.close()
                owner.send(end={"exit_reason": "clean"})

        run_a_session()
        wait_until(lambda: not daemon.status()["sessions"], "the seal")
        before = daemon.descriptors()
        for _ in range(100):
            run_a_session()
        wait_until(lambda: not daemon.status()["sessions"], "the seals")
        # Connections of the first one may have been closing still.
        wait_until(lambda: daemon.descriptors() <= before, f"{before} descriptors")
