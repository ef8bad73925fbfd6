"""One daemon for each user, even if something else is at its paths."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import brakit_sidecar
import pytest
from brakit_sidecar.host import environment, launch
from brakit_sidecar.host.secure_files import UnsafePathError

from tests.harness import PATIENCE_S, Endpoint, Place, Wire, end_process, wait_until

if TYPE_CHECKING:
    from pathlib import Path


# --- the lock -----------------------------------------------------------------------------------------


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    return str(tmp_path / "sidecar-1.sock")


def lock_of(socket_path: str) -> str:
    return socket_path.replace(".sock", ".lock")


def test_one_process_holds_the_lock(socket_path: str) -> None:
    lock = launch.acquire_lock(socket_path)
    assert lock is not None
    assert launch.acquire_lock(socket_path) is None
    os.close(lock)
    again = launch.acquire_lock(socket_path)
    assert again is not None
    os.close(again)


def test_is_running_tests_the_lock_and_makes_no_file(socket_path: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        assert not launch.is_running(socket_path)
        assert os.listdir(tmp_path) == [os.path.basename(socket_path)]
        lock = launch.acquire_lock(socket_path)
        assert lock is not None
        assert launch.is_running(socket_path)
        os.close(lock)
        assert not launch.is_running(socket_path)


def test_the_lock_is_private_and_not_inherited(socket_path: str) -> None:
    lock = launch.acquire_lock(socket_path)
    assert lock is not None
    assert stat.S_IMODE(os.fstat(lock).st_mode) == 0o600
    assert not os.get_inheritable(lock)
    os.close(lock)


def test_a_link_at_the_locks_path_is_refused_and_not_changed(socket_path: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("")
    os.symlink(tmp_path / "target", lock_of(socket_path))
    with pytest.raises(UnsafePathError, match="remove it"):
        launch.acquire_lock(socket_path)
    assert os.path.islink(lock_of(socket_path))


def test_a_directory_at_the_locks_path_is_refused_and_not_changed(socket_path: str) -> None:
    os.mkdir(lock_of(socket_path))
    with pytest.raises(UnsafePathError, match="remove it"):
        launch.acquire_lock(socket_path)
    assert os.path.isdir(lock_of(socket_path))


def test_a_pipe_at_the_locks_path_is_refused_and_not_changed(socket_path: str) -> None:
    os.mkfifo(lock_of(socket_path))
    with pytest.raises(UnsafePathError, match="remove it"):
        launch.acquire_lock(socket_path)
    assert stat.S_ISFIFO(os.stat(lock_of(socket_path)).st_mode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_another_users_file_at_the_locks_path_is_refused_and_not_changed(socket_path: str) -> None:
    with open(lock_of(socket_path), "w", encoding="utf-8"):
        pass
    os.chown(lock_of(socket_path), 12345, 12345)
    with pytest.raises(UnsafePathError, match="not a file of this user"):
        launch.acquire_lock(socket_path)
    assert os.path.exists(lock_of(socket_path))


# --- the socket ---------------------------------------------------------------------------------------


def test_a_dead_daemons_socket_is_replaced(socket_path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(socket_path)
    with launch.listen(socket_path) as listener, socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(os.stat(socket_path).st_mode) == 0o600
        assert not listener.getblocking()
        client.connect(socket_path)


@pytest.mark.parametrize("what", ["file", "directory", "link", "link to a socket"])
def test_a_path_that_is_not_a_socket_is_refused_and_not_changed(socket_path: str, tmp_path: Path, what: str) -> None:
    if what == "file":
        tmp_path.joinpath("sidecar-1.sock").write_text("another program's")
    elif what == "directory":
        os.mkdir(socket_path)
    else:
        target = tmp_path / "target"
        if what == "link to a socket":
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(target))
        os.symlink(target, socket_path)
    before = os.lstat(socket_path)
    with pytest.raises(UnsafePathError, match=r"sidecar-1\.sock is not a socket of this user; remove it"):
        launch.listen(socket_path)
    assert os.lstat(socket_path).st_ino == before.st_ino


def test_a_path_that_is_too_long_for_a_socket_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        launch.listen(str(tmp_path / ("x" * 120)))


# --- the race, and the messages of commands ----------------------------------------------------------------


@pytest.mark.slow
def test_twenty_starts_at_once_make_one_daemon() -> None:
    with Place() as place:
        command = [sys.executable, "-m", "brakit_sidecar", "start", "--json"]
        starts = [
            subprocess.Popen(command, env=place.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(20)
        ]
        outputs = [start.communicate(timeout=PATIENCE_S) for start in starts]
        assert [start.returncode for start in starts] == [0] * 20, outputs
        assert len({json.loads(out)["pid"] for out, _err in outputs}) == 1
        assert place.status()["pid"] == json.loads(outputs[0][0])["pid"]


@pytest.mark.slow
def test_a_start_after_a_killed_daemon_replaces_its_socket() -> None:
    with Place() as place:
        end_process(place.serve(), signal.SIGKILL)
        assert os.path.exists(place.socket_path)
        assert place.start()["socket"] == place.socket_path
        assert place.accepts()


def test_a_start_waits_for_a_daemon_that_is_exiting() -> None:
    with Place() as place:
        for _ in range(3):
            first = place.start()
            stopping = place.popen(sys.executable, "-m", "brakit_sidecar", "stop")
            second = place.start()
            assert stopping.wait(PATIENCE_S) == 0
            assert second["socket"] == first["socket"]
            place.run("stop")


@pytest.mark.parametrize(
    ("where", "what"),
    [("brakit", "file"), ("brakit", "link"), ("brakit/sidecar-1.sock", "file"), ("brakit/sidecar-1.sock", "link"),
     ("brakit/sidecar-1.lock", "link"), ("brakit/sidecar-1.lock", "directory")],
)  # fmt: skip
def test_start_refuses_a_foreign_path_with_one_line_and_removes_nothing(where: str, what: str) -> None:
    with Place() as place:
        path = os.path.join(place.runtime, where)
        if where != "brakit":
            os.mkdir(os.path.dirname(path), 0o700)
        if what == "file":
            with open(path, "w", encoding="utf-8"):
                pass
        elif what == "link":
            os.symlink(place.home, path)
        else:
            os.mkdir(path)
        before = os.lstat(path)
        for command in ("start", "serve"):
            ran = place.run(command)
            assert (ran.returncode, ran.stdout) == (1, "")
            (line,) = ran.stderr.splitlines()
            assert where in line
            assert "remove it" in line
        assert (os.lstat(path).st_ino, os.lstat(path).st_mode) == (before.st_ino, before.st_mode)


def test_a_runtime_directory_that_is_too_long_has_a_working_fallback() -> None:
    with Place() as place:
        long = os.path.join(place.root, "x" * 100)
        os.mkdir(long, 0o700)
        place.environ["XDG_RUNTIME_DIR"] = long
        started = place.start()
        assert started["socket"].startswith(f"/tmp/brakit-{os.getuid()}-")
        assert place.run("status").returncode == 0
        assert place.run("stop").returncode == 0
        assert os.listdir(long) == []
        os.unlink(started["socket"].replace(".sock", ".lock"))
        os.rmdir(os.path.dirname(started["socket"]))


OF_THE_SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}  # a shell starts the daemon, and sets some of these


# --- the daemon's process -----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(os.getuid() != 0, reason="only root may read this of a daemon")
def test_a_started_daemon_is_detached_from_its_starter() -> None:
    with Place(PASSWORD="hunter2", PYTHONPATH="/nowhere", BRAKIT_TELEMETRY_KEY="phc_test") as place:
        pid = place.start()["pid"]
        wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) > 3)
        for fd in "012":
            assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == os.path.dirname(place.socket_path)
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = dict(pair.split(b"=", 1) for pair in file.read().split(b"\0") if pair)
        assert {b"BRAKIT_SIDECAR_DAEMON", b"BRAKIT_TELEMETRY_KEY", b"HOME"} <= environ.keys()
        assert {name.decode() for name in environ} <= {*environment.DAEMON, "BRAKIT_SIDECAR_DAEMON", *OF_THE_SHELL}


# Runs the daemon, and writes the name of each variable that this package's code asks for into the file.
RECORDING = """
import os, sys

