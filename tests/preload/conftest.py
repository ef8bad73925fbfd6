"""The directory that ``run`` puts first in PYTHONPATH, and the interpreters that load the file in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import Place
from tests.preload import interpreters

if TYPE_CHECKING:
    from collections.abc import Iterator


pytest.register_assert_rewrite("tests.e2e.served_session")  # which pytest does only for test files by itself


@pytest.fixture(scope="session")
def directory() -> Iterator[str]:
    """Return the directory of the sitecustomize.py in a private copy that ``run`` has made."""
    with Place() as place:
        ran = place.run("run", "--", sys.executable, "-c", "import os; print(os.environ['PYTHONPATH'])", PYTHONPATH="")
        assert ran.returncode == 0, ran.stderr
        yield ran.stdout.strip()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the interpreter of an environment with every package of this one but brakit-sidecar."""
    return interpreters.make_environment(str(tmp_path_factory.mktemp("environment")))


def _interpreter(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    found = request.getfixturevalue("environment") if version == interpreters.THIS else interpreters.find(version)
    if found is None:
        pytest.skip(f"no python{version} was found")
    return str(found)


@pytest.fixture(params=interpreters.ALL, scope="session")
def any_python(request: pytest.FixtureRequest) -> str:
    """Return an interpreter of each version that may load the file."""
    return _interpreter(request)


@pytest.fixture(params=interpreters.JOINING, scope="session")
def python(request: pytest.FixtureRequest) -> str:
    """Return an interpreter of each version that joins."""
    return _interpreter(request)
