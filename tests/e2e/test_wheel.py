"""Tests of the wheel: its contents, its use alone in an environment, and its use beside PyPI's ``sidecar``."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar import __version__

from tests.e2e.serving import REPOSITORY, SOURCES
from tests.harness import PATIENCE_S, Place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built as pip builds it. Uses the installed hatchling, or else a hatchling that pip fetches."""
    directory = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    _pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(directory), REPOSITORY)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``bin`` directory of a virtual environment that holds only the wheel and its dependencies."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, symlinks=True)
    _pip_into(directory, "--prefer-binary", str(wheel))
    return directory / "bin"


def _pip(*arguments: str) -> None:
    ran = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _pip_into(environment: Path, *arguments: str) -> None:
    """Install into a virtual environment, which needs no pip of its own."""
    _pip("--python", str(environment / "bin" / "python"), "install", *arguments)


def test_the_wheel_holds_the_package_and_its_metadata_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.split("/")[0] for name in archive.namelist()}
    assert roots == {"brakit_sidecar", f"brakit_sidecar-{__version__}.dist-info"}


def test_the_wheel_holds_every_file_of_the_package_the_units_and_what_node_loads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("brakit_sidecar/")}
    sources = _files_below(os.path.join(SOURCES, "brakit_sidecar"))
    units = _files_below(os.path.join(REPOSITORY, "systemd"))
    modules = {name for name in _files_below(os.path.join(SOURCES, "node")) if name.endswith(".cjs")}
    assert "py.typed" in sources
    assert "brakit.cjs" in modules
    assert held == {
        *(f"brakit_sidecar/{name}" for name in sources),
        *(f"brakit_sidecar/systemd/{name}" for name in units),
        *(f"brakit_sidecar/preload/node/{name}" for name in modules),
    }


def _files_below(directory: str) -> set[str]:
    return {
        os.path.relpath(os.path.join(parent, name), directory)
        for parent, _, names in os.walk(directory)
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


def test_the_preload_files_of_the_wheel_are_those_of_the_checkout(commands: Path, tmp_path: Path) -> None:
    copies = []
    with Place() as place:
        for python in (commands / "python", sys.executable):
            ran = subprocess.run(
                [str(python), "-m", "brakit_sidecar", "run", "--", "printenv", "NODE_OPTIONS", "PYTHONPATH"],
                env=place.environ,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=True,
            )
            copies.append(ran.stdout)
    assert "preload-" in copies[0]
    assert copies[0] == copies[1]


def test_the_installed_package_is_the_package_of_the_wheel(commands: Path, tmp_path: Path) -> None:
    """Show that the test of the demo did not run the checkout."""
    code = "import brakit_sidecar; print(brakit_sidecar.__file__)"
    assert _output(tmp_path, commands / "python", "-c", code).startswith(str(commands.parent))


def _output(directory: Path, *command: Path | str) -> str:
    return subprocess.run(list(map(str, command)), cwd=directory, capture_output=True, text=True, check=True).stdout


# --- beside PyPI's package `sidecar` --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a stand-in for PyPI's ``sidecar`` 0.8.1, with the same name, version and modules but no dependency."""
    path = tmp_path_factory.mktemp("other") / "sidecar-0.8.1-py3-none-any.whl"
    metadata = "sidecar-0.8.1.dist-info"
    files = {
        "sidecar/__init__.py": "from ._version import __version__\nfrom .sidecar import Sidecar\n",
        "sidecar/_frontend.py": "",
        "sidecar/_version.py": "__version__ = '0.8.1'\n",
        "sidecar/sidecar.py": "class Sidecar: pass\n",
        f"{metadata}/METADATA": "Metadata-Version: 2.1\nName: sidecar\nVersion: 0.8.1\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{metadata}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, f"{metadata}/RECORD": record}.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("first", ["brakit-sidecar", "sidecar"])
def test_the_wheel_and_the_package_sidecar_work_beside_each_other(
    wheel: Path, other_sidecar: Path, tmp_path: Path, first: str
) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    for installed in (wheel, other_sidecar) if first == "brakit-sidecar" else (other_sidecar, wheel):
        _pip_into(tmp_path / "venv", "--no-deps", str(installed))
    code = "import sidecar, brakit_sidecar; print(sidecar.Sidecar.__name__, brakit_sidecar.connect.__name__)"
    commands = tmp_path / "venv" / "bin"
    assert _output(tmp_path, commands / "python", "-c", code) == "Sidecar connect\n"
    assert __version__ in _output(tmp_path, commands / "brakit-sidecar", "--version")
