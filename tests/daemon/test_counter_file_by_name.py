"""A producer that cannot pass a descriptor names its counter file beside the socket. The daemon opens it by name."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_layout import SIZE

from tests.daemon.by_name import NamedCounterFile, Worker, name_beside
from tests.daemon.counting import fd_of, make_counter_file
from tests.harness import Place, Wire, end_process, join_once, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.daemon.counting import CountingDaemon, CountingWorker
    from tests.harness import Endpoint

ACCEPTED, REFUSED = [{"counter_file": 1}], [{"refused": {"reason": "bad_counter_file", "line": 1}}]

sees_descriptors = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/fd")


def hello(worker: CountingWorker, session: str | None, producer: str, **more: Any) -> CountingWorker:
    """Send the hello of a worker that counts in a file and passes no descriptor."""
    named = {} if session is None else {"session": session}
    return worker.send(hello={"protocol": 1, **named, "producer": producer, "sdk": "node", "counter_file": 1, **more})


class Named:
    """A producer and the counter file that it has named."""

    def __init__(self, daemon: CountingDaemon, session: str) -> None:
        self.producer = new_id()
        self.file = NamedCounterFile(name_beside(daemon.place.socket_path, self.producer), session)


@pytest.fixture
def named(daemon: CountingDaemon, session: str) -> Iterator[Named]:
    """Give a producer of the session that has named its counter file."""
    named = Named(daemon, session)
    with named.file:
        yield named


# --- a file that is taken -------------------------------------------------------------------------------------------


def test_a_named_counter_file_is_read_each_time_status_is_asked(
    daemon: CountingDaemon, session: str, named: Named
) -> None:
    named.file.count("request_count", 3)  # before the hello
    with daemon.worker() as worker:
        assert hello(worker, session, named.producer).replies() == ACCEPTED
        for total in (3, 7):
            named.file.count("request_count", total)
            assert daemon.fields(session)["request_count"] == total


def test_lines_and_named_file_of_one_producer_are_one_running_total(
    daemon: CountingDaemon, session: str, named: Named
) -> None:
    named.file.count("request_count", 5)
    with daemon.worker() as worker:
        hello(worker, session, named.producer).send(total={"request_count": 5, "query_count": 2}).replies()
        fields = daemon.fields(session)
    assert (fields["request_count"], fields["query_count"]) == (5, 2)


def test_a_worker_that_names_a_process_group_counts_in_a_named_file(daemon: CountingDaemon) -> None:
    group, producer = new_id(), new_id()
    with (
        NamedCounterFile(name_beside(daemon.place.socket_path, producer), group=group) as file,
        daemon.worker() as worker,
    ):
        file.count("request_count", 5)
        assert hello(worker, None, producer, group=group).replies() == ACCEPTED
        (opened,) = [found for found in daemon.status()["sessions"] if found["fields"]["request_count"] == 5]
        daemon.finish(opened["id"])


def test_a_producer_in_upper_case_has_a_file_whose_name_is_in_lower_case(
    daemon: CountingDaemon, session: str, named: Named
) -> None:
    named.file.count("request_count", 5)
    with daemon.worker() as worker:
        assert hello(worker, session, named.producer.upper()).replies() == ACCEPTED
    assert daemon.fields(session)["request_count"] == 5


def test_an_owner_may_count_in_a_named_file(daemon: CountingDaemon) -> None:
    session = new_id()
    named = Named(daemon, session)
    named.file.count("request_count", 5)
    with named.file, daemon.worker() as owner:
        assert hello(owner, session, named.producer, role="owner").replies() == ACCEPTED
        join_once(daemon.place.socket_path, session)
        assert daemon.finish(session)["request_count"] == 5
        assert not named.file.has_name


def test_a_descriptor_that_came_wins_over_the_name(daemon: CountingDaemon, session: str, named: Named) -> None:
    named.file.count("request_count", 1000)
    passed = make_counter_file(os.path.dirname(daemon.place.socket_path))
    passed.cells[counter_layout.COUNTER_CELLS["request_count"]] = 5
    with daemon.worker() as worker:
        assert worker.send_hello(session, fd_of(passed), producer=named.producer).replies() == ACCEPTED
        assert daemon.fields(session)["request_count"] == 5
    passed.close()


def test_a_named_file_that_is_truncated_later_lowers_no_reported_value(
    daemon: CountingDaemon, session: str, named: Named
) -> None:
    named.file.count("request_count", 3)
    with daemon.worker() as worker:
        hello(worker, session, named.producer).replies()
        assert daemon.fields(session)["request_count"] == 3
        os.ftruncate(named.file.fd, 0)
        assert worker.send(total={"request_count": 4}).replies() == []
    assert daemon.fields(session)["request_count"] == 4


# --- a producer that reconnects -------------------------------------------------------------------------------------


def test_a_producer_that_reconnects_with_its_named_file_is_counted_once(
    daemon: CountingDaemon, session: str, named: Named
) -> None:
    with ExitStack() as stack:
        for total in (3, 8, 9):
            named.file.count("request_count", total)
            worker = stack.enter_context(daemon.worker())
            assert hello(worker, session, named.producer).replies() == ACCEPTED
            assert daemon.fields(session)["request_count"] == total
            assert named.file.has_name


@sees_descriptors
def test_a_named_file_is_one_descriptor_however_often_its_producer_reconnects(
    daemon: CountingDaemon, session: str, named: Named
) -> None:
    for _ in range(5):
        with daemon.worker() as worker:
            hello(worker, session, named.producer).replies()
    assert daemon.counter_files() == 1


# --- a file that is not taken ---------------------------------------------------------------------------------------


class Laid:
    """What lies at the name of a producer, and what is behind it. The daemon must leave both as they are."""

    def __init__(self, daemon: CountingDaemon, session: str) -> None:
        self.socket_path, self.session, self.producer = daemon.place.socket_path, session, new_id()
        self.path = name_beside(self.socket_path, self.producer)
        self.elsewhere = os.path.join(daemon.place.root, new_id())

    def good_file_at(self, path: str, session: str | None = None, **more: Any) -> None:
        """Make a file that would be taken if it were at the producer's name, and named the session."""
        file = NamedCounterFile(path, session or self.session, **more)
        file.count("request_count", 1000)
        os.fchmod(file.fd, 0o600)  # so that a test can spoil it
        file.close()


