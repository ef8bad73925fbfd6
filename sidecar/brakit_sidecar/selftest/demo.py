"""``demo``: the main job with nothing installed around it. A capture endpoint on this machine, a daemon of its own in a
temporary place, worker processes of which one is killed; at the end what each had counted beside what arrived.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..cli.errors import CommandError
from .testbed import Testbed

if TYPE_CHECKING:
    from argparse import Namespace

ARRIVAL_TIMEOUT_S = 30.0  # a hundred times what the last event takes
_COUNTED = ("request_count", "query_count", "error_count")


def demo(_arguments: Namespace) -> int:
    session_arrived = threading.Event()

    def heard(body: bytes) -> None:
        event = json.loads(body)["event"]
        print(f"    the endpoint got  {event}\n", end="")  # in one piece, beside the main thread's lines
        if event == "session":
            session_arrived.set()

    with Testbed("demo", heard) as place:
        counted = _run_application(place.environ)
        if not session_arrived.wait(ARRIVAL_TIMEOUT_S):
            raise CommandError("the session event did not arrive; BRAKIT_DEBUG=1 says more")
        _show(counted, place.endpoint.bodies)
    return 0


def _run_application(environ: dict[str, str]) -> list[dict[str, Any]]:
    """Runs the application as anyone would, and shows it live. Returns what each worker says that it counted."""
    command = [
        sys.executable,
        "-m",
        "brakit_sidecar",
        "run",
        "--",
        sys.executable,
        "-m",
        "brakit_sidecar.selftest.demo_app",
    ]
    print("$ brakit-sidecar run -- python -m brakit_sidecar.selftest.demo_app\n")
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
