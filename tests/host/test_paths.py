"""Where our files are, and that nobody else's are taken for ours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.host import paths
from brakit_sidecar.host.paths import MAX_SOCKET_PATH

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runtime directory, as a login would make it."""
    directory = tmp_path / "r"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


def test_the_socket_is_in_the_users_runtime_directory(runtime: Path) -> None:
    assert paths.socket_path(os.environ) == str(runtime / "brakit" / "sidecar-1.sock")


def test_the_lock_is_beside_the_socket(runtime: Path) -> None:
    assert paths.lock_path(paths.socket_path(os.environ)) == str(runtime / "brakit" / "sidecar-1.lock")


def test_without_a_runtime_directory_there_is_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    found = paths.runtime_dir(os.environ)
    assert found in (f"/tmp/brakit-{os.getuid()}", f"/run/user/{os.getuid()}/brakit")


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750])
def test_a_runtime_directory_that_others_can_enter_is_none(runtime: Path, mode: int) -> None:
    runtime.chmod(mode)
    assert not paths.runtime_dir(os.environ).startswith(str(runtime))


def test_a_runtime_directory_that_is_a_link_is_none(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = runtime.parent / "link"
    link.symlink_to(runtime)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(link))
    assert not paths.runtime_dir(os.environ).startswith(str(link))


def test_tmpdir_decides_nothing(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It differs between shells, and all of a user's processes must come to the same answer."""
    found = []
    for tmpdir in ("/tmp", str(runtime.parent)):
        monkeypatch.setenv("TMPDIR", tmpdir)
        named = (str(runtime), "", str(runtime / ("x" * 200)))
        found += [paths.runtime_dir({**os.environ, "XDG_RUNTIME_DIR": directory}) for directory in named]
    assert found[:3] == found[3:]


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_a_path_that_is_too_long_for_a_socket_falls_back_measured_in_bytes(
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


# --- ours alone ---------------------------------------------------------------------------------------


def test_the_config_is_brakits_own(tmp_path: Path) -> None:
    assert paths.config_path({"HOME": str(tmp_path)}) == str(tmp_path / ".brakit" / "config.json")


def test_the_state_directory_is_platformdirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert paths.state_dir().endswith("brakit")
