"""What every test has: one profile of hypothesis, an endpoint and a place. No property is judged by the clock, and CI
draws the same examples each time; what fails there is printed as a blob that replays it anywhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.harness import Endpoint, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

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
