"""One connection's I/O, with a real pair of sockets and a book that records its calls."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from brakit_sidecar.core.protocol import Ended
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.daemon import connection as module
from brakit_sidecar.daemon.connection import Connection
from brakit_sidecar.host import peercred

from tests.daemon.recording_book import RecordingBook
from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.anyio

HELLO = {"protocol": 1, "session": new_id(), "producer": new_id(), "sdk": "python"}


class Pair:
    """A connection and its client."""

    def __init__(self) -> None:
        self.client, served = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        served.setblocking(False)
        self.client.setblocking(False)
        self.book = RecordingBook()
        self.connections: dict[Connection, None] = {}
        self.wakes: list[None] = []
        self.connection = Connection(served, self.book, self.connections, lambda: self.wakes.append(None))

    def send(self, *lines: dict[str, Any]) -> Pair:
        self.client.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        return self

    def received(self) -> list[dict[str, Any]]:
        """Read the lines that have arrived. EOF is returned as an empty object."""
        lines: list[dict[str, Any]] = []
        while True:
            try:
                data = self.client.recv(65536)
            except BlockingIOError:
                return lines
            if not data:
                return [*lines, {}]
            lines += [json.loads(line) for line in data.splitlines()]

    def joined(self) -> Pair:
        """Send the hello, and let the connection read it."""
        self.send({"hello": HELLO}).connection.drain()
        return self


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    yield pair
    pair.connection.close()
    pair.client.close()


def total(number: int) -> dict[str, Any]:
    return {"total": {"request_count": number}}


async def test_the_peers_pid_comes_with_the_hello(pair: Pair) -> None:
    pair.joined()
    assert pair.book.hellos == [(None, os.getpid())]


async def test_a_turn_reads_and_applies_what_was_written(pair: Pair) -> None:
    pair.joined().send(total(1), total(2))
    assert pair.connection.read_some()
    assert pair.book.totals == [1, 2]
    assert not pair.connection.read_some()


async def test_a_turn_applies_a_bounded_number_of_lines(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINES_AT_ONCE", 2)
    pair.joined().send(*map(total, (1, 2, 3)))
    pair.connection.read_some()
    assert pair.book.totals == [1, 2]
    pair.connection.read_some()
    assert pair.book.totals == [1, 2, 3]


async def test_a_drain_reads_all_that_was_written(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_SIZE", 10)
    pair.joined().send(*map(total, range(1, 50))).connection.drain()
    assert pair.book.totals == [*range(1, 50)]


async def test_a_drain_finds_eof_after_the_last_line(pair: Pair) -> None:
    pair.joined().send(total(1)).client.shutdown(socket.SHUT_WR)
    pair.connection.drain()
    assert pair.book.totals == [1]
    assert pair.connection.protocol.is_closing


async def test_a_fault_while_draining_ends_only_this_connection(pair: Pair) -> None:
    pair.joined().book.fails = True
    pair.send(total(1)).connection.drain()
    assert pair.book.totals == []


async def test_a_descriptor_comes_with_the_hello(pair: Pair) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    line = json.dumps({"hello": {**HELLO, "counter_file": 1}}).encode() + b"\n"
    socket.send_fds(pair.client, [line], [null])
    os.close(null)
    pair.connection.drain()
    ((fd, _pid),) = pair.book.hellos
    assert fd is not None
    os.close(fd)


@pytest.mark.parametrize("line", [{"hello": HELLO}, {"hello": {"protocol": 9}}], ids=["not mentioned", "bad hello"])
async def test_a_descriptor_that_no_hello_mentions_is_closed(pair: Pair, line: dict[str, Any]) -> None:
    before = len(os.listdir("/dev/fd"))
    null = os.open(os.devnull, os.O_RDONLY)
    socket.send_fds(pair.client, [json.dumps(line).encode() + b"\n"], [null] * 2)
    os.close(null)
    pair.connection.drain()
    if pair.connection.protocol.is_closing:
        pair.connection.close()
    assert len(os.listdir("/dev/fd")) <= before


async def test_a_foreign_user_is_refused_before_any_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peercred, "is_own_user", lambda _connection: False)
    pair = Pair()
    pair.send({"hello": HELLO}).connection.close()
    assert pair.book.refusals == [Refusal.FOREIGN_USER]
    assert pair.received() == [{"refused": {"reason": "foreign_user", "line": 0}}, {}]
    assert pair.book.hellos == []
    pair.client.close()


async def test_closing_sends_the_refusal_although_input_is_unread(pair: Pair) -> None:
    pair.send({"incr": {}}, *map(total, range(1, 1000))).connection.read_some()
    pair.connection.close()
    assert pair.received() == [{"refused": {"reason": "no_hello", "line": 1}}, {}]


async def test_a_member_is_closed_once(pair: Pair) -> None:
    pair.joined().connection.close()
    pair.connection.close()
    assert pair.book.closed_as == {HELLO["producer"]: False}


async def test_a_connection_without_a_member_closes_silently(pair: Pair) -> None:
    pair.connection.close()
    assert pair.book.closed_as == {}


async def test_an_evicted_client_loses_nothing_that_it_wrote(pair: Pair) -> None:
    pair.joined().send(total(1)).connection.evict()
    assert pair.book.totals == [1]
    assert pair.book.closed_as == {HELLO["producer"]: True}


async def test_a_connection_that_is_closing_can_be_evicted(pair: Pair) -> None:
    pair.joined().client.shutdown(socket.SHUT_WR)
    pair.connection.drain()
    pair.connection.drain()
    pair.connection.evict()
    assert pair.book.closed_as == {HELLO["producer"]: True}


async def test_a_reset_by_the_client_is_treated_as_eof(pair: Pair) -> None:
    pair.joined().client.close()
    pair.connection.read_some()
    assert pair.connection.protocol.is_closing


async def test_a_connection_is_idle_if_its_hello_is_overdue(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not pair.connection.is_idle
    monkeypatch.setattr(module, "HELLO_TIMEOUT_S", 0.0)
    assert pair.connection.is_idle
    pair.joined()
    assert not pair.connection.is_idle  # after the hello, this depends on the session


async def test_a_connection_is_idle_if_its_session_is_over_or_it_is_closing(pair: Pair) -> None:
    pair.book.outcome = Ended()
    assert pair.joined().connection.is_idle
    pair.connection.close()
    assert pair.connection.is_idle


# --- the task that serves it ---------------------------------------------------------------------------


async def served(pair: Pair) -> None:
    with anyio.fail_after(60):
        await pair.connection.serve()


async def test_a_served_connection_answers_until_eof(pair: Pair) -> None:
    pair.send({"hello": HELLO, "ask": "status"}, total(1), {"ask": "again"}).client.shutdown(socket.SHUT_WR)
    await served(pair)
    assert pair.received() == [{"answer": "status"}, {"answer": "again"}, {}]
    assert (pair.book.totals, pair.book.closed_as) == ([1], {HELLO["producer"]: False})
    assert pair.connections == {}
    assert pair.wakes


async def test_a_fault_ends_only_this_connection(pair: Pair) -> None:
    pair.book.fails = True
    pair.send({"hello": HELLO}, total(1))
    await served(pair)
    assert pair.received() == [{}]
    assert pair.book.closed_as == {HELLO["producer"]: False}


async def test_a_client_that_does_not_read_gets_its_answer_when_it_reads_again(pair: Pair) -> None:
    pair.connection._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    question, data = "x" * 60_000, b""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(served, pair)
        pair.send({"hello": HELLO}, {"ask": question}, total(1))
        with anyio.fail_after(60):
            while not pair.connection.protocol.owes_answer:
                await anyio.lowlevel.checkpoint()
            assert pair.book.totals == []  # the line after the question waits
            while not data.endswith(b"\n"):
                await anyio.wait_readable(pair.client)
                data += pair.client.recv(65536)
            pair.client.shutdown(socket.SHUT_WR)
    assert json.loads(data) == {"answer": question}
    assert pair.book.totals == [1]


async def test_closing_a_connection_from_outside_its_task_ends_the_task(pair: Pair) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(served, pair)
        await anyio.lowlevel.checkpoint()
        pair.joined().connection.close()
    assert pair.book.closed_as == {HELLO["producer"]: False}


async def test_a_drain_that_finds_eof_wakes_the_task(pair: Pair) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(served, pair)
        await anyio.lowlevel.checkpoint()
        pair.send({"hello": HELLO}).client.shutdown(socket.SHUT_WR)
        pair.connection.drain()
    assert pair.book.closed_as == {HELLO["producer"]: False}


async def test_a_fault_while_closing_ends_only_this_connection(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_member: object, *, is_evicted: bool) -> None:
        raise KeyError(is_evicted)

    monkeypatch.setattr(pair.book, "closed", fail)
    pair.send({"hello": HELLO}).client.shutdown(socket.SHUT_WR)
    await served(pair)
    assert pair.connections == {}
    assert pair.wakes
