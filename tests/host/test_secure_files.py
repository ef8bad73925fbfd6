"""Files of this user alone. A foreign file at one of their paths is not used, followed or changed."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.host import secure_files
from brakit_sidecar.host.secure_files import UnsafePathError

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secure_files.ensure_directory(str(tmp_path / "above" / "ours"))
    finally:
        os.umask(before)
    assert mode(tmp_path / "above" / "ours") == 0o700


def test_a_directory_with_a_wider_mode_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir(mode=0o755)
    secure_files.ensure_directory(str(tmp_path / "ours"))
    assert mode(tmp_path / "ours") == 0o700


def test_a_link_is_refused_and_its_target_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "ours").symlink_to(tmp_path / "target")
    with pytest.raises(UnsafePathError, match=r"ours .*remove it"):
        secure_files.ensure_directory(str(tmp_path / "ours"))
    assert (tmp_path / "ours").is_symlink()
    assert mode(tmp_path / "target") == 0o755


def test_a_file_instead_of_a_directory_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("another program's")
    with pytest.raises(UnsafePathError, match=r"ours .*remove it"):
        secure_files.ensure_directory(str(tmp_path / "ours"))
    assert (tmp_path / "ours").read_text() == "another program's"


def test_the_error_names_the_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "above").write_text("")
    with pytest.raises(UnsafePathError, match=r"above/ours"):
        secure_files.ensure_directory(str(tmp_path / "above" / "ours"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir(mode=0o700)
    os.chown(tmp_path / "ours", 12345, 12345)
    with pytest.raises(UnsafePathError, match="another user"):
        secure_files.ensure_directory(str(tmp_path / "ours"))
    assert mode(tmp_path / "ours") == 0o700


def test_a_new_file_is_private_and_a_wider_mode_is_reduced(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(secure_files.open_file(str(tmp_path / "ours"), os.O_WRONLY | os.O_CREAT))
    finally:
        os.umask(before)
    assert mode(tmp_path / "ours") == 0o600
    (tmp_path / "ours").chmod(0o644)
    os.close(secure_files.open_file(str(tmp_path / "ours"), os.O_RDONLY))
    assert mode(tmp_path / "ours") == 0o600


def test_a_link_is_not_opened_and_its_target_is_not_truncated(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("another program's")
    (tmp_path / "ours").symlink_to(tmp_path / "target")
    with pytest.raises(UnsafePathError, match=r"cannot open .*ours .*remove it"):
        secure_files.open_file(str(tmp_path / "ours"), os.O_WRONLY | os.O_TRUNC)
    assert (tmp_path / "target").read_text() == "another program's"


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ours")
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT):
        with pytest.raises(UnsafePathError, match="remove it"):
            secure_files.open_file(str(tmp_path / "ours"), flags)


def test_a_missing_file_raises_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        secure_files.open_file(str(tmp_path / "ours"), os.O_RDONLY)


def test_only_a_file_of_this_user_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "ours").mkdir()
    with pytest.raises(UnsafePathError, match="remove it"):
        secure_files.replace(str(tmp_path / "ours"), by=str(tmp_path / "new"))
    (tmp_path / "ours").rmdir()
    (tmp_path / "ours").write_text("old")
    secure_files.replace(str(tmp_path / "ours"), by=str(tmp_path / "new"))
    assert (tmp_path / "ours").read_text() == "new"


def test_a_socket_is_not_a_file_and_a_link_is_neither_a_file_nor_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        found = {
            name: (secure_files.is_own_file(path), secure_files.is_own_socket(path))
            for name, path in paths_in(tmp_path)
        }
    assert found == {"file": (True, False), "link": (False, False), "socket": (False, True), "nothing": (False, False)}


def paths_in(directory: Path) -> list[tuple[str, str]]:
    return [(name, str(directory / name)) for name in ("file", "link", "socket", "nothing")]


# --- a directory that is replaced by a link ------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Return a directory that is a link by now. Its target has another program's file of the same name."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "ours").write_text("another program's")
    (tmp_path / "target" / "new").write_text("another program's")
    (tmp_path / "directory").symlink_to(tmp_path / "target")
    return tmp_path / "directory"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_CREAT | os.O_TRUNC])
def test_a_file_in_a_linked_directory_is_not_opened(linked: Path, flags: int) -> None:
    for name in ("ours", "missing"):
        with pytest.raises(UnsafePathError, match="directory is not a usable directory"):
            secure_files.open_file(str(linked / name), flags)
    assert (linked / "ours").read_text() == "another program's"
    assert not (linked / "missing").exists()


def test_a_file_in_a_linked_directory_is_neither_replaced_nor_removed_nor_listed(linked: Path) -> None:
    for call in (
        lambda: secure_files.replace(str(linked / "ours"), by=str(linked / "new")),
        lambda: secure_files.unlink(str(linked / "ours")),
        lambda: secure_files.names_in(str(linked)),
    ):
        with pytest.raises(UnsafePathError, match="directory is not a usable directory"):
            call()
    assert sorted(os.listdir(linked)) == ["new", "ours"]


def test_a_directory_that_is_replaced_between_check_and_use_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours").mkdir(mode=0o700)
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("another program's")
    plain = os.open

    def replacing(path: str, *arguments: int, **more: int) -> int:
        fd = plain(path, *arguments, **more)
        if path == str(tmp_path / "ours"):
            (tmp_path / "ours").rename(tmp_path / "moved")
            (tmp_path / "ours").symlink_to(tmp_path / "target")
        return fd

    monkeypatch.setattr(os, "open", replacing)
    os.close(secure_files.open_file(str(tmp_path / "ours" / "file"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    assert (tmp_path / "target" / "file").read_text() == "another program's"
    assert (tmp_path / "moved" / "file").read_text() == ""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_file_in_another_users_directory_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(UnsafePathError, match="another user"):
        secure_files.open_file(str(tmp_path / "theirs" / "ours"), os.O_WRONLY | os.O_CREAT)
    assert os.listdir(tmp_path / "theirs") == []


# --- hard links and removal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_CREAT | os.O_TRUNC])
def test_a_file_with_a_second_name_is_refused_and_not_changed(tmp_path: Path, flags: int) -> None:
    (tmp_path / "elsewhere").write_text("authorized keys")
    (tmp_path / "elsewhere").chmod(0o644)
    os.link(tmp_path / "elsewhere", tmp_path / "ours")
    with pytest.raises(UnsafePathError, match="ours has a second name; remove it"):
        secure_files.open_file(str(tmp_path / "ours"), flags)
    assert (tmp_path / "elsewhere").read_text() == "authorized keys"
    assert mode(tmp_path / "elsewhere") == 0o644


def test_a_file_with_a_second_name_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("authorized keys")
    (tmp_path / "new").write_text("new")
    os.link(tmp_path / "elsewhere", tmp_path / "ours")
    with pytest.raises(UnsafePathError, match="second name"):
        secure_files.replace(str(tmp_path / "ours"), by=str(tmp_path / "new"))
    with pytest.raises(UnsafePathError, match="second name"):
        secure_files.unlink(str(tmp_path / "ours"))
    assert (tmp_path / "ours").read_text() == "authorized keys"


def test_only_a_file_of_this_user_is_removed(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("")
    secure_files.unlink(str(tmp_path / "ours"))
    (tmp_path / "target").write_text("another program's")
    (tmp_path / "ours").symlink_to("target")
    with pytest.raises(UnsafePathError, match="remove it"):
        secure_files.unlink(str(tmp_path / "ours"))
    assert sorted(os.listdir(tmp_path)) == ["ours", "target"]
    with pytest.raises(FileNotFoundError):
        secure_files.unlink(str(tmp_path / "missing"))
