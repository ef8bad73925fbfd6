"""The command ``demo``: run an example application, and compare its workers' counts with the event that arrived.

It uses an endpoint on this machine and a daemon of its own in a temporary directory. One of the workers is killed, to
show that its counts are not lost.
"""

from __future__ import annotations

import json
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from ..cli.errors import CommandError
from ..host import launch
from .testbed import Testbed

if TYPE_CHECKING:
    from argparse import Namespace

ARRIVAL_TIMEOUT_S = 30.0  # a hundred times the time in which the last event normally arrives
_COUNTED = ("request_count", "query_count", "error_count")


def demo(_arguments: Namespace) -> int:
    """Run the demo. Fails if the session event does not have the sums of the workers' counts."""
    session_arrived = threading.Event()

    def on_body(body: bytes) -> None:
        event = json.loads(body)["event"]
        # The line and its newline are one write, because the main thread prints at the same time.
        print(f"    the endpoint received  {event}\n", end="")
        if event == "session":
            session_arrived.set()

    with Testbed("demo", on_body) as testbed:
        counted = _run_application(testbed)
        if not session_arrived.wait(ARRIVAL_TIMEOUT_S):
            raise CommandError("the session event did not arrive; BRAKIT_DEBUG=1 brakit-sidecar demo may show why")
        _show(counted, testbed.endpoint.bodies)
    return 0


def _run_application(testbed: Testbed) -> list[dict[str, Any]]:
    """Run the application as a user would, and print its progress. Returns the last counts of each worker."""
    application = launch.isolated("from brakit_sidecar.selftest.demo_app import main; main()")
    command = launch.isolated_command("run", "--", *application)
    print("$ brakit-sidecar run -- python -m brakit_sidecar.selftest.demo_app\n")
    counted: dict[int, dict[str, Any]] = {}
    with subprocess.Popen(command, env=testbed.environ, cwd=testbed.path, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            report = json.loads(line)
            counted[report["worker"]] = report
            does = "kills itself (SIGKILL)" if report["killed"] else "continues" if report["counting"] else "is done"
            print(f"  worker {report['worker']}  {report['request_count']:4} requests  {does}")
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
    print(f"\n  The {len(arrived)} request bodies that the endpoint received, byte for byte:\n")
    for body in arrived:
        print(body.decode())
    if any(session[field] != sums[field] for field in _COUNTED):
        raise CommandError("the session event differs from the workers' counts; this is a bug, please report it")
