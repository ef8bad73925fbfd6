"""The worker's socket, which never blocks, never raises, and keeps at most one line."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.client.channel import Channel

from tests.e2e.serving import REPOSITORY
from tests.harness import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = b'{"incr":{"request_count":1}}\n'


class Daemon:
    """The other end of the connection."""

    def __init__(self, directory: str, backlog: int = 5) -> None:
        self.path = os.path.join(directory, "s")
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen(backlog)

    def accept(self) -> socket.socket:
        self.listening.settimeout(PATIENCE_S)
        stream, _ = self.listening.accept()
        stream.settimeout(PATIENCE_S)
        return stream


@pytest.fixture
def directory() -> Iterator[str]:
    """Make a directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp") as directory:
        yield directory


@pytest.fixture
def daemon(directory: str) -> Iterator[Daemon]:
    daemon = Daemon(directory)
    yield daemon
    daemon.listening.close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.close()


@pytest.fixture
def stream(daemon: Daemon, channel: Channel) -> Iterator[socket.socket]:
    """Return the daemon's end of the open channel."""
    assert channel.open(daemon.path)
    with daemon.accept() as stream:
        yield stream


def read_all(stream: socket.socket) -> bytes:
    received = b""
    while chunk := stream.recv(65536):
        received += chunk
    return received


def fill(channel: Channel) -> int:
    """Send lines until the kernel accepts no more. Returns the number of lines that were sent."""
    sent = 0
    while channel.is_ready():
        channel.send(LINE * 100)
        sent += 100
    return sent


# --- opening --------------------------------------------------------------------------------------------------


def test_a_new_channel_is_closed_and_sends_nothing(channel: Channel) -> None:
    channel.send(LINE)
    channel.send_with_descriptor(LINE, 0)
    channel.close()
    assert (channel.is_open, channel.is_ready(), channel.receive()) == (False, False, b"")


def test_a_channel_opens_if_a_daemon_listens(daemon: Daemon, channel: Channel) -> None:
    assert channel.open(daemon.path)
    assert channel.is_open
    assert channel.is_ready()


def test_a_channel_stays_closed_if_no_daemon_listens(daemon: Daemon, channel: Channel) -> None:
    daemon.listening.close()
    assert not channel.open(daemon.path)
    assert not channel.is_open


@pytest.mark.parametrize("path", ["", ".", "/dev/null", "/no/such/directory/s", "/" + "x" * 300])
def test_a_channel_stays_closed_if_the_path_is_not_a_socket(channel: Channel, path: str) -> None:
    assert not channel.open(path)
    assert not channel.is_open


def test_open_does_not_wait_for_a_daemon_with_a_full_backlog(directory: str) -> None:
    daemon = Daemon(directory, backlog=0)
    channels = [Channel() for _ in range(5)]
    assert [channel.open(daemon.path) for channel in channels][-1] is False
    daemon.listening.close()


def test_a_channel_stays_closed_at_the_descriptor_limit(daemon: Daemon, channel: Channel) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        opened = channel.open(daemon.path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not opened


def test_a_second_open_closes_the_first_connection(daemon: Daemon, channel: Channel, stream: socket.socket) -> None:
    assert channel.open(daemon.path)
    assert stream.recv(1) == b""
    with daemon.accept() as again:
        channel.send(LINE)
        assert again.recv(65536) == LINE


def test_a_child_program_does_not_inherit_the_socket(stream: socket.socket, channel: Channel) -> None:
    assert stream.fileno() >= 0
    assert channel._socket is not None
    assert not os.get_inheritable(channel._socket.fileno())


# --- sending ---------------------------------------------------------------------------------------------------


def test_lines_arrive_in_order(channel: Channel, stream: socket.socket) -> None:
    for number in range(100):
        assert channel.is_ready()
        channel.send(b"%d\n" % number)
    channel.close()
    assert read_all(stream) == b"".join(b"%d\n" % number for number in range(100))


def test_send_does_not_wait_for_a_daemon_that_does_not_read(channel: Channel, stream: socket.socket) -> None:
    fill(channel)
    assert channel.is_open
    assert not channel.is_ready()
    assert stream.fileno() >= 0


def test_kept_bytes_are_sent_before_the_next_line(channel: Channel, stream: socket.socket) -> None:
    lines = fill(channel)
    received = b""
    while not channel.is_ready():
        received += stream.recv(65536)
    channel.send(b"last\n")
    channel.close()
    assert received + read_all(stream) == LINE * lines + b"last\n"


def test_at_most_one_line_is_kept(channel: Channel, stream: socket.socket) -> None:
    fill(channel)
    for _ in range(3):
        channel.is_ready()
    assert 0 < len(channel._rest) <= len(LINE * 100)
    assert stream.fileno() >= 0


@pytest.mark.parametrize("call", ["send", "is_ready", "receive", "send_with_descriptor", "probe"])
def test_the_channel_closes_without_an_exception_if_the_daemon_has_exited(
    channel: Channel, stream: socket.socket, call: str
) -> None:
    if call == "is_ready":
        fill(channel)
    stream.close()
    if call == "send":
        channel.send(LINE)
    elif call == "is_ready":
        assert not channel.is_ready()
    elif call == "receive":
        assert channel.receive() == b""
    elif call == "probe":
        channel.probe()
    else:
        channel.send_with_descriptor(LINE, 0)
    assert not channel.is_open
    assert not channel.is_ready()


@pytest.mark.parametrize("call", ["channel.send(b'x')", "channel.send_with_descriptor(b'x', 0)"])
def test_a_worker_with_a_default_sigpipe_survives_the_daemons_exit(daemon: Daemon, call: str) -> None:
    code = f"""
import signal
from brakit_sidecar.client.channel import Channel
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
channel = Channel()
assert channel.open({daemon.path!r})
input()
{call}
print(channel.is_open)
"""
    environ = {**os.environ, "PYTHONPATH": os.path.join(REPOSITORY, "sidecar")}
    worker = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    )
    daemon.accept().close()
    out, _ = worker.communicate("go on\n", timeout=PATIENCE_S)
    assert (worker.returncode, out) == (0, "False\n")


