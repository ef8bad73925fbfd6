"""A worker that counts when the test commands it, and a context in which the config is half written."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.harness import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Place

REAL_POLL_S = 1.0  # how often a worker checks for a daemon and for consent
FAST_POLL_S = 0.1

_CONNECT = """
import sys, brakit_sidecar
from brakit_sidecar.client import link
poll_s = float(sys.argv[1])
assert link.POLL_S == 1.0
link.POLL_S = poll_s
telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
"""
# This worker counts in its counter file and by calls, at each line of its stdin.
CALLING = f"""{_CONNECT}
for line in sys.stdin:
    requests.inc()
    telemetry.request("GET /users", duration_ms=3.0)
    telemetry.event("first_request", port=8000)
    print(flush=True)
"""
# This worker counts only in its counter file, and so never reconnects.
COUNTING = f"""{_CONNECT}
for line in sys.stdin:
    requests.inc()
    print(flush=True)
"""


class Worker:
    """A worker that counts once when the ``with`` block begins, and exits when the block ends."""

    def __init__(self, place: Place, session: str, code: str = CALLING, *, poll_s: float = FAST_POLL_S) -> None:
        self._poll_s = poll_s
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(poll_s)],
            env={**place.environ, "BRAKIT_SESSION_ID": session},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Worker:
        self.count()
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate(timeout=PATIENCE_S)

    def count(self) -> None:
        """Have the worker count. Returns after the worker has counted."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline()

    def count_after_two_polls(self) -> None:
        """Have the worker count twice, each time after it may check for a daemon and for consent again."""
        for _ in range(2):
            time.sleep(1.1 * self._poll_s)
            self.count()


@contextmanager
def half_written_config(place: Place) -> Iterator[None]:
    """Truncate the config during the block. The Node SDK does so for a moment, because it writes the file in place."""
    with open(place.config_path, "r+b") as file:
        whole = file.read()
        file.truncate(len(whole) // 2)
        yield
        file.seek(0)
        file.write(whole)
