"""Facts about processes that are not children of this one: their exits, and the files that they use."""

from __future__ import annotations

import mmap
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.host import process

from tests.harness import PATIENCE_S, end_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

has_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def is_readable(fd: int, timeout_s: float) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


def test_the_exit_of_a_process_makes_the_descriptor_readable() -> None:
    child = subprocess.Popen(["sleep", "600"])
    exit_fd = process.open_exit_fd(child.pid)
    assert exit_fd is not None
    assert not is_readable(exit_fd, 0)
    child.send_signal(signal.SIGKILL)
    assert is_readable(exit_fd, PATIENCE_S)  # before the process is reaped
    child.wait(PATIENCE_S)
    os.close(exit_fd)


def test_a_process_that_has_exited_cannot_be_watched() -> None:
    child = subprocess.Popen(["sleep", "600"])
    end_process(child, signal.SIGKILL)
    assert process.open_exit_fd(child.pid) is None


@pytest.mark.parametrize("pid", [0, -1, -(2**40), 2**31, 2**40, 2**70])
def test_a_number_that_is_not_a_process_cannot_be_watched(pid: int) -> None:
    assert process.open_exit_fd(pid) is None


def test_a_process_cannot_be_watched_if_python_lacks_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.delattr(select, "kqueue", raising=False)
    assert process.open_exit_fd(os.getpid()) is None


def test_a_child_program_does_not_inherit_the_descriptor() -> None:
    exit_fd = process.open_exit_fd(os.getpid())
    assert exit_fd is not None
    assert not os.get_inheritable(exit_fd)
    os.close(exit_fd)


# --- the owner of a session -----------------------------------------------------------------------------------------


def test_a_process_of_this_user_can_own_a_session() -> None:
    assert process.why_not_owner(os.getpid()) is None


@pytest.mark.parametrize(
    ("pid", "why"),
    [(0, "not the id of a process"), (-1, "not the id of a process"), (1, "does not exit before"), (2**40, "no such")],
)
def test_a_number_that_is_not_a_usual_process_cannot_own_a_session(pid: int, why: str) -> None:
    assert why in str(process.why_not_owner(pid))


@has_proc
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start another user's process")
def test_a_process_of_another_user_cannot_own_a_session() -> None:
    with subprocess.Popen(["sleep", "600"], user=12345) as other:
        assert process.why_not_owner(other.pid) == "it is another user's process"
        other.kill()


