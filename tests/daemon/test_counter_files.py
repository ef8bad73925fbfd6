"""Counter files as the daemon reads them: descriptors from other processes, whose content it does not trust."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, SIZE
from brakit_sidecar.host import paths

from tests.daemon.counting import CountingDaemon, fd_of, make_counter_file
from tests.harness import Place, join_once, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brakit_sidecar.client.counter_file import CounterFile

COUNT_MAX = 9_007_199_254_740_991
ROUTE, OTHER_ROUTE = "9f3a61c2d4e5b607", "00000000000000aa"
ACCEPTED, REFUSED = [{"counter_file": 1}], [{"refused": {"reason": "bad_counter_file", "line": 1}}]

sees_descriptors = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/fd")


@pytest.fixture
def cells(daemon: CountingDaemon) -> Iterator[CounterFile]:
    """Make a counter file as workers make it."""
    yield from _make_counter_file(daemon)


@pytest.fixture
def other_cells(daemon: CountingDaemon) -> Iterator[CounterFile]:
    """Make a second counter file."""
    yield from _make_counter_file(daemon)


def _make_counter_file(daemon: CountingDaemon) -> Iterator[CounterFile]:
    made = make_counter_file(os.path.dirname(daemon.place.socket_path))
    yield made
    made.close()


def set_count(made: CounterFile, field: str, count: int) -> None:
    made.cells[COUNTER_CELLS[field]] = count


def observe(made: CounterFile, route: str, times: int) -> None:
    row = made.row(route)
    made.cells[row + 1] += 5_000_000 * times
    made.cells[row + 2] += times


# --- when a counter file is read ------------------------------------------------------------------------------


def test_a_counter_file_is_read_each_time_status_is_asked(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    with daemon.worker() as worker:
        assert worker.send_hello(session, fd_of(cells)).replies() == ACCEPTED
        for count in (1, 7):
            set_count(cells, "request_count", count)
            observe(cells, ROUTE, count)
            assert daemon.fields(session)["request_count"] == count
            assert daemon.fields(session)["avg_duration_ms"] == 5


def test_counts_from_before_the_hello_are_included(daemon: CountingDaemon, session: str, cells: CounterFile) -> None:
    set_count(cells, "query_count", 3)
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        assert daemon.fields(session)["query_count"] == 3


def test_counts_of_a_worker_that_sends_no_more_lines_are_in_the_event(
    daemon: CountingDaemon, cells: CounterFile
) -> None:
    session = new_id()
    with daemon.owner(session), daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        set_count(cells, "request_count", 57)
        observe(cells, ROUTE, 2)
        ended = daemon.finish(session)
    assert (ended["request_count"], ended["endpoint_count"]) == (57, 1)


def test_the_counter_file_of_a_disconnected_worker_is_still_read(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    """Another process may still have it mapped: a forked child that has not counted yet."""
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
    set_count(cells, "request_count", 4)
    assert daemon.fields(session)["request_count"] == 4


def test_lines_and_counter_file_of_one_producer_are_one_running_total(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    set_count(cells, "request_count", 5)
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).send(total={"request_count": 5, "query_count": 2}).replies()
        assert daemon.fields(session)["request_count"] == 5
        assert daemon.fields(session)["query_count"] == 2


def test_the_counter_files_of_two_producers_are_summed(
    daemon: CountingDaemon, session: str, cells: CounterFile, other_cells: CounterFile
) -> None:
    set_count(cells, "request_count", 5)
    set_count(other_cells, "request_count", 7)
    observe(cells, ROUTE, 1)
    observe(other_cells, ROUTE, 1)
    with daemon.worker() as worker, daemon.worker() as other:
        worker.send_hello(session, fd_of(cells)).replies()
        other.send_hello(session, fd_of(other_cells)).replies()
        fields = daemon.fields(session)
    assert (fields["request_count"], fields["endpoint_count"]) == (12, 1)


# --- a producer that reconnects -------------------------------------------------------------------------------


def test_a_producer_that_reconnects_with_its_counter_file_is_counted_once(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    producer = new_id()
    for count in (3, 8):
        set_count(cells, "request_count", count)
        with daemon.worker() as worker:
            assert worker.send_hello(session, fd_of(cells), producer=producer).replies() == ACCEPTED
    assert daemon.fields(session)["request_count"] == 8


def test_a_producer_that_reconnects_with_another_counter_file_keeps_its_counts(
    daemon: CountingDaemon, session: str, cells: CounterFile, other_cells: CounterFile
) -> None:
    producer = new_id()
    with daemon.worker() as worker, daemon.worker() as reconnected:
        worker.send_hello(session, fd_of(cells), producer=producer).replies()
        set_count(cells, "request_count", 8)
        set_count(other_cells, "request_count", 2)
        reconnected.send_hello(session, fd_of(other_cells), producer=producer).replies()
        assert daemon.fields(session)["request_count"] == 8
        set_count(other_cells, "request_count", 9)
        assert daemon.fields(session)["request_count"] == 9


# --- descriptors that are not counter files ---------------------------------------------------------------------


def a_file(size: int, content: bytes = b"", flags: int = os.O_RDWR) -> int:
    fd, path = tempfile.mkstemp(prefix="bs-")
    os.write(fd, content)
    os.ftruncate(fd, size)
    reopened = os.open(path, flags)
    os.close(fd)
    os.unlink(path)
    return reopened


def a_pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


MAGIC = counter_layout.MAGIC.to_bytes(8, sys.byteorder)
BAD: dict[str, Callable[[], int]] = {
    "an empty file": lambda: a_file(0),
    "a file that is one byte too short": lambda: a_file(SIZE - 1, MAGIC),
    "a file that is one byte too long": lambda: a_file(SIZE + 1, MAGIC),
    "a huge file": lambda: a_file(2**40, MAGIC),
    "a pipe": a_pipe,
    "a directory": lambda: os.open("/", os.O_RDONLY),
    "a socket": lambda: socket.socket(socket.AF_UNIX).detach(),
    "a device": lambda: os.open("/dev/zero", os.O_RDWR),
    "a file of zeros": lambda: a_file(SIZE),
    "a file of the other byte order": lambda: a_file(SIZE, MAGIC[::-1]),
    "a file of another program": lambda: a_file(SIZE, b"SQLite format 3\0"),
    "a file that is only a handle": lambda: a_file(SIZE, MAGIC, getattr(os, "O_PATH", os.O_WRONLY)),
    "a file that cannot be read": lambda: a_file(SIZE, MAGIC, os.O_WRONLY),
}


@pytest.fixture(params=BAD.values(), ids=[*BAD])
def bad_fd(request: pytest.FixtureRequest) -> Iterator[int]:
    fd = request.param()
    yield fd
    os.close(fd)


def test_a_descriptor_that_is_not_a_counter_file_is_refused_and_the_lines_count(
    daemon: CountingDaemon, session: str, bad_fd: int
) -> None:
    before = daemon.refused()
    with daemon.worker() as worker:
        worker.send_hello(session, bad_fd)
        worker.send(incr={"request_count": 2}, total={"query_count": 3})
        worker.send(end={"exit_reason": "clean"})
        assert worker.replies() == REFUSED
    fields = daemon.fields(session)
    assert (fields["request_count"], fields["query_count"], fields["endpoint_count"]) == (2, 3, 0)
    assert daemon.refused() - before == Counter(bad_counter_file=1)


def test_a_producer_may_reconnect_with_its_counter_file_after_a_refusal(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    producer, foreign = new_id(), a_file(SIZE)
    set_count(cells, "request_count", 5)
    with daemon.worker() as worker:
        assert worker.send_hello(session, foreign, producer=producer).replies() == REFUSED
    with daemon.worker() as worker:
        assert worker.send_hello(session, fd_of(cells), producer=producer).replies() == ACCEPTED
        assert daemon.fields(session)["request_count"] == 5
    os.close(foreign)


def test_a_producer_that_reconnects_with_a_bad_descriptor_keeps_its_counter_file(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    producer, foreign = new_id(), a_file(SIZE)
    with daemon.worker() as worker, daemon.worker() as reconnected:
        worker.send_hello(session, fd_of(cells), producer=producer).replies()
        assert reconnected.send_hello(session, foreign, producer=producer).replies() == REFUSED
        set_count(cells, "request_count", 5)
        assert daemon.fields(session)["request_count"] == 5
    os.close(foreign)


# --- a counter file that is spoilt after it was accepted --------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [0, 1, 100, counter_layout.CELL * counter_layout.FIRST_ROW, counter_layout.CELL * counter_layout.row_cell(2) - 1],
)
def test_a_counter_file_that_is_truncated_later_lowers_no_reported_value(
    daemon: CountingDaemon, session: str, cells: CounterFile, size: int
) -> None:
    fd = os.dup(fd_of(cells))
    with daemon.worker() as worker:
        worker.send_hello(session, fd).replies()
        set_count(cells, "request_count", 3)
        observe(cells, ROUTE, 3)
        assert daemon.fields(session)["request_count"] == 3
        cells.close()  # unmapped, because to touch a truncated page would kill this process
        os.ftruncate(fd, size)
        worker.send(incr={"query_count": 2}, total={"request_count": 4}).replies()
        fields = daemon.fields(session)
    assert (fields["request_count"], fields["query_count"], fields["endpoint_count"]) == (4, 2, 1)
    os.close(fd)


def test_a_counter_file_whose_magic_is_overwritten_lowers_no_reported_value(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        set_count(cells, "request_count", 3)
        assert daemon.fields(session)["request_count"] == 3
        cells.cells[0] = 0
        set_count(cells, "request_count", 9)
        assert daemon.fields(session)["request_count"] == 3


TEXT = b"passwd: a text of the application\n" * 20


@sees_descriptors
def test_a_counter_file_that_an_application_printed_into_is_never_read_again(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    producer = new_id()
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells), producer=producer).replies()
        set_count(cells, "request_count", 3)
        assert daemon.fields(session)["request_count"] == 3
        os.write(fd_of(cells), TEXT)
        fields = daemon.fields(session)
        assert (fields["request_count"], fields["query_count"], fields["endpoint_count"]) == (3, 0, 0)
        assert daemon.counter_files() == 0
        assert not os.path.lexists(paths.counter_file_path(daemon.place.socket_path, producer))
        cells.cells[0] = counter_layout.MAGIC
        assert daemon.fields(session)["request_count"] == 3


def test_a_worker_whose_counter_file_was_dropped_is_counted_by_its_lines(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        set_count(cells, "request_count", 3)
        daemon.fields(session)
        os.write(fd_of(cells), TEXT)
        daemon.fields(session)
        worker.send(total={"request_count": 5}, incr={"query_count": 1}).replies()
        fields = daemon.fields(session)
        assert (fields["request_count"], fields["query_count"]) == (5, 1)


def test_cells_that_decrease_lower_no_reported_value(daemon: CountingDaemon, session: str, cells: CounterFile) -> None:
    reported = []
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        for count in (10, 3, 0, 12):
            set_count(cells, "request_count", count)
            reported.append(daemon.fields(session)["request_count"])
    assert reported == [10, 10, 10, 12]


def test_rows_that_decrease_lower_no_reported_value(daemon: CountingDaemon, session: str, cells: CounterFile) -> None:
    observe(cells, ROUTE, 4)
    observe(cells, OTHER_ROUTE, 1)
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        before = daemon.fields(session)
        row = counter_layout.row_cell(1)
        cells.cells[row + 1 : row + counter_layout.ROW] = memoryview(array("Q", [0] * (counter_layout.ROW - 1)))
        cells.cells[counter_layout.USED_ROWS] = 0
        after = daemon.fields(session)
    assert (before["endpoint_count"], before["avg_duration_ms"]) == (2, 5)
    assert (after["endpoint_count"], after["avg_duration_ms"]) == (2, 5)


def test_absurd_cells_are_reported_within_bounds(daemon: CountingDaemon, session: str, cells: CounterFile) -> None:
    absurd = array("Q", [2**64 - 1] * (SIZE // counter_layout.CELL - 1))
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        cells.cells[1:] = memoryview(absurd)
        worker.send(incr={"request_count": 1}).replies()
        fields = daemon.fields(session)
    assert {fields[field] for field in COUNTER_CELLS} == {COUNT_MAX}
    assert fields["endpoint_count"] == 1
    assert 0 <= fields["avg_duration_ms"] <= 86_400_000


def test_absurd_cells_do_not_affect_another_session(
    daemon: CountingDaemon, session: str, cells: CounterFile, other_cells: CounterFile
) -> None:
    with daemon.worker() as worker, daemon.worker() as other, daemon.owner(new_id()):
        worker.send_hello(session, fd_of(cells)).replies()
        other_session = new_id()
        other.send_hello(other_session, fd_of(other_cells)).replies()
        cells.cells[1:] = memoryview(array("Q", [2**64 - 1] * (SIZE // counter_layout.CELL - 1)))
        set_count(other_cells, "request_count", 6)
        daemon.fields(session)
        fields = daemon.fields(other_session)
    daemon.finish(other_session)
    assert (fields["request_count"], fields["endpoint_count"]) == (6, 0)


def test_the_number_of_routes_is_bounded_if_their_ids_change_all_the_time(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    row = cells.row(ROUTE)
    for number in range(1, 1 + counter_layout.MAX_ROUTES):
        observe(cells, f"{number:016x}", 1)
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        for turn in range(8):
            for number in range(counter_layout.MAX_ROUTES):
                cells.cells[row + counter_layout.ROW * number] = turn * 10_000 + number + 1
            routes = daemon.fields(session)["endpoint_count"]
    assert counter_layout.MAX_ROUTES < routes <= 4096


# --- how a counter file is passed -----------------------------------------------------------------------------


def test_the_first_of_several_descriptors_is_the_counter_file(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    set_count(cells, "request_count", 5)
    more_fds = [a_file(SIZE, MAGIC), a_pipe(), os.dup(0)]
    before = daemon.refused()
    for number in (1, 2, 3):
        with daemon.worker() as worker:
            assert worker.send_hello(session, fd_of(cells), *more_fds[:number]).replies() == ACCEPTED
    assert daemon.fields(session)["request_count"] == 15
    assert daemon.refused() == before
    for fd in more_fds:
        os.close(fd)


def test_a_descriptor_with_a_later_line_is_ignored(
    daemon: CountingDaemon, session: str, cells: CounterFile, other_cells: CounterFile
) -> None:
    set_count(other_cells, "request_count", 1000)
    before = daemon.refused()
    with daemon.worker() as worker:
        worker.send_hello(session, fd_of(cells)).replies()
        worker.write_with(b'{"incr":{"query_count":1}}\n', fd_of(other_cells))
        worker.write_with(b'{"incr":{"query_count":1},"set":{"framework":"flask"}}\n', fd_of(other_cells))
        set_count(cells, "request_count", 5)
        assert worker.replies() == []
        fields = daemon.fields(session)
    assert (fields["request_count"], fields["query_count"], fields["framework"]) == (5, 2, "flask")
    assert daemon.refused() == before


def test_a_hello_in_pieces_passes_its_counter_file_with_the_first_piece(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    set_count(cells, "request_count", 5)
    hello = json.dumps({"hello": {"protocol": 1, "session": session, "producer": new_id(), "counter_file": 1}}).encode()
    with daemon.worker() as worker:
        worker.write_with(hello[:1], fd_of(cells))
        worker.write(hello[1:20]).write(hello[20:] + b"\n")
        assert worker.replies() == ACCEPTED
    assert daemon.fields(session)["request_count"] == 5


@pytest.mark.parametrize("version", [None, 0, 2, True, 1.0, "1", [1]])
def test_a_counter_file_of_an_unknown_layout_is_not_accepted(
    daemon: CountingDaemon, session: str, cells: CounterFile, version: Any
) -> None:
    set_count(cells, "request_count", 5)
    before = daemon.refused()
    with daemon.worker() as worker:
        assert (
            worker.send_hello(session, fd_of(cells), counter_file=version).send(incr={"request_count": 1}).replies()
            == []
        )
    assert daemon.fields(session)["request_count"] == 1
    assert daemon.refused() == before


def test_a_counter_file_for_an_ended_session_is_not_accepted(daemon: CountingDaemon, cells: CounterFile) -> None:
    session = new_id()
    join_once(daemon.place.socket_path, session)
    assert daemon.finish(session)["request_count"] == 0
    set_count(cells, "request_count", 5)
    with daemon.worker() as worker:
        assert worker.send_hello(session, fd_of(cells)).replies() == []
    assert daemon.is_sealed(session)


# --- descriptors ----------------------------------------------------------------------------------------------


HELLO = {"protocol": 1, "producer": new_id(), "counter_file": 1}
INCOMPLETE: dict[str, bytes] = {
    "a hello that is cut off": b"{",
    "a line that is not a hello": b'{"incr":{"request_count":1}}\n',
    "a line that is not JSON": b"nonsense\n",
    "a hello with a bad producer": json.dumps({"hello": {**HELLO, "producer": "me", "session": new_id()}}).encode()
    + b"\n",
    "a hello of another protocol": json.dumps({"hello": {**HELLO, "protocol": 2}}).encode() + b"\n",
    "a hello without a session": json.dumps({"hello": HELLO}).encode() + b"\n",
    "a line that is too long": b"x" * 65_536,
}


@sees_descriptors
@pytest.mark.parametrize("line", INCOMPLETE.values(), ids=INCOMPLETE)
def test_descriptors_passed_without_a_good_hello_are_closed(
    daemon: CountingDaemon, cells: CounterFile, line: bytes
) -> None:
    fd = fd_of(cells)
    for _ in range(3):
        with daemon.worker() as worker:
            worker.write_with(line[:1], fd, fd).write_with(line[1:] or b" ", fd)
            worker.stream.shutdown(socket.SHUT_WR)
            assert not [line for line in worker.lines() if "counter_file" in line]
    daemon.status()  # when this is answered, the closed connections have released their descriptors
    assert daemon.counter_files() == 0


@sees_descriptors
def test_a_descriptor_that_is_refused_or_too_late_is_closed_at_once(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    foreign = a_file(SIZE)
    with daemon.worker() as worker, daemon.worker() as late:
        assert worker.send_hello(session, foreign, fd_of(cells)).replies() == REFUSED
        assert (
            late.send_hello(session, counter_file=None)
            .write_with(b'{"incr":{"request_count":1}}\n', fd_of(cells))
            .replies()
            == []
        )
        assert daemon.counter_files() == 0
    os.close(foreign)


@sees_descriptors
def test_a_counter_file_is_one_descriptor_however_often_its_producer_reconnects(
    daemon: CountingDaemon, session: str, cells: CounterFile
) -> None:
    producer = new_id()
    for _ in range(5):
        with daemon.worker() as worker:
            worker.send_hello(session, fd_of(cells), producer=producer).replies()
    assert daemon.counter_files() == 1


@sees_descriptors
def test_a_sessions_descriptors_are_closed_when_it_is_sealed(daemon: CountingDaemon, cells: CounterFile) -> None:
    session = new_id()
    with daemon.owner(session) as owner, daemon.worker() as worker, daemon.worker() as disconnected:
        worker.send_hello(session, fd_of(cells)).replies()
        disconnected.send_hello(session, fd_of(cells)).replies()
        disconnected.close()
        assert daemon.counter_files() == 2
        owner.send(end={"exit_reason": "clean"})
        wait_until(lambda: daemon.is_sealed(session), "the seal")
        assert daemon.counter_files() == 0
        assert worker.replies() == []  # it is still connected


@sees_descriptors
def test_a_hundred_sessions_leave_no_descriptor_open_in_the_daemon(cells: CounterFile) -> None:
    with Place() as place:  # local mode, because a connection to an endpoint is a descriptor as well
        daemon = CountingDaemon(None, place)

        def run_a_session() -> None:
            session = new_id()
            with (
                daemon.owner(session) as owner,
                daemon.worker() as first,
                daemon.worker() as second,
                daemon.worker() as bad,
            ):
                first.send_hello(session, fd_of(cells)).replies()
                second.send_hello(session, fd_of(cells), 0, 1).send(
                    incr={"request_count": 1}, end={"exit_reason": "clean"}
                )
                bad.send_hello(session, 0)
                first.close()
                owner.send(end={"exit_reason": "clean"})

        run_a_session()
        wait_until(lambda: not daemon.status()["sessions"], "the seal")
        before = daemon.descriptors()
        for _ in range(100):
            run_a_session()
        wait_until(lambda: not daemon.status()["sessions"], "the seals")
        # Fewer are possible, because some connections of the first session may have been open when we counted.
        wait_until(lambda: daemon.descriptors() <= before, f"{before} descriptors")
