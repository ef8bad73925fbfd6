"""What every test has: one profile of hypothesis, an endpoint and a place. No property is judged by the clock, and CI
draws the same examples each time; what fails there is printed as a blob that replays it anywhere.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.harness import Endpoint, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is ignored is handed down to what tests start, and a shell's background job (or nohup) ignores these.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

os.environ.pop("PYTHONUNBUFFERED", None)  # users have it not: it would hide what is written out too late

settings.register_profile("sidecar", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("sidecar")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A remote endpoint that takes everything."""
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def place(endpoint: Endpoint) -> Iterator[Place]:
    """A place whose daemon sends to the endpoint."""
    with Place(endpoint.url) as place:
        yield place


@pytest.fixture(scope="module")
def remote() -> Iterator[Endpoint]:
    """A remote endpoint that takes everything, for all tests of a file."""
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture(scope="module")
def home(remote: Endpoint) -> Iterator[Place]:
    """A place for all tests of a file, with a daemon in the foreground that stays."""
    with Place(remote.url) as place:
        place.serve()
        yield place
