"""Tests of the wheel: its contents, its use alone in an environment, and its use beside PyPI's ``sidecar``."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar import __version__

from tests.e2e.serving import REPOSITORY, SOURCES
from tests.harness import PATIENCE_S, Endpoint, Place, run_to_end

if TYPE_CHECKING:
    from collections.abc import Iterator
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


# --- where the package and its dependencies may be ------------------------------------------------------------


def _site_packages(commands: Path) -> Path:
    (found,) = commands.parent.glob("lib/python*/site-packages")
    return found


@pytest.fixture
def traces_of_code(commands: Path, tmp_path: Path) -> Iterator[Path]:
    """Give a file that the environment's own start-up code writes to in a daemon: a .pth file and a sitecustomize."""
    traces = tmp_path / "traces"
    files = [_site_packages(commands) / name for name in ("traces.pth", "sitecustomize.py")]
    for file in files:
        trace = f"open({str(traces)!r}, 'a').write({file.name + ' '!r})"
        file.write_text(f"import os; 'BRAKIT_SIDECAR_DAEMON' in os.environ and {trace}\n")
    subprocess.run([commands / "python", "-c", ""], env={"BRAKIT_SIDECAR_DAEMON": "1"}, check=True)
    assert {*traces.read_text().split()} == {"traces.pth", "sitecustomize.py"}  # as any Python of this environment does
    traces.unlink()
    yield traces
    for file in files:
        file.unlink()


def test_a_daemon_runs_no_start_up_code_of_its_environment(
    commands: Path, traces_of_code: Path, tmp_path: Path
) -> None:
    with closing(Endpoint()) as endpoint, Place(endpoint.url) as place:
        emit = [str(commands / "brakit-sidecar"), "emit", "cli_invoked"]
        assert run_to_end(emit, place.environ, str(tmp_path)).returncode == 0
        endpoint.wait_for("cli_invoked")
    assert not traces_of_code.exists()


def test_the_daemon_finds_its_packages_in_a_directory_of_pythonpath(commands: Path, tmp_path: Path) -> None:
    """As ``pip install --target`` leaves them."""
    os.symlink(_site_packages(commands), tmp_path / "target")
    _emit_and_receive(tmp_path, PYTHONPATH=str(tmp_path / "target"))


def test_the_daemon_finds_its_packages_in_the_users_site_directory(commands: Path, tmp_path: Path) -> None:
    """As ``pip install --user`` leaves them."""
    environ = {**os.environ, "PYTHONUSERBASE": str(tmp_path)}
    show = [_base_python(), "-c", "import site; print(site.getusersitepackages())"]
    directory = subprocess.run(show, env=environ, capture_output=True, text=True, check=True).stdout.strip()
    os.makedirs(os.path.dirname(directory))
    os.symlink(_site_packages(commands), directory)
    _emit_and_receive(tmp_path, PYTHONUSERBASE=str(tmp_path))


def _base_python() -> str:
    """Return this Python outside of any virtual environment."""
    return os.path.join(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")


def _emit_and_receive(directory: Path, **environ: str) -> None:
    with closing(Endpoint()) as endpoint, Place(endpoint.url) as place:
        emit = [_base_python(), "-m", "brakit_sidecar", "emit", "cli_invoked"]
        ran = run_to_end(emit, {**place.environ, **environ}, str(directory))
        assert (ran.returncode, ran.stderr) == (0, "")
        endpoint.wait_for("cli_invoked")


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
