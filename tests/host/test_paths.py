"""The paths of this program's files. No path leads to another user's file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import platformdirs
import pytest
from brakit_sidecar.host import paths
from brakit_sidecar.host.paths import MAX_SOCKET_PATH

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's runtime directory, as a login makes it."""
    directory = tmp_path / "r"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


def test_the_socket_is_in_the_runtime_directory_of_the_user(runtime: Path) -> None:
    assert paths.socket_path(os.environ) == str(runtime / "brakit" / "sidecar-1.sock")


def test_the_lock_is_beside_the_socket(runtime: Path) -> None:
    assert paths.lock_path(paths.socket_path(os.environ)) == str(runtime / "brakit" / "sidecar-1.lock")


def test_the_runtime_directory_is_a_short_fallback_if_the_environment_names_no_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    found = paths.runtime_dir(os.environ)
    assert found in (f"/tmp/brakit-{os.getuid()}", f"/run/user/{os.getuid()}/brakit")


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750])
def test_a_runtime_directory_that_other_users_can_enter_is_not_used(runtime: Path, mode: int) -> None:
    runtime.chmod(mode)
    assert not paths.runtime_dir(os.environ).startswith(str(runtime))


def test_a_runtime_directory_that_is_a_link_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = runtime.parent / "link"
    link.symlink_to(runtime)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(link))
    assert not paths.runtime_dir(os.environ).startswith(str(link))


def test_tmpdir_does_not_change_the_runtime_directory(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR differs between shells, but all processes of a user need the same path."""
    found = []
    for tmpdir in ("/tmp", str(runtime.parent)):
        monkeypatch.setenv("TMPDIR", tmpdir)
        named = (str(runtime), "", str(runtime / ("x" * 200)))
        found += [paths.runtime_dir({**os.environ, "XDG_RUNTIME_DIR": directory}) for directory in named]
    assert found[:3] == found[3:]


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_a_fallback_is_used_if_the_socket_path_would_have_too_many_bytes(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    rest = len("/brakit/sidecar-1.sock")
    room = MAX_SOCKET_PATH - rest - len(os.fsencode(runtime)) - 1
    width = len(letter.encode())
    fits, exceeds = runtime / (letter * (room // width)), runtime / (letter * (room // width + 1))
    for directory in (fits, exceeds):
        directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(fits))
    assert paths.runtime_dir(os.environ) == str(fits / "brakit")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(exceeds))
    fallback = paths.runtime_dir(os.environ)
    assert fallback.startswith(f"/tmp/brakit-{os.getuid()}-")
    assert len(os.fsencode(paths.socket_path(os.environ))) <= MAX_SOCKET_PATH


def test_two_long_runtime_directories_have_two_fallbacks(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for name in ("x" * 120, "y" * 120):
        (runtime / name).mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / name))
        found.add(paths.runtime_dir(os.environ))
    assert len(found) == 2


# --- the other files ---------------------------------------------------------------------------------------


def test_the_config_path_is_the_path_that_brakit_uses(tmp_path: Path) -> None:
    assert paths.config_path({"HOME": str(tmp_path)}) == str(tmp_path / ".brakit" / "config.json")


@pytest.mark.parametrize("named", [True, False], ids=["XDG_STATE_HOME", "HOME"])
def test_the_state_directory_is_the_directory_of_platformdirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    if named:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert paths.state_dir() == platformdirs.user_state_dir("brakit", appauthor=False)


def test_the_state_directory_is_never_in_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "not/absolute")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert os.path.isabs(paths.state_dir())


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux, the path is computed without platformdirs")
def test_our_own_runtime_directory_is_the_directory_of_platformdirs(runtime: Path) -> None:
    assert paths.runtime_dir(os.environ) == platformdirs.user_runtime_dir("brakit", appauthor=False)
    assert paths.runtime_dir(os.environ) == str(runtime / "brakit")


@pytest.mark.skipif(not os.path.isdir(f"/run/user/{os.getuid()}"), reason="this user has no /run/user directory")
def test_without_the_variable_our_own_runtime_directory_is_the_directory_of_platformdirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert paths.runtime_dir(os.environ) == platformdirs.user_runtime_dir("brakit", appauthor=False)
