"""The worker's side that ``run`` lends to an environment without brakit-sidecar."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import run_to_end

if TYPE_CHECKING:
    from tests.harness import Place


@pytest.fixture(scope="session")
def lent(directory: str) -> str:
    """Return the directory that holds the lent package."""
    return os.path.join(os.path.dirname(directory), "lib")


def run(python: str, lent: str, code: str, place: Place) -> None:
    """Run code that can import the standard library and the lent package only."""
    ran = run_to_end([python, "-I", "-S", "-c", f"import sys; sys.path.append({lent!r})\n{code}"], place.environ)
    assert (ran.returncode, ran.stderr) == (0, "")


EVERY_MODULE = """
import brakit_sidecar, importlib, os, pkgutil
for folder in ("client", "host", "integrations"):
    path = os.path.join(os.path.dirname(brakit_sidecar.__file__), folder)
    for module in pkgutil.iter_modules([path]):
        importlib.import_module(f"brakit_sidecar.{folder}.{module.name}")
import brakit_sidecar.core.schema  # for the message about a mistake
"""


def test_it_needs_the_standard_library_only(python: str, lent: str, place: Place) -> None:
    run(python, lent, EVERY_MODULE, place)


WORKER = """
def forbid(event, arguments):
    assert event not in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork", "os.forkpty"), arguments

sys.addaudithook(forbid)
import brakit_sidecar
telemetry = brakit_sidecar.connect(start=True)
assert type(telemetry) is not brakit_sidecar.Telemetry
telemetry.incr("request_count")
telemetry.close()
"""


def test_it_starts_no_daemon_because_it_holds_none(python: str, lent: str, place: Place) -> None:
    """A daemon of the application's Python could not run, and would be tried again and again."""
    run(python, lent, WORKER, place)
    assert not os.path.exists(place.socket_path)


def test_the_installed_package_starts_a_daemon(place: Place) -> None:
    """The audit hook of the test before this one therefore sees an attempt."""
    ran = run_to_end([sys.executable, "-c", f"import sys\n{WORKER}"], {**place.environ, "BRAKIT_DEBUG": "1"})
    assert "subprocess.Popen" in ran.stderr
