"""Commands in a directory whose files have the names of our package, of its parent folder and of the standard
library's modules. None of these files is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.host import launch

from tests.harness import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Endpoint, Place

# `python -m` itself imports these modules before it runs any code of the package. Every file of the package imports
# `__future__`.
LOADED_BEFORE = {
    "__future__", "abc", "codecs", "collections", "contextlib", "encodings", "functools", "genericpath", "importlib",
    "io", "keyword", "linecache", "ntpath", "operator", "os", "pkgutil", "posixpath", "reprlib", "runpy", "site",
    "sitecustomize", "stat", "time", "types", "usercustomize", "warnings", "zipimport",
}  # fmt: skip
SHADOWED = sorted(
    name
    for name in sys.stdlib_module_names
    if name not in LOADED_BEFORE and name not in sys.builtin_module_names and not name.startswith("_")
)
IMPORTED = (
    "import sys; sys.stderr.write(__name__ + ' is imported from the working directory\\n')\nraise SystemExit(70)\n"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with a package ``sidecar``, and a file for each module of the standard library."""
    (tmp_path / "sidecar").mkdir()
    (tmp_path / "sidecar" / "__init__.py").write_text(IMPORTED)
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text(IMPORTED)
    return tmp_path


def run_in(directory: Path, place: Place, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "brakit_sidecar", *arguments],
        env={**place.environ, **environ},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_modules_that_a_daemon_and_a_command_load_are_shadowed() -> None:
    assert {"asyncio", "json", "logging", "select", "signal", "socket", "ssl", "subprocess", "uuid"} <= {*SHADOWED}


@pytest.mark.parametrize("command", ["schema", "status", "telemetry", "log", "--version", "run -- true"])
def test_a_command_imports_nothing_from_the_working_directory(directory: Path, place: Place, command: str) -> None:
    ran = run_in(directory, place, *command.split())
    # status exits with 1 if no daemon runs.
    assert (ran.returncode, ran.stderr) == (1 if command == "status" else 0, "")


def test_a_worker_below_run_counts_although_its_directory_has_a_package_sidecar(
    tmp_path: Path, place: Place, endpoint: Endpoint
) -> None:
    (tmp_path / "sidecar").mkdir()
    (tmp_path / "sidecar" / "__init__.py").write_text("name = 'of the application'\n")
    (tmp_path / "app.py").write_text(
        "import sidecar, brakit_sidecar\n"
        "assert sidecar.name == 'of the application'\n"
        "brakit_sidecar.connect().incr('request_count', 3)\n"
    )
    ran = run_in(tmp_path, place, "run", "--", sys.executable, "app.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert endpoint.only_session()["request_count"] == 3


@pytest.mark.skipif(sys.version_info < (3, 11), reason="safe mode is newer than this Python")
def test_in_safe_mode_the_first_directory_of_the_users_pythonpath_is_kept(directory: Path, place: Place) -> None:
    (directory / "first").mkdir()
    (directory / "first" / "uuid.py").write_text("import sys; sys.exit('the first of PYTHONPATH')\n")
    ran = run_in(directory, place, "session", "start", PYTHONSAFEPATH="1", PYTHONPATH=str(directory / "first"))
    assert ran.stderr == "the first of PYTHONPATH\n"


def test_a_command_works_in_a_directory_that_was_removed(tmp_path: Path, place: Place) -> None:
    """In a removed directory, Python adds no entry to sys.path. The first entry is the user's and must be kept."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "uuid.py").write_text("import sys; sys.exit('the first of PYTHONPATH')\n")
    gone = tmp_path / "gone"
    gone.mkdir()
    command = 'rmdir "$1" && exec "$2" -m brakit_sidecar session start'
    ran = subprocess.run(
        ["sh", "-c", command, "sh", str(gone), sys.executable],
        env={**place.environ, "PYTHONPATH": str(packages)},
        cwd=gone,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.stderr == "the first of PYTHONPATH\n"


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """Return a directory of modules and packages that write their names into the file ``sprung`` when they run."""
    trap = f"with open({str(tmp_path / 'sprung')!r}, 'a') as file: print(__name__, file=file)\n"
    directory = tmp_path / "traps"
    directory.mkdir()
    for name in (*SHADOWED, "sitecustomize", "usercustomize", "anyio", "orjson"):
        (directory / f"{name}.py").write_text(trap)
    for name in ("sidecar", "brakit_sidecar", "aiohttp"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text(trap)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("command", ["demo", "audit"])
def test_a_self_test_runs_no_code_of_the_users_directory_and_pythonpath(
    traps: Path, place: Place, command: str
) -> None:
    """The command's own process is isolated by the test, because PYTHONPATH is the user's own choice there."""
    ran = subprocess.run(
        launch.isolated_command(command),
        env={**place.environ, "PYTHONPATH": str(traps)},
        cwd=traps,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not (traps.parent / "sprung").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["demo", "audit"])
def test_an_installed_self_test_runs_no_code_of_the_users_directory(traps: Path, place: Place, command: str) -> None:
    installed = os.path.join(os.path.dirname(sys.executable), "brakit-sidecar")
    ran = subprocess.run(
        [installed, command],
        env=place.environ,
        cwd=traps,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not (traps.parent / "sprung").exists()


def test_the_entry_point_is_importable() -> None:
    code = "import sys; before = [*sys.path]; from brakit_sidecar.__main__ import main; assert sys.path == before"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
