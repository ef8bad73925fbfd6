"""The listener, its connections and the pressure of descriptors, with a book that lets every hello join."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from brakit_sidecar.daemon import intake as module
from brakit_sidecar.daemon.intake import Intake
from brakit_sidecar.host import launch

from tests.daemon.recording_book import RecordingBook
from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import TaskGroup
    from brakit_sidecar.core.session.member import Member

pytestmark = pytest.mark.anyio


class EvictingBook(RecordingBook):
    """A book that also implements Evictor."""

    def __init__(self) -> None:
        super().__init__()
        self.evictable: set[str] = set()  # by producer
        self.released = 0

    def release_descriptors(self) -> None:
        self.released += 1

    def may_evict(self, member: Member) -> bool:
        return member.producer in self.evictable


class Listening:
    """An intake in a directory of its own, whose descriptors the test counts."""

    def __init__(self, directory: Path, tasks: TaskGroup) -> None:
        self.directory, self.path = str(directory), str(directory / "s")
        self.book = EvictingBook()
        self.wakes: list[None] = []
        self.tasks = tasks
        self.intake = Intake(
            launch.listen(self.path), self.path, tasks, lambda: self.wakes.append(None), is_inherited=False
        )
        self.intake.connect(self.book, self.book)
        self.clients: list[socket.socket] = []

    def client(self, *lines: dict[str, Any]) -> socket.socket:
        """Connect, and write lines without waiting."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        client.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self.clients.append(client)
        return client

    def worker(self, number: int) -> str:
        """Connect a worker that reports a number. Returns its producer id."""
        producer = new_id()
        hello = {"protocol": 1, "session": new_id(), "producer": producer}
        self.client({"hello": hello}, {"total": {"request_count": number}})
        return producer

    def allow(self, connections: int) -> None:
        """Let descriptors be short while ``connections`` connections are open."""

        def is_short() -> bool:
            return sum(not connection.protocol.is_closing for connection in self.intake.connections) >= connections

        setattr(self.intake, "is_short_of_descriptors", is_short)  # noqa: B010 (mypy rejects an assignment to a method)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def listening(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Listening]:
    directory = tmp_path_factory.mktemp("i")
    async with anyio.create_task_group() as tasks:
        listening = Listening(directory, tasks)
        yield listening
        for client in listening.clients:
            client.close()
        for connection in list(listening.intake.connections):
            connection.close()
        tasks.cancel_scope.cancel()
    listening.intake._listening.close()


async def test_a_drain_accepts_every_pending_connection_and_reads_it(listening: Listening) -> None:
    for number in range(1, 41):
        listening.worker(number)
    assert listening.intake.drain()
    assert sorted(listening.book.totals) == [*range(1, 41)]
    assert len(listening.intake.connections) == 40


async def test_an_accept_is_bounded(listening: Listening) -> None:
    for number in range(1, 6):
        listening.worker(number)
    assert len(listening.intake.accept(3)) == 3
    assert len(listening.intake.accept(3)) == 2
    assert listening.intake.accept(3) == []


async def test_a_connection_waits_if_descriptors_are_short_and_no_descriptor_can_be_freed(listening: Listening) -> None:
    for number in (1, 2, 3):
        listening.worker(number)
    two_lowest_free = os.dup(0), os.dup(0)  # another test may have left a gap between them
    for number in two_lowest_free:
        os.close(number)
    listening.intake._limit = max(two_lowest_free) + 1 + module.RESERVE
    assert not listening.intake.drain()
    assert sorted(listening.book.totals) == [1, 2]
    assert listening.book.released


async def test_the_oldest_connections_that_lose_nothing_are_closed_to_make_room(listening: Listening) -> None:
    listening.allow(2)
    first, second = listening.worker(1), listening.worker(2)
    listening.intake.drain()
    listening.book.evictable = {first, second}
    listening.worker(3)
    assert listening.intake.drain()
    assert sorted(listening.book.totals) == [1, 2, 3]
    assert listening.book.closed_as == {first: True}


