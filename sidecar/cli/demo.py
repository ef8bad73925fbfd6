"""``demo``: the main job with nothing installed around it. A capture endpoint on this machine, a daemon of its own in a
temporary place, worker processes of which one is killed; at the end what each had counted beside what arrived.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from sidecar.cli.errors import CommandError
from sidecar.host import guards

if TYPE_CHECKING:
    from argparse import Namespace

ARRIVAL_TIMEOUT_S = 30.0  # a hundred times what the last event takes
_COUNTED = ("request_count", "query_count", "error_count")


class CaptureServer(ThreadingHTTPServer):
    """Answers 200 to every event, and keeps the bodies in the order in which they came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Capture)
        self.bodies: list[bytes] = []
        self.session_arrived = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Capture(BaseHTTPRequestHandler):
    server: CaptureServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        self.send_response(200)
        self.end_headers()
        event = json.loads(body)["event"]
        print(f"    the endpoint got  {event}\n", end="")  # in one piece, beside the main thread's lines
        if event == "session":
            self.server.session_arrived.set()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the handler's own name for it)
        """The demo says itself what arrived."""


def demo(_arguments: Namespace) -> int:
    # Short, as a socket's path is; below /tmp also where TMPDIR is long.
    with tempfile.TemporaryDirectory(prefix="brakit-demo-", dir="/tmp") as place:
        endpoint = CaptureServer()
        threading.Thread(target=endpoint.serve_forever, daemon=True).start()
        environ = _environment(place, endpoint.url)
        try:
            counted = _run_application(environ)
            if not endpoint.session_arrived.wait(ARRIVAL_TIMEOUT_S):
                raise CommandError("the session event did not arrive; BRAKIT_DEBUG=1 says more")
            _show(counted, endpoint.bodies)
        finally:
            subprocess.run([sys.executable, "-m", "sidecar", "stop"], env=environ, check=False)
            endpoint.shutdown()
            endpoint.server_close()
    return 0


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
    return {**inherited, **ours, "BRAKIT_TELEMETRY_KEY": "phc_demo"}


def _run_application(environ: dict[str, str]) -> list[dict[str, Any]]:
    """Runs the application as anyone would, and shows it live. Returns what each worker says that it counted."""
    command = [sys.executable, "-m", "sidecar", "run", "--", sys.executable, "-m", "sidecar.cli.demo_app"]
    print("$ brakit-sidecar run -- python -m sidecar.cli.demo_app\n")
    counted: dict[int, dict[str, Any]] = {}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as application:
        assert application.stdout is not None
        for line in application.stdout:
            said = json.loads(line)
            counted[said["worker"]] = said
            how = "kills itself: SIGKILL" if said["killed"] else "goes on" if said["counting"] else "is done"
            print(f"  worker {said['worker']}  {said['request_count']:4} requests  {how}")
    return [counted[worker] for worker in sorted(counted)]


def _show(counted: list[dict[str, Any]], arrived: list[bytes]) -> None:
    events = [json.loads(body) for body in arrived]
    (session,) = (event["properties"] for event in events if event["event"] == "session")
    print(f"\n  {'':24}" + "".join(f"{name:>15}" for name in _COUNTED))
    for worker in counted:
        name = f"worker {worker['worker']}" + (" (killed)" if worker["killed"] else "")
        print(f"  {name:24}" + "".join(f"{worker[field]:>15}" for field in _COUNTED))
    sums = {field: sum(worker[field] for worker in counted) for field in _COUNTED}
    print(f"  {'all workers':24}" + "".join(f"{sums[field]:>15}" for field in _COUNTED))
    print(f"  {'in the session event':24}" + "".join(f"{session[field]:>15}" for field in _COUNTED))
    print(f"\n  {len(arrived)} events arrived, byte for byte:\n")
    for body in arrived:
        print(body.decode())
    if any(session[field] != sums[field] for field in _COUNTED):
        raise CommandError(
            "the session event differs from what the workers counted: this is a defect, please report it"
        )
