"""The worker's side runs on Python 3.9, although the daemon and the commands need 3.10."""

from __future__ import annotations

import os
import subprocess
import sys

import brakit_sidecar
import pytest

from tests.e2e.test_counter_files import find_python
from tests.harness import PATIENCE_S, Place, Wire, new_id, wait_until

PACKAGE = os.path.dirname(brakit_sidecar.__file__)
VERMIN = "from vermin import main; main()"
FOLDERS = ("client", "host", "integrations")
FILES = ("__init__.py", *(f"core/{name}.py" for name in ("counter_layout", "limits", "version", "wire")))
FILES_FOR_A_MISTAKE = ("core/schema.py", "core/domains.py", "core/rules.py")


def test_no_syntax_and_no_library_call_is_newer_than_python_3_9() -> None:
    checked = [os.path.join(PACKAGE, name) for name in (*FOLDERS, *FILES, *FILES_FOR_A_MISTAKE)]
    vermin = subprocess.run(
        [sys.executable, "-c", VERMIN, "--target=3.9-", "--no-tips", "--violations", *checked],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert vermin.returncode == 0, vermin.stdout


@pytest.fixture(scope="module")
def python39() -> str:
    found = find_python("3.9")
    if found is None:
        pytest.skip("no python3.9 was found")
    return found


EVERY_MODULE = """
import os, pkgutil, sys
import brakit_sidecar
for folder in ("client", "host", "integrations"):
    package = os.path.join(os.path.dirname(brakit_sidecar.__file__), folder)
    for module in pkgutil.iter_modules([package]):
        __import__(f"brakit_sidecar.{folder}.{module.name}")
"""


def run(python: str, code: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run code in another Python, with this package on its path and without writing to the package."""
    return subprocess.run(
        [python, "-c", code],
        env={**environ, "PYTHONPATH": os.path.dirname(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_every_module_of_the_workers_side_is_imported_by_python_3_9(python39: str, place: Place) -> None:
    ran = run(python39, EVERY_MODULE, place.environ)
    assert (ran.returncode, ran.stderr) == (0, "")


WORKER = """
import brakit_sidecar
from brakit_sidecar.host.debug import debug
t = brakit_sidecar.connect()
t.request("GET /", 12.5); t.incr("query_count", 2); t.set(framework="flask"); t.mark("insight_count", "x")
t.incr("request_count", -1)
debug("a message", ValueError("an error"))
t.close()
"""


def test_a_worker_on_python_3_9_counts_and_shows_its_mistakes(python39: str, home: Place) -> None:
    session = new_id()
    with Wire(home.socket_path).hello(session, role="owner") as owner:
        ran = run(python39, WORKER, {**home.environ, "BRAKIT_SESSION_ID": session, "BRAKIT_DEBUG": "1"})

        def counted() -> list[int]:
            (fields,) = [found["fields"] for found in owner.ask()[0]["sessions"] if found["id"] == session]
            return [fields[name] for name in ("request_count", "query_count", "insight_count")]

        wait_until(lambda: counted() == [1, 2, 1], "all counts")
    assert ran.returncode == 0
    assert "not counted" in ran.stderr
    assert "ValueError: an error" in ran.stderr