def nothing(_laid: Laid) -> None:
    pass


def a_file_in_upper_case(laid: Laid) -> None:
    laid.good_file_at(name_beside(laid.socket_path, laid.producer.upper()))


def a_link_to_a_counter_file(laid: Laid) -> None:
    laid.good_file_at(laid.elsewhere)
    os.symlink(laid.elsewhere, laid.path)


def a_link_to_nothing(laid: Laid) -> None:
    os.symlink(laid.elsewhere, laid.path)


def a_hard_link_of_a_counter_file(laid: Laid) -> None:
    laid.good_file_at(laid.elsewhere)
    os.link(laid.elsewhere, laid.path)


def a_pipe(laid: Laid) -> None:
    os.mkfifo(laid.path, 0o600)


def a_directory(laid: Laid) -> None:
    os.mkdir(laid.path, 0o700)


def a_socket(laid: Laid) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(laid.path)


def an_empty_file(laid: Laid) -> None:
    laid.good_file_at(laid.path)
    os.truncate(laid.path, 0)


def a_file_that_is_one_byte_too_short(laid: Laid) -> None:
    laid.good_file_at(laid.path)
    os.truncate(laid.path, SIZE - 1)


def a_file_that_is_one_byte_too_long(laid: Laid) -> None:
    laid.good_file_at(laid.path)
    os.truncate(laid.path, SIZE + 1)


def a_file_of_another_program(laid: Laid) -> None:
    laid.good_file_at(laid.path)
    with open(laid.path, "r+b") as file:
        file.write(b"SQLite format 3\0")


def a_file_of_another_session(laid: Laid) -> None:
    laid.good_file_at(laid.path, new_id())


def a_file_of_a_group_with_the_sessions_id(laid: Laid) -> None:
    file = NamedCounterFile(laid.path, group=laid.session)
    file.close()


def a_file_of_no_session(laid: Laid) -> None:
    file = NamedCounterFile(laid.path)
    file.close()


BAD: list[Callable[[Laid], None]] = [
    nothing,
    a_link_to_a_counter_file,
    a_link_to_nothing,
    a_hard_link_of_a_counter_file,
    a_pipe,
    a_directory,
    a_socket,
    an_empty_file,
    a_file_that_is_one_byte_too_short,
    a_file_that_is_one_byte_too_long,
    a_file_of_another_program,
    a_file_of_another_session,
    a_file_of_a_group_with_the_sessions_id,
    a_file_of_no_session,
]
if sys.platform == "linux":  # macOS' usual filesystem finds the file by either spelling
    BAD.append(a_file_in_upper_case)


