"""The daemon under a service manager.

The test plays the manager: it hands over the listening socket, and receives the notifications at a second socket.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.session.session import COMPACT_AFTER
from brakit_sidecar.daemon import start
from brakit_sidecar.daemon.config import USUAL
from brakit_sidecar.host import launch, paths, secure_files

from tests.daemon.counting import CountingWorker, fd_of, make_counter_file
from tests.harness import PATIENCE_S, Place, Wire, end_process, new_id, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brakit_sidecar.client.counter_file import CounterFile

    from tests.harness import Endpoint

# Runs `serve` with these descriptors from number 3 on, and with the variables of systemd's socket activation.
HAND_OVER = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",") if fd]
for place, fd in enumerate(fds, start=3):
    os.dup2(fd, place)
os.environ["LISTEN_FDS"] = str(len(fds))
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "brakit_sidecar", "serve"])
"""


class Manager:
    """A service manager: it listens at the daemon's path, and starts the daemon when the test asks for it."""

    def __init__(self, place: Place, address: str = "") -> None:
        self.place = place
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.settimeout(PATIENCE_S)
        self.address = address or os.path.join(place.root, "notify")
        self.notify.bind(self.address.replace("@", "\0"))
        self.received: list[str] = []
        self.store: dict[str, int] = {}
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._served: list[subprocess.Popen[bytes]] = []

    def listen(self) -> Manager:
        """Listen as systemd does: remove a socket at the path first, even if a process still listens on it."""
        secure_files.ensure_directory(os.path.dirname(self.place.socket_path))
        with suppress(FileNotFoundError):
            os.unlink(self.place.socket_path)
        self.listening.bind(self.place.socket_path)
        self.listening.listen(1024)
        return self

    def start(self, *fds: int, **environ: str) -> subprocess.Popen[bytes]:
        """Start the daemon with the listening socket and these descriptors of the store."""
        given = [self.listening.fileno(), *fds]
        names = ":".join(["brakit-sidecar.socket", *(name for name, fd in self.store.items() if fd in fds)])
        served = subprocess.Popen(
            [sys.executable, "-c", HAND_OVER, ",".join(map(str, given))],
            env={**self.place.environ, "NOTIFY_SOCKET": self.address, "LISTEN_FDNAMES": names, **environ},
            pass_fds=given,
        )
        self._served.append(served)
        return served

    def receive(self) -> str:
        """Receive the next notification, and update the store by it. Returns its first line."""
        message, fds, _flags, _address = socket.recv_fds(self.notify, 4096, 1)
        lines = message.decode().split("\n")
        name = lines[1].removeprefix("FDNAME=") if len(lines) > 1 else ""
        if lines[0] == "FDSTORE=1":
            (self.store[name],) = fds
        if lines[0] == "FDSTOREREMOVE=1":
            os.close(self.store.pop(name))
        self.received.append(lines[0])
        return lines[0]

    def receive_until(self, state: str) -> None:
        while self.receive() != state:
            pass

    def sessions(self) -> Any:
        """Return the sessions that the daemon shows in its status."""
        with Wire(self.place.socket_path).hello() as wire:
            return wire.ask()[0]["sessions"]

    def close(self) -> None:
        for served in self._served:
            served.kill()
            served.wait(PATIENCE_S)
        for fd in self.store.values():
            os.close(fd)
        self.listening.close()
        self.notify.close()


@pytest.fixture
def manager(place: Place) -> Iterator[Manager]:
    manager = Manager(place)
    yield manager
    manager.close()


def join(worker: CountingWorker, session: str, made: CounterFile) -> str:
    """Let a worker join the session with a counter file. Returns its id when the daemon has accepted it."""
    producer = new_id()
    assert worker.send_hello(session, fd_of(made), producer=producer).replies() == [{"counter_file": 1}]
    return producer


def has_open(pid: int, path: str) -> bool:
    """Return True if the process has the file open."""
    with suppress(OSError):  # a descriptor that was closed since it was listed
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == path for fd in os.listdir(f"/proc/{pid}/fd"))
    return False


# --- the socket -----------------------------------------------------------------------------------------


def test_a_connection_from_before_the_daemons_start_is_answered(manager: Manager) -> None:
    manager.listen()
    with Wire(manager.place.socket_path).hello() as pending:
        daemon = manager.start()
        assert pending.ask("identity")[0]["pid"] == daemon.pid


def test_an_idle_daemon_exits_and_the_socket_stays_for_the_next_daemon(manager: Manager) -> None:
    manager.listen()
    before = os.stat(manager.place.socket_path).st_ino
    first = manager.start()
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()
    assert first.wait(PATIENCE_S) == 0
    assert os.stat(manager.place.socket_path).st_ino == before
    with Wire(manager.place.socket_path).hello() as pending:
        second = manager.start()
        assert pending.ask("identity")[0]["pid"] == second.pid


