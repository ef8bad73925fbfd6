from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.e2e.serving import REPOSITORY
from tests.harness import PATIENCE_S, Place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it; with the builder that is installed here, else with one that pip fetches."""
    directory = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    _pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(directory), REPOSITORY)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the commands of a venv that holds the wheel and what it asks for, and nothing else."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, symlinks=True)
    _pip("--python", str(directory / "bin" / "python"), "install", "--prefer-binary", str(wheel))
    return directory / "bin"


def _pip(*arguments: str) -> None:
    ran = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_wheel_holds_the_package_and_its_metadata_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.split("/")[0] for name in archive.namelist()}
    package, metadata = sorted(roots, key=lambda root: root.endswith(".dist-info"))
    assert (package, metadata.partition("-")[0], len(roots)) == ("sidecar", "brakit_sidecar", 2)


def test_the_wheel_holds_every_file_of_the_package_and_the_units(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("brakit_sidecar/")}
    sources = _files_below(os.path.join(REPOSITORY, "sidecar", "brakit_sidecar"))
    units = _files_below(os.path.join(REPOSITORY, "systemd"))
    assert "py.typed" in sources
    assert held == {f"brakit_sidecar/{name}" for name in sources} | {f"brakit_sidecar/systemd/{name}" for name in units}


def _files_below(directory: str) -> set[str]:
    return {
        os.path.relpath(os.path.join(place, name), directory)
        for place, _, names in os.walk(directory)
        for name in names
        if not name.endswith(".pyc")
    }


def test_the_demo_runs_from_the_wheel_alone(commands: Path, tmp_path: Path) -> None:
    with Place() as place:
        ran = subprocess.run(
            [str(commands / "brakit-sidecar"), "demo"],
            env=place.environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert '"event":"session"' in ran.stdout


def test_the_installed_package_is_the_wheels(commands: Path, tmp_path: Path) -> None:
    """Else the other tests of this file would have tested the tree."""
    where = [str(commands / "python"), "-c", "import brakit_sidecar; print(brakit_sidecar.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(commands.parent))