def content_of(path: str) -> Any:
    """Return what lies at a path, to be compared: its type, and the bytes of a file."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return None
    if not os.path.isfile(path):
        return info.st_mode
    with open(path, "rb") as file:
        return info.st_mode, file.read()


@pytest.mark.parametrize("lay", BAD)
def test_what_is_not_the_producers_counter_file_is_refused_and_the_lines_count(
    daemon: CountingDaemon, session: str, lay: Callable[[Laid], None]
) -> None:
    laid = Laid(daemon, session)
    lay(laid)
    content, behind, before = content_of(laid.path), content_of(laid.elsewhere), daemon.refused()
    with daemon.worker() as worker:
        hello(worker, session, laid.producer)
        worker.send(incr={"request_count": 2}, total={"query_count": 3}).send(end={"exit_reason": "clean"})
        assert worker.replies() == REFUSED
    fields = daemon.fields(session)
    assert (fields["request_count"], fields["query_count"]) == (2, 3)
    assert daemon.refused() - before == Counter(bad_counter_file=1)
    assert (content_of(laid.path), content_of(laid.elsewhere)) == (content, behind)


@sees_descriptors
@pytest.mark.parametrize("lay", [a_pipe, an_empty_file, a_hard_link_of_a_counter_file, a_file_of_another_session])
def test_a_file_that_is_refused_is_closed(daemon: CountingDaemon, session: str, lay: Callable[[Laid], None]) -> None:
    laid = Laid(daemon, session)
    lay(laid)
    refused = os.stat(laid.path)
    with daemon.worker() as worker:
        assert hello(worker, session, laid.producer).replies() == REFUSED
        assert daemon.descriptors(only=lambda info: os.path.samestat(info, refused)) == 0


def test_the_file_of_a_group_is_refused_to_another_group(daemon: CountingDaemon) -> None:
    producer = new_id()
    group = new_id()
    with (
        NamedCounterFile(name_beside(daemon.place.socket_path, producer), group=new_id()) as file,
        daemon.worker() as worker,
    ):
        assert hello(worker, None, producer, group=group).replies() == REFUSED
        assert not file.is_retired


@pytest.mark.parametrize("producer", ["../elsewhere", "..", "", "/tmp/x", "{}\n", "{}/", "{}\0", "x" * 36])
def test_a_producer_that_is_not_a_uuid_names_no_file(daemon: CountingDaemon, session: str, producer: str) -> None:
    before = daemon.refused()
    with daemon.worker() as worker:
        hello(worker, session, producer.format(new_id()))
        assert [line["refused"]["reason"] for line in worker.lines()] == ["bad_hello"]
    assert daemon.refused() - before == Counter(bad_hello=1)


@pytest.mark.parametrize("version", [None, 0, 2, True, 1.0, "1", [1]])
def test_a_named_file_of_an_unknown_layout_is_neither_taken_nor_refused(
    daemon: CountingDaemon, session: str, named: Named, version: Any
) -> None:
    named.file.count("request_count", 5)
    before = daemon.refused()
    with daemon.worker() as worker:
        hello(worker, session, named.producer, counter_file=version)
        assert worker.send(incr={"request_count": 1}).replies() == []
    assert daemon.fields(session)["request_count"] == 1
    assert daemon.refused() == before


def test_a_hello_without_a_session_opens_no_file(daemon: CountingDaemon, named: Named) -> None:
    before = daemon.refused()
    for producer in (named.producer, new_id()):
        with daemon.worker() as worker:
            assert hello(worker, None, producer).replies() == []
    assert daemon.refused() == before
    assert named.file.has_name


# --- the file of another producer -----------------------------------------------------------------------------------


def test_another_sessions_file_is_neither_counted_nor_retired(
    daemon: CountingDaemon, session: str, named: Named
) -> None:
    other = new_id()
    with daemon.worker() as worker, daemon.worker() as impostor:
        hello(worker, session, named.producer).replies()
        named.file.count("request_count", 5)
        assert hello(impostor, other, named.producer).replies() == REFUSED
        assert daemon.finish(other)["request_count"] == 0
        assert daemon.fields(session)["request_count"] == 5
    assert named.file.has_name
    assert not named.file.is_retired


def test_a_hello_to_an_ended_session_does_not_retire_the_file_of_an_open_one(
    daemon: CountingDaemon, session: str, named: Named
) -> None:
    ended = new_id()
    join_once(daemon.place.socket_path, ended)
    daemon.finish(ended)
    with daemon.worker() as worker, daemon.worker() as impostor:
        hello(worker, session, named.producer).replies()
        assert hello(impostor, ended, named.producer).replies() == REFUSED
        named.file.count("request_count", 5)
        assert daemon.fields(session)["request_count"] == 5
    assert named.file.has_name
    assert not named.file.is_retired


# --- the end of a session -------------------------------------------------------------------------------------------


def test_a_named_file_is_marked_and_its_name_is_removed_when_its_session_is_sealed(daemon: CountingDaemon) -> None:
    session = new_id()
    named = Named(daemon, session)
    with named.file, daemon.worker() as worker:
        hello(worker, session, named.producer).replies()
        named.file.count("request_count", 57)
        assert daemon.finish(session)["request_count"] == 57
        assert named.file.is_retired
        assert not named.file.has_name


def test_a_named_file_of_an_ended_session_is_marked_and_its_name_is_removed(daemon: CountingDaemon) -> None:
    session = new_id()
    join_once(daemon.place.socket_path, session)
    daemon.finish(session)
    named = Named(daemon, session)
    with named.file, daemon.worker() as worker:
        assert hello(worker, session, named.producer).replies() == []
        assert named.file.is_retired
        assert not named.file.has_name
    assert daemon.is_sealed(session)


# --- kills ----------------------------------------------------------------------------------------------------------


def producers_of(place: Place, session: str) -> dict[str, int]:
    """Return how many producers of the session are live, and how many are gone."""
    (found,) = [found["producers"] for found in place.status()["sessions"] if found["id"] == session]
    return dict(found)


def finish(place: Place, session: str) -> None:
    with Wire(place.socket_path).hello(session, role="owner") as owner:
        owner.send(end={"exit_reason": "clean"}).sync()


def test_counts_of_a_producer_that_is_killed_are_exact(place: Place, endpoint: Endpoint) -> None:
    place.serve()
    session = new_id()
    worker = Worker(place.socket_path, session, new_id())
    worker.connect()
    worker.count_and_die(2600)
    finish(place, session)
    assert endpoint.session_of(session)["request_count"] == 2600


def test_counts_are_exact_if_the_daemon_is_killed_and_the_producer_reconnects(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    worker = Worker(place.socket_path, session, new_id())
    worker.connect()
    worker.count(3)
    end_process(served, signal.SIGKILL)
    worker.count(7)
    place.serve()
    worker.connect()
    worker.count(9)
    worker.end()
    finish(place, session)
    assert endpoint.session_of(session)["request_count"] == 9


def test_counts_are_exact_if_daemon_and_producer_are_killed(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    worker = Worker(place.socket_path, session, new_id())
    worker.connect()
    end_process(served, signal.SIGKILL)
    worker.count_and_die(7)
    place.serve()
    finish(place, session)
    assert endpoint.session_of(session)["request_count"] == 7


def test_a_file_that_no_daemon_has_seen_counts_after_its_producer_died(place: Place, endpoint: Endpoint) -> None:
    end_process(place.serve(), signal.SIGKILL)
    session = new_id()
    Worker(place.socket_path, session, new_id()).count_and_die(7)
    place.serve(grace_s=0.5)
    ended = endpoint.session_of(session)
    assert (ended["request_count"], ended["exit_reason"]) == (7, "crash")


@sees_descriptors
def test_a_session_waits_for_a_process_that_has_its_file_open(place: Place, endpoint: Endpoint) -> None:
    served, session = place.serve(), new_id()
    worker = Worker(place.socket_path, session, new_id())
    worker.connect()
    worker.count(3)
    end_process(served, signal.SIGKILL)
    place.serve(grace_s=0.5)
    assert producers_of(place, session) == {"live": 1, "gone": 0}
    worker.count(7)
    worker.end()
    assert endpoint.session_of(session)["request_count"] == 7


@sees_descriptors
def test_a_process_that_has_closed_its_file_is_not_waited_for(place: Place, endpoint: Endpoint) -> None:
    """As a thread of Node that ended: its process lives on, and the file is closed."""
    served, session, producer = place.serve(), new_id(), new_id()
    with NamedCounterFile(name_beside(place.socket_path, producer), session) as file:
        file.count("request_count", 3)
        end_process(served, signal.SIGKILL)
    place.serve(grace_s=0.5)
    assert endpoint.session_of(session)["request_count"] == 3


# --- few descriptors ------------------------------------------------------------------------------------------------


@sees_descriptors
def test_named_files_of_more_producers_than_descriptors_are_all_read(place: Place, endpoint: Endpoint) -> None:
    session, many, descriptors = new_id(), 100, 64
    command = f'ulimit -n {descriptors}; exec "$0" -m brakit_sidecar serve'
    with place.popen("sh", "-c", command, sys.executable) as served, ExitStack() as stack:
        stack.callback(end_process, served)
        wait_until(place.accepts, "a daemon that accepts")
        for _ in range(many):
            producer = new_id()
            file = stack.enter_context(NamedCounterFile(name_beside(place.socket_path, producer), session))
            wire = stack.enter_context(Wire(place.socket_path))
            wire.send(hello={"protocol": 1, "session": session, "producer": producer, "counter_file": 1})
            assert next(wire.lines()) == {"counter_file": 1}
            file.count("request_count", 3)
        finish(place, session)
        assert endpoint.session_of(session)["request_count"] == 3 * many
