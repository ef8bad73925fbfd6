"""A session for a benchmark, and the check that exactly the counted numbers arrived."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.harness import PATIENCE_S, POLL_S, Place, Wire, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType


class OwnedSession:
    """A session whose owner is this process."""

    def __init__(self, place: Place) -> None:
        self.id = new_id()
        self._owner = Wire(place.socket_path).hello(self.id, role="owner")
        self._owner.sync()
        self.environ = {
            **place.environ,
            "BRAKIT_SESSION_ID": self.id,
            "BRAKIT_SIDECAR_SOCKET": place.socket_path,
        }

    def __enter__(self) -> OwnedSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._owner.close()

    def status(self) -> dict[str, Any]:
        """Return the daemon's status, with this session as ``session``."""
        answer, _ = self._owner.ask("status")
        (answer["session"],) = (session for session in answer["sessions"] if session["id"] == self.id)
        found: dict[str, Any] = answer
        return found

    def arrived(self, expected: int) -> int:
        """Wait until the expected number of requests has arrived, or for a timeout. Returns the number that arrived."""
        return _awaited(expected, lambda: self.status()["session"]["fields"]["request_count"])

    def receipts(self, expected: int) -> int:
        """Wait until the daemon has the expected number of local receipts, or for a timeout. Returns their number.

        A daemon without a project key writes a local receipt for each event, and sends no event.
        """
        return _awaited(expected, lambda: self.status()["delivery"]["local"])

    def end(self) -> None:
        """End the session."""
        self._owner.send(end={"exit_reason": "clean"})


@contextmanager
def served_session() -> Iterator[tuple[Place, OwnedSession]]:
    """Run a daemon in a new place, and open a session there."""
    with Place() as place:
        place.serve()
        with OwnedSession(place) as session:
            yield place, session


def _awaited(expected: int, count: Callable[[], int]) -> int:
    deadline = time.monotonic() + PATIENCE_S / 6
    while (counted := count()) != expected and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return counted


def inexact(name: str, arrived: int, expected: int) -> list[str]:
    """Return an error message if a total is not exact, otherwise an empty list."""
    return [] if arrived == expected else [f"{name}: {arrived:,} arrived of {expected:,}"]
