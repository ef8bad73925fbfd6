"""A session that a benchmark opens in a daemon's place: what was counted must arrive exactly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.harness import PATIENCE_S, POLL_S, Place, Wire, new_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class OwnedSession:
    """A session with an owner that is this process."""

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
        """The daemon's status, of this session only."""
        answer, _ = self._owner.ask("status")
        (answer["session"],) = (session for session in answer["sessions"] if session["id"] == self.id)
        found: dict[str, Any] = answer
        return found

    def arrived(self, expected: int) -> int:
        """The session's requests; waits for as many as expected, as what was written may still be on its way."""
        return _awaited(expected, lambda: self.status()["session"]["fields"]["request_count"])

    def shown(self, expected: int) -> int:
        """The daemon's events that have a receipt: without a key they are not sent, only shown. Waits likewise."""
        return _awaited(expected, lambda: self.status()["delivery"]["local"])

    def end(self) -> None:
        self._owner.send(end={"exit_reason": "clean"})


def _awaited(expected: int, count: Callable[[], int]) -> int:
    deadline = time.monotonic() + PATIENCE_S / 6
    while (counted := count()) != expected and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return counted


def inexact(what: str, arrived: int, expected: int) -> list[str]:
    """What is wrong, where a total is not exact."""
    return [] if arrived == expected else [f"{what}: {arrived:,} arrived of {expected:,}"]
