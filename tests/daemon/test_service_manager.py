"""The daemon under a service manager, of which only the outermost edge is here: the socket that it hands over, and the
one at which it is told things.
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
from brakit_sidecar.client import counter_file
from brakit_sidecar.core import counter_layout
from brakit_sidecar.daemon import start
from brakit_sidecar.daemon.sessions import COMPACT_AFTER
from brakit_sidecar.host import launch, paths, secure_files

from tests.harness import PATIENCE_S, Place, Wire, end_process, new_id, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Endpoint

# Runs `serve` with these descriptors where the protocol wants them, and its variables.
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
    """It listens at the daemon's path, and starts the daemon when the test says so."""

    def __init__(self, place: Place, address: str = "") -> None:
        self.place = place
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.settimeout(PATIENCE_S)
        self.address = address or os.path.join(place.root, "notify")
        self.notify.bind(self.address.replace("@", "\0"))
        self.heard: list[str] = []
        self.store: dict[str, int] = {}
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._served: list[subprocess.Popen[bytes]] = []

    def listen(self) -> Manager:
        """As systemd does: what is found at the path is removed, dead or alive."""
        secure_files.ensure_directory(os.path.dirname(self.place.socket_path))
        with suppress(FileNotFoundError):
            os.unlink(self.place.socket_path)
        self.listening.bind(self.place.socket_path)
        self.listening.listen(1024)
        return self

    def start(self, *fds: int, **environ: str) -> subprocess.Popen[bytes]:
        """The daemon, with the listening socket and these descriptors of the store."""
        given = [self.listening.fileno(), *fds]
        names = ":".join(["brakit-sidecar.socket", *(name for name, fd in self.store.items() if fd in fds)])
        served = subprocess.Popen(
            [sys.executable, "-c", HAND_OVER, ",".join(map(str, given))],
            env={**self.place.environ, "NOTIFY_SOCKET": self.address, "LISTEN_FDNAMES": names, **environ},
            pass_fds=given,
        )
        self._served.append(served)
        return served

    def hear(self) -> str:
        """The next that it is told."""
        said, fds, _flags, _address = socket.recv_fds(self.notify, 4096, 1)
        lines = said.decode().split("\n")
        name = lines[1].removeprefix("FDNAME=") if len(lines) > 1 else ""
        if lines[0] == "FDSTORE=1":
            (self.store[name],) = fds
        if lines[0] == "FDSTOREREMOVE=1":
            os.close(self.store.pop(name))
        self.heard.append(lines[0])
        return lines[0]

    def hear_until(self, state: str) -> None:
        while self.hear() != state:
            pass

    def sessions(self) -> Any:
        """As the daemon shows them, once it answers."""
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


def join(wire: Wire, session: str, counted: counter_file.CounterFile | None = None) -> str:
    """A worker of the session, with its memory; returns its id when the daemon knows it."""
    producer = new_id()
    hello = {"protocol": 1, "session": session, "producer": producer, "sdk": "python"}
    if counted is None:
        wire.send(hello=hello)
    else:
        assert counted.fd is not None
        line = json.dumps({"hello": {**hello, "counter_file": 1}}).encode() + b"\n"
        socket.send_fds(wire.stream, [line], [counted.fd])
        assert next(wire.lines()) == {"counter_file": 1}
    wire.sync()
    return producer


def has_open(pid: int, path: str) -> bool:
    with suppress(OSError):  # one that was closed meanwhile
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == path for fd in os.listdir(f"/proc/{pid}/fd"))
    return False


def shared() -> counter_file.CounterFile:
    made = counter_file.shared("/tmp")
    assert made is not None
    return made


# --- the socket -----------------------------------------------------------------------------------------


def test_whoever_connected_before_the_daemon_ran_is_answered(manager: Manager) -> None:
    manager.listen()
    with Wire(manager.place.socket_path).hello() as waiting:
        daemon = manager.start()
        assert waiting.ask("identity")[0]["pid"] == daemon.pid


def test_an_idle_daemon_leaves_the_socket_to_the_manager_and_the_next_one(manager: Manager) -> None:
    manager.listen()
    before = os.stat(manager.place.socket_path).st_ino
    first = manager.start()
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()
    assert first.wait(PATIENCE_S) == 0
    assert os.stat(manager.place.socket_path).st_ino == before
    with Wire(manager.place.socket_path).hello() as waiting:
        second = manager.start()
        assert waiting.ask("identity")[0]["pid"] == second.pid


