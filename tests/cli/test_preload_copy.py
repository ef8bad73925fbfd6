"""The private copy of the preload files: complete, private, restored, and apart from the installed package."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.cli import preload_copy
from brakit_sidecar.cli.preload_copy import PreloadCopy
from brakit_sidecar.core.version import __version__

from tests.harness import run_to_end

if TYPE_CHECKING:
    from pathlib import Path

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that a file was removed")

FILES = {"node/brakit.cjs": b"'use strict'", "python/sitecustomize.py": b"import sys", "lib/p/q.py": b""}


@pytest.fixture
def copy(tmp_path: Path) -> PreloadCopy:
    return PreloadCopy(str(tmp_path / "state" / "preload"), FILES)


def contents(copy: PreloadCopy) -> dict[str, bytes]:
    root = os.path.dirname(copy.paths.python)
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def test_every_file_is_written(copy: PreloadCopy) -> None:
    copy.ensure()
    assert contents(copy) == FILES


def test_directories_are_0700_and_files_0600(copy: PreloadCopy) -> None:
    copy.ensure()
    for directory, folders, names in os.walk(os.path.dirname(copy.paths.python)):
        modes = {stat.S_IMODE(os.stat(os.path.join(directory, folder)).st_mode) for folder in folders}
        assert modes <= {0o700}
        assert {stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) for name in names} <= {0o600}


def test_a_complete_copy_is_not_written_again(copy: PreloadCopy) -> None:
    copy.ensure()
    before = os.stat(copy.paths.node).st_ino
    copy.ensure()
    assert os.stat(copy.paths.node).st_ino == before


@pytest.mark.parametrize("spoil", ["missing", "truncated", "longer", "a link", "unreadable"])
def test_a_spoilt_file_is_written_again(copy: PreloadCopy, spoil: str, tmp_path: Path) -> None:
    copy.ensure()
    path = copy.paths.node
    if spoil in ("truncated", "longer"):
        with open(path, "wb") as file:
            file.write(b"" if spoil == "truncated" else FILES["node/brakit.cjs"] + b";")
    elif spoil == "unreadable":
        os.chmod(path, 0)
    else:
        os.unlink(path)
    if spoil == "a link":
        target = tmp_path / "elsewhere"
        target.write_bytes(FILES["node/brakit.cjs"])
        os.symlink(target, path)
        with pytest.raises(OSError, match="is not a file of this user"):
            copy.ensure()
        return
    copy.ensure()
    assert contents(copy) == FILES


def test_the_copy_of_another_content_is_another_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one = preload_copy.of_this_package().paths
    monkeypatch.setattr(preload_copy, "_files", lambda: FILES)
    other = preload_copy.of_this_package().paths
    assert one.python != other.python
    assert f"preload-{__version__}-" in one.python


def test_the_copy_needs_nothing_of_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    copy = preload_copy.of_this_package()
    copy.ensure()
    lib = os.path.join(os.path.dirname(copy.paths.python), "lib")
    code = "import sys; sys.path[:0] = [sys.argv[1]]; import brakit_sidecar.client.joining as j; print(j.__file__)"
    printed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, lib], capture_output=True, text=True, check=True
    ).stdout
    assert printed.startswith(lib)


def test_the_copy_holds_neither_the_daemon_nor_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    copy = preload_copy.of_this_package()
    copy.ensure()
    lent = os.path.join(os.path.dirname(copy.paths.python), "lib", "brakit_sidecar")
    assert sorted(os.listdir(lent)) == ["__init__.py", "client", "core", "host", "integrations"]


def test_the_python_directory_holds_sitecustomize_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    copy = preload_copy.of_this_package()
    copy.ensure()
    assert os.listdir(copy.paths.python) == ["sitecustomize.py"]


def test_a_removal_that_goes_on_during_the_restoration_is_restored(
    copy: PreloadCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    removals = [copy.paths.node, copy.paths.node]

    def remove_once_more() -> None:
        """Stand in for the moment in which the directories are watched."""
        if removals:
            os.unlink(removals.pop())

    monkeypatch.setattr(copy, "watch", remove_once_more)
    copy.restore()
    assert contents(copy) == FILES


def test_a_restoration_that_is_not_possible_ends(copy: PreloadCopy, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory would be")
    copy.restore()
    assert (tmp_path / "state").is_file()


# Removes a file or a directory of the copy, twice, and prints whether the kernel's signal led to its restoration. It is
# a process of its own, because SIGIO ends a process in which another thread has not blocked it.
REMOVES = """
import os, shutil, signal, sys
from brakit_sidecar.cli.preload_copy import PreloadCopy
files = {"node/brakit.cjs": b"'use strict'", "python/sitecustomize.py": b"import sys", "lib/p/q.py": b""}
copy = PreloadCopy(sys.argv[1], files)
copy.ensure()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
copy.watch()
for _ in range(2):
    removed = os.path.join(sys.argv[1], sys.argv[2])
    shutil.rmtree(removed) if os.path.isdir(removed) else os.unlink(removed)
    is_signalled = signal.sigtimedwait({signal.SIGIO}, 60) is not None
    copy.restore()
    while signal.sigtimedwait({signal.SIGIO}, 0) is not None:
        pass
    print(is_signalled, all(os.path.exists(os.path.join(sys.argv[1], name)) for name in files))
"""


@on_linux
@pytest.mark.parametrize("removed", ["node/brakit.cjs", "node", ""], ids=["file", "node directory", "whole copy"])
def test_a_removal_is_signalled_and_the_copy_restored(tmp_path: Path, removed: str) -> None:
    ran = run_to_end([sys.executable, "-c", REMOVES, str(tmp_path / "preload"), removed], os.environ)
    assert (ran.stdout, ran.stderr) == ("True True\n" * 2, "")
