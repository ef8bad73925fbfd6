"""The fixtures of every test, an endpoint and a place, and the profile of hypothesis.

No property fails because of a slow machine. CI draws the same examples in each run. An example that fails is printed as
a blob that replays it anywhere.
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

# A process that ignores a signal passes that on to its children. Test runs below nohup, or in a shell's background,
# ignore these signals, so restore the default for the commands that tests start.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

os.environ.pop(
    "PYTHONUNBUFFERED", None
)  # users do not set it, and it would hide output that a command flushes too late

settings.register_profile("sidecar", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("sidecar")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Return a remote endpoint that answers 200 to every request."""
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def place(endpoint: Endpoint) -> Iterator[Place]:
    """Return a place whose daemon sends to the endpoint."""
    with Place(endpoint.url) as place:
        yield place


@pytest.fixture(scope="module")
def remote() -> Iterator[Endpoint]:
    """Return a remote endpoint that answers 200 to every request, for all tests of a file."""
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture(scope="module")
def home(remote: Endpoint) -> Iterator[Place]:
    """Return a place for all tests of a file, with a daemon in the foreground that runs until their end."""
    with Place(remote.url) as place:
        place.serve()
        yield place