def test_a_connect_at_the_very_end_of_the_linger_is_answered(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start()
    manager.hear_until("READY=1")
    with suspended(daemon.pid):
        time.sleep(start.LINGER_S)  # when it goes on, it is time to leave, and somebody waits
        wire = Wire(manager.place.socket_path).hello()
    with wire:
        wire.sync()


def test_a_connect_to_a_daemon_that_is_leaving_waits_for_the_next(manager: Manager, endpoint: Endpoint) -> None:
    manager.listen()
    leaving = manager.start()
    endpoint.may_answer.clear()  # so that it takes its time to leave
    with Wire(manager.place.socket_path).hello() as wire:
        wire.send(event={"name": "dashboard_viewed"}, ask="stop")
        manager.hear_until("STOPPING=1")
    with Wire(manager.place.socket_path).hello() as waiting:
        assert leaving.wait(PATIENCE_S) == 0
        following = manager.start()
        assert waiting.ask("identity")[0]["pid"] == following.pid


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/fd")
def test_the_lock_of_a_daemon_that_listened_before_is_waited_for(manager: Manager) -> None:
    """Who connects meanwhile waits too, and loses nothing."""
    before = manager.place.serve()
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()
        manager.listen()
        daemon = manager.start()
    wait_until(lambda: has_open(daemon.pid, paths.lock_path(manager.place.socket_path)), "the wait for the lock")
    with Wire(manager.place.socket_path).hello() as waiting:
        assert end_process(before) == 0
        assert waiting.ask("identity")[0]["pid"] == daemon.pid


def test_a_daemon_of_another_start_leaves_the_managers_socket_alone(manager: Manager) -> None:
    manager.listen()
    before = os.stat(manager.place.socket_path).st_ino
    ran = manager.place.run("serve")
    assert (ran.returncode, "runs already" in ran.stderr) == (1, True)
    assert os.stat(manager.place.socket_path).st_ino == before


def test_start_names_the_daemon_that_its_connect_started(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start()
    assert manager.place.start()["pid"] == daemon.pid


def test_a_socket_that_was_meant_for_another_process_is_not_taken(manager: Manager) -> None:
    manager.listening.bind(os.path.join(manager.place.root, "anothers"))
    manager.listening.listen()
    manager.start(LISTEN_PID="1")
    wait_until(manager.place.accepts, "a socket of its own")


def test_a_stop_ends_the_daemon_and_leaves_the_socket(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start()
    assert manager.place.run("stop").returncode == 0
    assert daemon.wait(PATIENCE_S) == 0
    assert os.path.exists(manager.place.socket_path)


def test_where_telemetry_is_off_whoever_waits_is_told_so(manager: Manager) -> None:
    assert manager.place.run("telemetry", "off").returncode == 0
    manager.listen()
    with Wire(manager.place.socket_path).hello(new_id()) as wire:
        manager.start()
        assert wire.send(incr={"request_count": 1}).sync() == [{"reason": "session_ended", "line": 2}]


# --- what the manager is told -------------------------------------------------------------------------------


def test_it_is_told_when_the_daemon_accepts_and_when_it_leaves(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start()
    manager.hear_until("READY=1")
    assert launch.acquire_lock(manager.place.socket_path) is None
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()
    end_process(daemon)
    manager.hear_until("STOPPING=1")
    assert manager.heard == ["READY=1", "STOPPING=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract addresses are Linux's")
def test_its_address_may_be_abstract(place: Place) -> None:
    manager = Manager(place, f"@brakit-sidecar-{new_id()}").listen()
    try:
        manager.start()
        assert manager.hear() == "READY=1"
    finally:
        manager.close()


def test_its_watchdog_sees_signs_of_life(manager: Manager) -> None:
    manager.listen()
    manager.start(WATCHDOG_USEC="100000")
    assert [manager.hear() for _ in range(5)] == ["READY=1", *["WATCHDOG=1"] * 4]


def test_a_watchdog_that_was_meant_for_another_process_sees_none(manager: Manager) -> None:
    manager.listen()
    daemon = manager.start(WATCHDOG_USEC="1000", WATCHDOG_PID="1")
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()
    end_process(daemon)
    manager.hear_until("STOPPING=1")
    assert "WATCHDOG=1" not in manager.heard


def test_a_manager_that_is_gone_is_no_obstacle(manager: Manager) -> None:
    manager.listen()
    manager.notify.close()
    manager.start()
    with Wire(manager.place.socket_path).hello() as wire:
        wire.sync()


# --- its store ----------------------------------------------------------------------------------------------


def test_a_workers_memory_is_kept_while_its_session_lasts(manager: Manager) -> None:
    manager.listen()
    manager.start()
    counted, session = shared(), new_id()
    with Wire(manager.place.socket_path) as worker:
        producer = join(worker, session, counted)
        manager.hear_until("FDSTORE=1")
        assert counted.fd is not None
        assert list(manager.store) == [f"counters-1-{producer}"]
        assert os.path.sameopenfile(manager.store[f"counters-1-{producer}"], counted.fd)
        with Wire(manager.place.socket_path).hello() as command:
            command.ask({"end": {"session": session}})
        worker.send(end={"exit_reason": "clean"})
        manager.hear_until("FDSTOREREMOVE=1")
    assert manager.store == {}


def test_the_memories_of_many_that_are_gone_do_not_fill_its_store(manager: Manager) -> None:
    """Their session goes on."""
    manager.listen()
    manager.start()
    session = new_id()
    with Wire(manager.place.socket_path).hello(session, role="owner") as owner:
        for _ in range(COMPACT_AFTER):
            with Wire(manager.place.socket_path) as worker:
                join(worker, session, shared())
            manager.hear_until("FDSTORE=1")
        manager.hear_until("FDSTOREREMOVE=1")
        while len(manager.store) > 1:  # the last one that left may have the last word
            manager.hear_until("FDSTOREREMOVE=1")
        assert owner.ask()[0]["sessions"][0]["producers"]["gone"] == COMPACT_AFTER


def test_what_the_store_kept_is_counted_by_the_next_daemon(killed: Manager) -> None:
    killed.start(*killed.store.values())
    (session,) = killed.sessions()
    assert session["fields"]["request_count"] == 7


def test_what_the_store_kept_is_nobodys_where_telemetry_is_off(killed: Manager) -> None:
    config = {**killed.place.config, "telemetry": False}  # with the id that it was counted under
    with open(killed.place.config_path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    killed.start(*killed.store.values())
    assert killed.sessions() == []
    killed.hear_until("FDSTOREREMOVE=1")


def test_what_was_kept_waits_until_the_config_can_be_read(killed: Manager) -> None:
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
    """Its daemon was, and a worker has counted to seven since, whose memory has no other name than the store's."""
    manager.listen()
    daemon = manager.start()
    counted = shared()
    with Wire(manager.place.socket_path) as worker:
        session = uuid.uuid4().int
        counted.cells[counter_layout.PID], counted.cells[counter_layout.KIND] = os.getpid(), counter_layout.OF_SESSION
        counted.cells[counter_layout.ID], counted.cells[counter_layout.ID + 1] = session >> 64, session & (1 << 64) - 1
        producer = join(worker, str(uuid.UUID(int=session)), counted)
        manager.hear_until("FDSTORE=1")
        end_process(daemon, signal.SIGKILL)
        with suppress(FileNotFoundError):  # not all platforms give it that one
            os.unlink(paths.counter_file_path(manager.place.socket_path, producer))
        counted.cells[counter_layout.COUNTER_CELLS["request_count"]] = 7
        yield manager


def test_a_manager_that_does_not_read_for_a_while_misses_nothing_and_holds_up_nobody(manager: Manager) -> None:
    """Its queue may be as short as ten datagrams."""
    manager.listen()
    manager.notify.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    manager.start()
    session, many = new_id(), 50
    workers = [Wire(manager.place.socket_path) for _ in range(many)]
    producers = {f"counters-1-{join(worker, session, shared())}" for worker in workers}
    for _ in range(many):
        manager.hear_until("FDSTORE=1")
    assert set(manager.store) == producers
    for worker in workers:
        worker.close()


# --- who it is ----------------------------------------------------------------------------------------------


def test_it_does_not_run_as_the_user_that_stands_for_all_foreign_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a user namespace the others have this number, and all of them would be served."""
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    before = os.umask(0o077)
    try:
        with pytest.raises(OSError, match="does not run as the user nobody"):
            start.foreground()
    finally:
        os.umask(before)