def test_a_probe_of_a_running_daemon_sends_and_receives_nothing(channel: Channel, stream: socket.socket) -> None:
    stream.sendall(b"unread\n")
    channel.probe()
    assert channel.receive() == b"unread\n"
    channel.close()
    assert read_all(stream) == b""


def test_a_probe_keeps_the_kept_bytes(channel: Channel, stream: socket.socket) -> None:
    fill(channel)
    kept = channel._rest
    channel.probe()
    assert channel._rest == kept
    assert stream.fileno() >= 0


# --- a descriptor with a line ---------------------------------------------------------------------------------


def test_a_descriptor_arrives_with_the_lines_first_byte(channel: Channel, stream: socket.socket) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"counted")
        file.flush()
        channel.send_with_descriptor(LINE, file.fileno())
    received, fds, _flags, _address = socket.recv_fds(stream, 1, 4)
    assert (received, len(fds)) == (LINE[:1], 1)
    assert os.pread(fds[0], 100, 0) == b"counted"
    os.close(fds[0])
    assert stream.recv(65536) == LINE[1:]


def test_a_closed_descriptor_closes_the_channel_without_an_exception(channel: Channel, stream: socket.socket) -> None:
    closed = os.dup(0)
    os.close(closed)
    channel.send_with_descriptor(LINE, closed)
    assert not channel.is_open
    assert stream.recv(1) == b""


def test_the_channel_is_closed_if_a_descriptor_cannot_be_sent_at_once(channel: Channel, stream: socket.socket) -> None:
    fill(channel)
    channel.send_with_descriptor(LINE, 0)
    assert not channel.is_open
    assert stream.recv(1) != b""


# --- receiving --------------------------------------------------------------------------------------------------


def test_receive_does_not_wait_for_a_silent_daemon(channel: Channel, stream: socket.socket) -> None:
    assert channel.receive() == b""
    assert channel.is_open
    assert stream.fileno() >= 0


def test_a_line_of_the_daemon_is_received(channel: Channel, stream: socket.socket) -> None:
    stream.sendall(b'{"counter_file":1}\n')
    assert channel.receive() == b'{"counter_file":1}\n'
    assert channel.is_open


def test_a_daemons_last_line_is_received_before_eof(channel: Channel, stream: socket.socket) -> None:
    stream.sendall(b"goodbye\n")
    stream.close()
    assert channel.receive() == b"goodbye\n"
    assert channel.is_open
    assert channel.receive() == b""
    assert not channel.is_open


def test_at_most_4_kib_are_received_at_once(channel: Channel, stream: socket.socket) -> None:
    stream.sendall(b"x" * 5000)
    assert [len(channel.receive()) for _ in range(3)] == [4096, 904, 0]


# --- closing -----------------------------------------------------------------------------------------------


def test_a_closed_channel_drops_the_kept_bytes(channel: Channel, daemon: Daemon) -> None:
    assert channel.open(daemon.path)
    fill(channel)
    channel.close()
    assert channel.open(daemon.path)
    assert channel.is_ready()
    daemon.accept().close()


def test_a_channel_that_is_garbage_collected_closes_the_connection(daemon: Daemon) -> None:
    channel = Channel()
    assert channel.open(daemon.path)
    with daemon.accept() as stream:
        del channel
        assert stream.recv(1) == b""
