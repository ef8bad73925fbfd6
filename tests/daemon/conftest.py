"""A daemon that the tests of a file share, and a session of each test, for the tests that count in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon.counting import CountingDaemon
from tests.harness import Endpoint, Place, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def daemon() -> Iterator[CountingDaemon]:
    endpoint = Endpoint()
    with Place(endpoint.url) as place:
        yield CountingDaemon(endpoint, place)
    endpoint.close()


@pytest.fixture
def session(daemon: CountingDaemon) -> Iterator[str]:
    """Open a session that this test owns, and end it after the test."""
    session = new_id()
    with daemon.owner(session) as owner:
        yield session
        owner.send(end={"exit_reason": "clean"})
        wait_until(lambda: daemon.is_sealed(session), "the seal")