@has_proc
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start another user's process")
def test_another_users_process_cannot_own_a_session_of_a_normal_user() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(12345)
        os.write(writer, str(process.why_not_owner(os.getppid())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"it is another user's process"
    os.close(reader)
    os.close(writer)


@has_proc
def test_a_process_of_another_pid_namespace_cannot_own_a_session() -> None:
    unshare = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child"]
    try:
        subprocess.run([*unshare, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system allows no PID namespace")
    with subprocess.Popen(
        [*unshare, "sh", "-c", "echo; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as outer:
        assert outer.stdin is not None
        assert outer.stdout is not None
        outer.stdout.readline()
        with open(f"/proc/{outer.pid}/task/{outer.pid}/children", encoding="ascii") as children:
            inner = int(children.read())
        assert process.why_not_owner(outer.pid) is None
        assert process.why_not_owner(inner) == "it is in another PID namespace"
        outer.communicate()


# --- the files that a process uses ----------------------------------------------------------------------------------

NAME = "counters-1-5d0e8a11-0000-4000-8000-000000000001"
NOT_PIDS = [0, -1, 2**22 + 1, 2**70]


def identity_of(path: Path) -> tuple[int, int]:
    info = os.stat(path)
    return info.st_dev, info.st_ino


@contextmanager
def reader_of(path: Path, then: str = "") -> Iterator[int]:
    """Run a process that has the file open, and then does what the code says. Yields its pid."""
    code = f"import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); {then}\nprint(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"\n"
        yield reader.pid
        reader.communicate()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file that nothing has open."""
    file = tmp_path / NAME
    file.write_bytes(bytes(4096))
    return file


@has_proc
def test_a_process_that_maps_a_file_has_mapped_it(file: Path) -> None:
    inode = os.stat(file).st_ino
    assert not process.has_mapped(os.getpid(), inode)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 4096):
        assert process.has_mapped(os.getpid(), inode)
    assert not process.has_mapped(os.getpid(), inode)


@has_proc
def test_a_process_has_a_file_open_until_it_closes_it(file: Path) -> None:
    with reader_of(file) as pid:
        assert process.has_open(pid, NAME, identity_of(file))
    assert not process.has_open(pid, NAME, identity_of(file))
    with reader_of(file, "os.close(fd)") as pid:
        assert not process.has_open(pid, NAME, identity_of(file))


@has_proc
def test_a_file_whose_name_was_removed_is_still_open(file: Path) -> None:
    identity = identity_of(file)
    with reader_of(file) as pid:
        file.unlink()
        assert process.has_open(pid, NAME, identity)


@has_proc
@pytest.mark.parametrize("part", [0, 1], ids=["device", "inode"])
def test_another_file_of_the_same_name_is_not_the_open_one(file: Path, part: int) -> None:
    device, inode = identity_of(file)
    with reader_of(file) as pid:
        assert not process.has_open(pid, NAME, (device + (part == 0), inode + (part == 1)))


@has_proc
def test_a_file_of_another_name_is_not_asked_for_its_identity(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other file may be on a network that does not answer."""
    stat, asked = os.stat, []

    def noting(path: Any, **more: Any) -> os.stat_result:
        asked.append(os.readlink(path))
        return stat(path, **more)

    with reader_of(file) as pid:
        monkeypatch.setattr(os, "stat", noting)
        assert not process.has_open(pid, NAME, (0, 0))
    assert asked == [str(file)]


@has_proc
@pytest.mark.parametrize(("most", "found"), [(5, True), (6, False)])
def test_a_file_that_is_not_among_the_first_descriptors_counts_as_open_if_there_are_more(
    file: Path, most: int, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at thousands of descriptors would take too long."""
    monkeypatch.setattr(process, "MAX_FDS_CHECKED", most)
    with reader_of(file, "os.close(fd); [os.dup(0) for _ in range(3)]") as pid:  # beside stdin, stdout and stderr
        assert process.has_open(pid, NAME, identity_of(file)) is found


@has_proc
@pytest.mark.parametrize("pid", NOT_PIDS)
def test_a_number_that_is_not_a_process_uses_no_file(file: Path, pid: int) -> None:
    assert not process.has_mapped(pid, os.stat(file).st_ino)
    assert not process.has_open(pid, NAME, identity_of(file))


@has_proc
def test_a_process_that_exited_and_is_not_reaped_uses_no_file(file: Path) -> None:
    with reader_of(file) as pid:
        exit_fd = process.open_exit_fd(pid)
        assert exit_fd is not None
        os.kill(pid, signal.SIGKILL)
        assert is_readable(exit_fd, PATIENCE_S)
        assert not process.has_mapped(pid, os.stat(file).st_ino)
        assert not process.has_open(pid, NAME, identity_of(file))
        os.close(exit_fd)


def forbidden(*_arguments: Any, **_more: Any) -> Any:
    raise PermissionError


@has_proc
@pytest.mark.parametrize("call", ["builtins.open", "os.scandir", "os.readlink"])
def test_a_process_whose_files_may_not_be_read_uses_the_file_if_it_is_this_users(
    file: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode, identity = os.stat(file).st_ino, identity_of(file)

    def uses(pid: int) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(call, forbidden)
            return process.has_mapped(pid, inode) if call == "builtins.open" else process.has_open(pid, NAME, identity)

    with reader_of(file, "os.close(fd)") as pid:
        assert uses(pid)
        monkeypatch.setattr(os, "kill", forbidden)  # as for another user's process
        assert not uses(pid)


@has_proc
def test_a_descriptor_that_is_closed_while_it_is_looked_at_is_skipped(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readlink = os.readlink
    missed: list[str] = []

    def closing(path: Any) -> Any:
        if not missed:
            missed.append(path)
            raise FileNotFoundError(path)
        return readlink(path)

    with reader_of(file) as pid:
        monkeypatch.setattr(os, "readlink", closing)
        assert process.has_open(pid, NAME, identity_of(file))
    assert missed