class Recording(type(os.environ)):
    def __getitem__(self, name):
        frame = sys._getframe(1)
        while frame.f_globals["__name__"] in ("_collections_abc", "os", "collections.abc"):
            frame = frame.f_back
        if frame.f_globals["__name__"].startswith("brakit_sidecar"):
            with open(sys.argv[1], "a") as file:
                print(name, file=file)
        return super().__getitem__(name)

os.environ.__class__ = Recording
from brakit_sidecar.daemon.start import detached
detached()
"""
OF_A_SERVICE = {"JOURNAL_STREAM"}  # systemd sets it, and it changes only the log of a daemon that systemd started


def test_a_started_daemon_has_each_variable_that_it_reads(tmp_path: Path) -> None:
    with closing(Endpoint()) as endpoint, Place(endpoint.url) as place:
        daemon = place.popen(sys.executable, "-c", RECORDING, str(tmp_path / "read"))
        wait_until(place.accepts, "a daemon that accepts")
        assert place.run("emit", "cli_invoked").returncode == 0
        endpoint.wait_for("cli_invoked")
        assert place.run("stop").returncode == 0
        daemon.wait(PATIENCE_S)
    read = {*(tmp_path / "read").read_text().split()}
    assert {"HOME", "BRAKIT_TELEMETRY_KEY", "DO_NOT_TRACK", "CI", "BRAKIT_DEBUG"} <= read
    assert read - OF_A_SERVICE <= {*environment.DAEMON}


def test_no_module_of_the_working_directory_is_imported() -> None:
    with Place() as place:
        for name in ("email", "json", "anyio", "platformdirs"):
            with open(os.path.join(place.home, f"{name}.py"), "w", encoding="utf-8") as file:
                file.write("raise SystemExit('imported from the application')\n")
        code = (
            "import sys; sys.path.remove('')\n"
            "import brakit_sidecar.host.launch as launch, os\n"
            "print(launch.ensure_running(os.environ).pid)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], env=place.environ, cwd=place.home,
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        with Wire(place.socket_path).hello() as wire:
            wire.sync()


def test_an_isolated_process_needs_no_site_if_the_dependencies_are_found_without_it() -> None:
    assert launch.isolated("pass")[1:3] == ["-I", "-S"]


def test_an_isolated_process_has_its_site_if_a_dependency_is_not_found_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if a .pth file led to the dependency."""
    monkeypatch.setattr(launch, "_DEPENDENCIES", ("anyio", "a_package_behind_a_pth_file"))
    command = launch.isolated("import anyio, brakit_sidecar; print(brakit_sidecar.__file__, sys.argv)")
    assert "-S" not in command
    ran = subprocess.run([*command, "an argument"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{brakit_sidecar.__file__} ['-c', 'an argument']\n"


def test_an_isolated_process_has_the_arguments_of_the_caller() -> None:
    command = launch.isolated("import anyio, brakit_sidecar; print(brakit_sidecar.__file__, sys.argv)")
    ran = subprocess.run([*command, "an argument"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{brakit_sidecar.__file__} ['-c', 'an argument']\n"
