"""The testbed of the demo and the audit: a temporary home directory, and an endpoint that stores what it receives.

Its processes run this installation of the package and nothing else. They are isolated from the user's environment and
working directory, which may hold modules of any name.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from ..cli import notice
from ..host import environment, launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class CaptureServer(ThreadingHTTPServer):
    """An endpoint that answers 200 to every request, and stores the heads and the bodies in the order of arrival."""

    daemon_threads = True

    def __init__(self, on_body: Callable[[bytes], None]) -> None:
        """Listen on a free port. ``on_body`` is called with each body, in the thread of its request."""
        super().__init__(("127.0.0.1", 0), _Capture)
        self.on_body = on_body
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        """The base URL of the endpoint."""
        return f"http://127.0.0.1:{self.server_port}"


class _Capture(BaseHTTPRequestHandler):
    server: CaptureServer

    def do_POST(self) -> None:
        """Store a request and answer it."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heads.append(self.requestline.encode() + b"\r\n" + self.headers.as_bytes())
        self.server.bodies.append(body)
        self.send_response(200)
        self.end_headers()
        self.server.on_body(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it so)
        """Print nothing, because ``on_body`` reports what arrived."""


class Testbed:
    """A temporary home directory and an endpoint.

    A process with the environment ``environ`` and the working directory ``path`` uses only these two.

    On leaving the context, a daemon that still runs is stopped and the directory is deleted.
    """

    def __init__(self, purpose: str, on_body: Callable[[bytes], None] = lambda _body: None) -> None:
        # The directory is in /tmp, because the path of a socket may have only about 100 bytes, and TMPDIR may be long.
        self._directory = tempfile.TemporaryDirectory(prefix=f"brakit-{purpose}-", dir="/tmp")
        self.path = self._directory.name
        self.endpoint = CaptureServer(on_body)
        self.environ = _environment(self.path, self.endpoint.url)
        self._keep_notice_for_the_users_own_commands()

    def __enter__(self) -> Testbed:
        threading.Thread(target=self.endpoint.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        subprocess.run(launch.isolated_command("stop"), env=self.environ, cwd=self.path, check=False)
        self.endpoint.shutdown()
        self.endpoint.server_close()
        self._directory.cleanup()

    def _keep_notice_for_the_users_own_commands(self) -> None:
        """Mark the notice as shown, because nothing that runs here leaves the machine."""
        state = os.path.join(self.environ["XDG_STATE_HOME"], "brakit")
        os.makedirs(state, mode=0o700)
        with open(os.path.join(state, notice.NAME), "xb"):
            pass


def _environment(directory: str, endpoint: str) -> dict[str, str]:
    """Return an environment with all files in ``directory``, and with none of the user's opt-outs and signs of CI."""
    return {
        **environment.only((*environment.INTERPRETER, "BRAKIT_DEBUG"), os.environ),
        "HOME": directory,
        "XDG_RUNTIME_DIR": directory,
        "XDG_STATE_HOME": os.path.join(directory, "state"),
        "BRAKIT_TELEMETRY_ENDPOINT": endpoint,
        "BRAKIT_TELEMETRY_KEY": "phc_local",
    }
