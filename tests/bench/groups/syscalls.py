"""How many system calls the client's fast paths make, counted by strace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial

from tests.bench.measuring import Contestant, Effort, Line, Report, Table, interleave
from tests.bench.sessions import OwnedSession, inexact, served_session
from tests.harness import PATIENCE_S

CALLS = 100_000
WARMING = 10  # calls before the measurement; the first calls connect, and make the route's row
INC, REQUEST = "sidecar `counter.inc()`", "sidecar `request()`"
STATEMENTS = {INC: "counter.inc()", REQUEST: 't.request("GET /users", duration_ms=12.5)'}

CODE = """
import os, brakit_sidecar, sys
t = brakit_sidecar.connect()
counter = t.counter("request_count")
def work(n):
    for _ in range(n):
        {statement}
work({warming})
os.write(1, b"begin")
work({calls})
os.write(1, b"end")
"""


def run(effort: Effort) -> Report:
    """Count the system calls of each statement."""
    calls = effort.times(CALLS)
    absent = "" if shutil.which("strace") and _may_trace() else "not available"
    with served_session() as (_, session):
        contestants = [
            Contestant(name, None if absent else partial(_count, session, statement, calls), absent)
            for name, statement in STATEMENTS.items()
        ]
        samples = interleave(contestants, 1, warm_up=False)
        counted = 0 if absent else len(STATEMENTS) * (WARMING + calls)
        arrived = session.arrived(counted)
    # request() makes a few system calls, because it checks the connection once a second.
    lines = [Line(INC, at_most=0), Line(REQUEST)]
    remarks = dict.fromkeys(STATEMENTS, "" if absent else f"{arrived:,} of {counted:,} together")
    table = Table(f"System calls in {calls:,} calls", "calls", lines, samples, "arrived", remarks)
    return Report([table], inexact("traced increments", arrived, counted))


def _may_trace() -> bool:
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


def _count(session: OwnedSession, statement: str, calls: int) -> float:
    code = CODE.format(statement=statement, warming=WARMING, calls=calls)
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as trace:
        subprocess.run(
            ["strace", "-f", "-o", trace.name, sys.executable, "-c", code],
            env=session.environ,
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=True,
        )
        lines = trace.read().splitlines()
    begin, end = (next(i for i, line in enumerate(lines) if f'write(1, "{word}"' in line) for word in ("begin", "end"))
    return end - begin - 1
