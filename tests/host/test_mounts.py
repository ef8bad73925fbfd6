"""A file is looked at by its mount first, and opened as what it was when it was looked at."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.host import mounts

from tests.silent_filesystem import bound

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the mount of a descriptor")


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "file").write_bytes(b"content")
    return str(tmp_path / "file")


@pytest.fixture
def mounted_over(tmp_path: Path, file: str) -> str:
    """Return a file that another file is mounted at. Both are of one filesystem, so only their mounts differ."""
    (tmp_path / "other").write_bytes(b"other")
    return str(tmp_path / "other")


def test_files_of_one_directory_are_of_one_mount(tmp_path: Path, file: str) -> None:
    fd = os.open(file, os.O_RDONLY)
    assert mounts.mount_id(fd) is not None
    assert mounts.is_local(fd, str(tmp_path))
    os.close(fd)


def test_a_pipe_is_of_no_directorys_mount(tmp_path: Path) -> None:
    ends = os.pipe()
    assert [mounts.is_local(fd, str(tmp_path)) for fd in ends] == [False, False]
    for fd in ends:
        os.close(fd)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs a memfd")
def test_a_memfd_is_local_to_every_directory_and_a_file_of_its_name_is_not(tmp_path: Path) -> None:
    memfd = os.memfd_create("any name")
    assert mounts.is_local(memfd, str(tmp_path))
    os.close(memfd)
    (tmp_path / "there").mkdir()
    (tmp_path / "elsewhere").mkdir()
    with bound(str(tmp_path / "elsewhere"), str(tmp_path / "there")):
        fd = os.open(tmp_path / "there" / "memfd:any name (deleted)", os.O_CREAT | os.O_RDWR, 0o600)
        assert not mounts.is_local(fd, str(tmp_path))
        os.close(fd)


def test_an_opened_file_has_the_lowest_free_number(file: str) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    fd = mounts.open_file(file, os.O_RDONLY)
    assert (fd, os.read(fd, 100), os.get_inheritable(fd)) == (lowest, b"content", False)
    os.close(fd)


def a_link(path: str) -> None:
    os.symlink(f"{path}-target", path)
    with open(f"{path}-target", "wb"):
        pass


def a_directory(path: str) -> None:
    os.mkdir(path)


@pytest.mark.parametrize("lay", [a_link, a_directory, os.mkfifo])
def test_what_is_not_a_regular_file_is_not_opened(tmp_path: Path, lay: Callable[[str], None]) -> None:
    path, before = str(tmp_path / "laid"), os.listdir("/proc/self/fd")
    lay(path)
    with pytest.raises(OSError, match="not a regular file"):
        mounts.open_file(path, os.O_RDWR)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_that_is_missing_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mounts.open_file(str(tmp_path / "missing"), os.O_RDWR | os.O_CREAT)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("look", [lambda path: mounts.open_file(path, os.O_RDONLY), mounts.lstat])
def test_a_path_at_which_something_is_mounted_is_not_looked_at(
    file: str, mounted_over: str, look: Callable[[str], object]
) -> None:
    with bound(mounted_over, file):
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="mounted") as raised:
            look(file)
        assert raised.value.errno == errno.EXDEV
        assert os.listdir("/proc/self/fd") == before


def test_the_information_about_a_link_is_its_own(tmp_path: Path) -> None:
    link = str(tmp_path / "link")
    a_link(link)
    assert mounts.lstat(link) == os.lstat(link)


@pytest.mark.parametrize("missing", ["O_PATH", "/proc"])
def test_a_platform_that_shows_no_mounts_opens_and_looks_plainly(
    tmp_path: Path, file: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "O_PATH":
        monkeypatch.setattr(mounts, "_O_PATH", None)
    monkeypatch.setattr(mounts, "mount_id", lambda _fd: None)
    before = os.listdir("/proc/self/fd")
    fd = mounts.open_file(file, os.O_RDONLY)
    assert mounts.is_local(fd, str(tmp_path))
    os.close(fd)
    assert mounts.lstat(file) == os.lstat(file)
    assert mounts.stat_on_mount(file, None) == os.stat(file)
    a_link(str(tmp_path / "link"))
    with pytest.raises(OSError, match="symbolic"):
        mounts.open_file(str(tmp_path / "link"), os.O_RDONLY)
    assert os.listdir("/proc/self/fd") == before


def test_a_shortage_of_descriptors_is_not_taken_for_a_platform_without_mounts(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(file, os.O_RDONLY)

    def is_short(*_arguments: object, **_more: object) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("builtins.open", is_short)
    assert not mounts.is_local(fd, str(tmp_path))
    os.close(fd)
