"""A place of its own for a demo or an audit: a temporary home, and an endpoint on this machine that captures."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from ..host import guards

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class CaptureServer(ThreadingHTTPServer):
    """Answers 200 to every event, and keeps heads and bodies in the order in which they came."""

    daemon_threads = True

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        """``heard`` is called with each body, in a thread of its own."""
        super().__init__(("127.0.0.1", 0), _Capture)
        self.heard = heard
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Capture(BaseHTTPRequestHandler):
    server: CaptureServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heads.append(self.requestline.encode() + b"\r\n" + self.headers.as_bytes())
        self.server.bodies.append(body)
        self.send_response(200)
        self.end_headers()
        self.server.heard(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the handler's own name for it)
        """Who asked for the place says what arrived."""


class Testbed:
    """``environ`` is all that a command needs to work in it. Whatever daemon is left is stopped at the end."""

    def __init__(self, purpose: str, heard: Callable[[bytes], None] = lambda _body: None) -> None:
        # Short, as a socket's path is; below /tmp also where TMPDIR is long.
        self._directory = tempfile.TemporaryDirectory(prefix=f"brakit-{purpose}-", dir="/tmp")
        self.path = self._directory.name
        self.endpoint = CaptureServer(heard)
        self.environ = _environment(self.path, self.endpoint.url)

    def __enter__(self) -> Testbed:
        threading.Thread(target=self.endpoint.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        subprocess.run([sys.executable, "-m", "brakit_sidecar", "stop"], env=self.environ, check=False)
        self.endpoint.shutdown()
        self.endpoint.server_close()
        self._directory.cleanup()


def _environment(place: str, endpoint: str) -> dict[str, str]:
    """Nothing of the user's: no config, no opt-out, no CI; and all of ours in the temporary place."""
    ours = {"HOME": place, "XDG_RUNTIME_DIR": place, "BRAKIT_TELEMETRY_ENDPOINT": endpoint}
    foreign = {
        *guards.VARIABLES,
        "DO_NOT_TRACK",
        "BRAKIT_TELEMETRY",
        "XDG_STATE_HOME",
        "BRAKIT_SESSION_ID",
        "BRAKIT_SIDECAR_SOCKET",
    }
    inherited = {name: value for name, value in os.environ.items() if name not in foreign}
    return {**inherited, **ours, "BRAKIT_TELEMETRY_KEY": "phc_local"}