async def test_an_evicted_connection_is_read_first(listening: Listening) -> None:
    listening.allow(1)
    first = listening.worker(1)
    listening.intake.accept()
    listening.book.evictable = {first}
    for connection in listening.intake.connections:
        connection.drain()
    listening.clients[0].sendall(b'{"total":{"request_count":9}}\n')
    listening.worker(2)
    assert listening.intake.drain()
    assert listening.book.totals == [1, 9, 2]


async def test_expendable_members_are_closed_to_make_room_at_the_end_of_their_session(listening: Listening) -> None:
    listening.allow(1)
    first = listening.worker(1)
    listening.intake.drain()
    listening.worker(2)
    assert not listening.intake.drain()
    assert listening.intake.drain(lambda member: member.producer == first)
    assert listening.book.totals == [1, 2]
    assert listening.book.closed_as == {first: False}


async def test_a_silent_connection_is_closed_to_make_room_when_its_hello_is_overdue(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening.allow(1)
    silent = listening.client()
    listening.intake.drain()
    listening.worker(2)
    assert not listening.intake.drain()
    monkeypatch.setattr("brakit_sidecar.daemon.connection.HELLO_TIMEOUT_S", 0.0)
    hello = {"protocol": 1, "session": new_id(), "producer": new_id()}
    listening.intake.drain = lambda *_: None  # type: ignore[method-assign,assignment] # only the eviction reads
    silent.sendall(json.dumps({"hello": hello, "total": {"request_count": 1}}).encode() + b"\n")
    assert listening.intake._make_room()
    assert listening.book.totals == [1]


async def test_a_connection_that_awaits_an_answer_is_not_evicted(listening: Listening) -> None:
    listening.allow(1)
    first = listening.worker(1)
    listening.intake.drain()
    listening.book.evictable = {first}
    (connection,) = listening.intake.connections
    connection.protocol.owes_answer = True
    listening.worker(2)
    assert not listening.intake.drain()


async def test_a_connection_waits_if_the_machine_can_open_no_more_files(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> tuple[socket.socket, Any]:
        raise OSError(23, "no files")

    accept = listening.intake._listening.accept
    monkeypatch.setattr(listening.intake, "_listening", _Failing(listening.intake._listening, refuse))
    listening.worker(1)
    assert not listening.intake.drain()
    monkeypatch.setattr(listening.intake, "_listening", _Failing(listening.intake._listening, accept))
    assert listening.intake.drain()
    assert listening.book.totals == [1]


class _Failing:
    """A listener whose ``accept`` is a function of the test."""

    def __init__(self, listener: Any, accept: Any) -> None:
        self.fileno, self.close, self.accept = listener.fileno, listener.close, accept


async def test_a_client_that_closed_before_it_was_accepted_is_skipped(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = listening.intake._listening.accept
    aborted = [True]

    def abort_once() -> tuple[socket.socket, Any]:
        if aborted:
            aborted.clear()
            raise ConnectionAbortedError
        return accept()

    monkeypatch.setattr(listening.intake, "_listening", _Failing(listening.intake._listening, abort_once))
    listening.worker(1)
    assert listening.intake.drain()
    assert listening.book.totals == [1]


async def test_descriptors_are_short_if_the_next_descriptor_is_in_the_reserve(listening: Listening) -> None:
    probe = os.dup(0)
    os.close(probe)
    listening.intake._limit = probe + module.RESERVE
    assert listening.intake.is_short_of_descriptors()
    listening.intake._limit += 1
    assert not listening.intake.is_short_of_descriptors()


async def test_the_listener_is_served_until_it_is_stopped(listening: Listening) -> None:
    served = anyio.Event()

    async def serve() -> None:
        await listening.intake.serve()
        served.set()

    listening.tasks.start_soon(serve)
    listening.worker(1)
    with anyio.fail_after(60):
        while listening.book.totals != [1]:
            await anyio.lowlevel.checkpoint()
        listening.clients[0].close()
        while listening.intake.connections:
            await anyio.lowlevel.checkpoint()
        assert listening.wakes
        listening.intake.stop()
        await served.wait()


async def test_the_socket_is_unlinked_if_it_is_still_ours(listening: Listening) -> None:
    listening.intake.remove_path()
    assert os.listdir(listening.directory) == []
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(listening.path)
        listening.intake.remove_path()
    assert os.listdir(listening.directory) == ["s"]