def test_a_connect_at_the_very_end_of_the_linger_is_answered(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start()
    manager.receive_until("READY=1")
    with suspended(daemon.pid):
        assert USUAL.linger_s is not None
        time.sleep(USUAL.linger_s)  # when it runs again, the linger is over and a connection is pending
        wire = Wire(manager.place.socket_path).hello()
    with wire:
        wire.sync()


def test_a_connection_to_an_exiting_daemon_waits_for_the_next_daemon(manager: Manager, endpoint: Endpoint) -> None:
    manager.listen()
    exiting = manager.start()
    endpoint.may_answer.clear()  # so that its exit takes some time
    with Wire(manager.place.socket_path).hello() as wire:
        wire.send(event={"name": "dashboard_viewed"}, ask="stop")
        manager.receive_until("STOPPING=1")
    with Wire(manager.place.socket_path).hello() as pending:
        assert exiting.wait(PATIENCE_S) == 0
        following = manager.start()
        assert pending.ask("identity")[0]["pid"] == following.pid


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/fd")
def test_the_daemon_waits_for_the_lock_of_one_that_listened_before(manager: Manager) -> None:
    """A worker that connects meanwhile waits for the daemon and loses nothing."""
    before = manager.place.serve()
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()
        manager.listen()
        daemon = manager.start()
    wait_until(lambda: has_open(daemon.pid, paths.lock_path(manager.place.socket_path)), "the wait for the lock")
    with Wire(manager.place.socket_path).hello() as pending:
        assert end_process(before) == 0
        assert pending.ask("identity")[0]["pid"] == daemon.pid


def test_a_daemon_that_the_manager_did_not_start_keeps_off_its_socket(manager: Manager) -> None:
    manager.listen()
    before = os.stat(manager.place.socket_path).st_ino
    ran = manager.place.run("serve")
    assert (ran.returncode, "already running" in ran.stderr) == (1, True)
    assert os.stat(manager.place.socket_path).st_ino == before


def test_start_prints_the_pid_of_the_daemon_behind_the_managers_socket(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start()
    assert manager.place.start()["pid"] == daemon.pid


def test_a_socket_that_was_passed_to_another_process_is_not_used(manager: Manager) -> None:
    manager.listening.bind(os.path.join(manager.place.root, "another"))
    manager.listening.listen()
    manager.start(LISTEN_PID="1")
    wait_until(manager.place.accepts, "a socket of its own")


def test_stop_ends_the_daemon_and_keeps_the_socket(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start()
    assert manager.place.run("stop").returncode == 0
    assert daemon.wait(PATIENCE_S) == 0
    assert os.path.exists(manager.place.socket_path)


def test_the_lines_of_a_pending_connection_are_refused_if_telemetry_is_off(manager: Manager) -> None:
    assert manager.place.run("telemetry", "off").returncode == 0
    manager.listen()
    with Wire(manager.place.socket_path).hello(new_id()) as wire:
        manager.start()
        assert wire.send(incr={"request_count": 1}).sync() == [{"reason": "session_ended", "line": 2}]


# --- notifications ------------------------------------------------------------------------------------------


def test_the_manager_is_notified_when_the_daemon_accepts_and_when_it_stops(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start()
    manager.receive_until("READY=1")
    assert launch.acquire_lock(manager.place.socket_path) is None
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()
    end_process(daemon)
    manager.receive_until("STOPPING=1")
    assert manager.received == ["READY=1", "STOPPING=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract addresses")
def test_the_address_for_notifications_may_be_abstract(place: Place) -> None:
    manager = Manager(place, f"@brakit-sidecar-{new_id()}").listen()
    try:
        manager.start()
        assert manager.receive() == "READY=1"
    finally:
        manager.close()


def test_the_watchdog_is_notified_regularly(manager: Manager) -> None:
    manager.listen()
    manager.start(WATCHDOG_USEC="100000")
    assert [manager.receive() for _ in range(5)] == ["READY=1", *["WATCHDOG=1"] * 4]


def test_a_watchdog_for_another_process_is_not_notified(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start(WATCHDOG_USEC="1000", WATCHDOG_PID="1")
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()
    end_process(daemon)
    manager.receive_until("STOPPING=1")
    assert "WATCHDOG=1" not in manager.received


def test_the_daemon_works_if_the_managers_socket_is_closed(manager: Manager) -> None:
    manager.listen()
    manager.notify.close()
    manager.start()
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()


# --- the descriptor store -----------------------------------------------------------------------------------


def test_a_workers_counter_file_is_stored_until_its_session_ends(manager: Manager) -> None:
    manager.listen()
    manager.start()
    made, session = make_counter_file("/tmp"), new_id()
    with CountingWorker(manager.place.socket_path) as worker:
        producer = join(worker, session, made)
        manager.receive_until("FDSTORE=1")
        assert list(manager.store) == [f"counters-1-{producer}"]
        assert os.path.sameopenfile(manager.store[f"counters-1-{producer}"], fd_of(made))
        with Wire(manager.place.socket_path).hello() as command:
            command.ask({"end": {"session": session}})
        worker.send(end={"exit_reason": "clean"})
        manager.receive_until("FDSTOREREMOVE=1")
    assert manager.store == {}


def test_the_counter_files_of_many_exited_workers_do_not_fill_the_store(manager: Manager) -> None:
    """Their session stays open, so its end does not release them."""
    manager.listen()
    manager.start()
    session = new_id()
    with Wire(manager.place.socket_path).hello(session, role="owner") as owner:
        for _ in range(COMPACT_AFTER):
            with CountingWorker(manager.place.socket_path) as worker:
                join(worker, session, make_counter_file("/tmp"))
            manager.receive_until("FDSTORE=1")
        manager.receive_until("FDSTOREREMOVE=1")
        while len(manager.store) > 1:  # the last worker's stays, because its exit reason may be needed
            manager.receive_until("FDSTOREREMOVE=1")
        assert owner.ask()[0]["sessions"][0]["producers"]["gone"] == COMPACT_AFTER


def test_stored_counter_files_are_counted_by_the_next_daemon(killed: Manager) -> None:
    killed.start(*killed.store.values())
    (session,) = killed.sessions()
    assert session["fields"]["request_count"] == 7


def test_stored_counter_files_are_removed_if_telemetry_is_off(killed: Manager) -> None:
    config = {**killed.place.config, "telemetry": False}  # with the anonymous id of the counts
    with open(killed.place.config_path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    killed.start(*killed.store.values())
    assert killed.sessions() == []
    killed.receive_until("FDSTOREREMOVE=1")


def test_stored_counter_files_wait_until_the_config_can_be_read(killed: Manager) -> None:
    config = json.dumps(killed.place.config)
    with open(killed.place.config_path, "w", encoding="utf-8") as file:
        file.write(config[:20])
    killed.start(*killed.store.values())
    assert killed.sessions() == []
    with open(killed.place.config_path, "w", encoding="utf-8") as file:
        file.write(config)
    (session,) = killed.sessions()
    assert session["fields"]["request_count"] == 7


@pytest.fixture
def killed(manager: Manager) -> Iterator[Manager]:
    """Kill the daemon, then count seven requests in a counter file that only the store still holds."""
    manager.listen()
    daemon = manager.start()
    made = make_counter_file("/tmp")
    with CountingWorker(manager.place.socket_path) as worker:
        session = uuid.uuid4().int
        made.cells[counter_layout.PID], made.cells[counter_layout.KIND] = os.getpid(), counter_layout.OF_SESSION
        made.cells[counter_layout.ID], made.cells[counter_layout.ID + 1] = session >> 64, session & (1 << 64) - 1
        producer = join(worker, str(uuid.UUID(int=session)), made)
        manager.receive_until("FDSTORE=1")
        end_process(daemon, signal.SIGKILL)
        with suppress(FileNotFoundError):  # not all platforms give it a name
            os.unlink(paths.counter_file_path(manager.place.socket_path, producer))
        made.cells[counter_layout.COUNTER_CELLS["request_count"]] = 7
        yield manager


def test_a_manager_that_reads_late_misses_no_notification_and_blocks_no_worker(manager: Manager) -> None:
    """The queue of its socket may be as short as ten datagrams."""
    manager.listen()
    manager.notify.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    manager.start()
    session, many = new_id(), 50
    workers = [CountingWorker(manager.place.socket_path) for _ in range(many)]
    producers = {f"counters-1-{join(worker, session, make_counter_file('/tmp'))}" for worker in workers}
    for _ in range(many):
        manager.receive_until("FDSTORE=1")
    assert set(manager.store) == producers
    for worker in workers:
        worker.close()


# --- the daemon's user --------------------------------------------------------------------------------------


def test_the_daemon_does_not_run_as_the_overflow_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace all users from outside have this uid, so the daemon would serve all of them."""
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    before = os.umask(0o077)
    try:
        with pytest.raises(OSError, match="does not run as the user nobody"):
            start.foreground()
    finally:
        os.umask(before)
