"""Measures how long a worker's exit takes with several endpoints and daemons, and checks that its counts arrive.

Every worker has its own session, so each run sends two events to its endpoint.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from tests.bench.child import Child
from tests.bench.measuring import Contestant, Effort, Line, Report, Table, interleave
from tests.bench.sessions import OwnedSession, inexact
from tests.harness import Place, suspended

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.measuring import Samples

COUNTS, REQUESTS = 1000, 10
EXITS = 4  # in each round; one exit would not be enough, because it takes 3 ms and a third of that is noise
EVENTS = 2  # each worker has two events: first_request and session
NS_PER_MS = 1e6

PRINT_TIME = "import os, time; os.write(1, b'%d' % time.monotonic_ns())"
IMPORTS = f"import json, socket\n{PRINT_TIME}"
# An interpreter frees its modules when it exits. Most of the time of an application's exit is for the modules of its
# web framework.
APPLICATION = "import flask\n"
WORKER = f"""
import brakit_sidecar
t = brakit_sidecar.connect()
counter = t.counter("request_count")
for _ in range({COUNTS}):
    counter.inc()
for _ in range({REQUESTS}):
    t.request("GET /users", duration_ms=12.5)
t.event("first_request", port=8000)
{PRINT_TIME}
"""

BARE, IMPORTING = "bare Python", "Python that imports json and socket"
ANSWERS, CLOSED, SILENT, DROPS = (
    f"sidecar, endpoint {state}" for state in ("answers", "is closed", "never answers", "drops connections")
)
STOPPED = "sidecar, daemon is stopped"
HOST = "Python that imports Flask"
IN_HOST = ", with Flask"
EXIT, WHOLE = ", exit", ", whole process"


def run(effort: Effort) -> Report:
    """Measure the exits beside each endpoint, and beside a stopped daemon."""
    with ExitStack() as stack:
        sites = {
            name: stack.enter_context(_Site(endpoint))
            for name, endpoint in (
                (ANSWERS, "answers"),
                (CLOSED, "closed"),
                (SILENT, "silent"),
                (DROPS, "drops"),
                (STOPPED, "answers"),
            )
        }
        contestants = [
            Contestant(BARE, partial(_times_of, PRINT_TIME, None)),
            Contestant(IMPORTING, partial(_times_of, IMPORTS, None)),
            Contestant(HOST, partial(_times_of, APPLICATION + PRINT_TIME, None)),
            *(
                Contestant(name + where, partial(site.measure, name, imports))
                for name, site in sites.items()
                for where, imports in (("", ""), (IN_HOST, APPLICATION))
            ),
        ]
        samples = interleave(contestants, EXITS * effort.rounds)
        wrong = [problem for name, site in sites.items() for problem in site.problems(name)]
        remarks = {name: f"{site.arrived:,} of {site.counted:,}" for name, site in sites.items()}
        at_endpoint = {name: site.at_endpoint() for name, site in sites.items() if name in (ANSWERS, STOPPED)}
        for name, requests in at_endpoint.items():
            wrong += inexact(f"{name}: at the endpoint", requests, sites[name].counted)
            remarks[name] += f"; {requests:,} at the endpoint"
        return Report([_table(samples, span, remarks) for span in (EXIT, WHOLE)], wrong)


def _table(samples: Samples, span: str, remarks: Mapping[str, str]) -> Table:
    goal = 1.1 if span == EXIT else None
    lines = [
        Line(BARE + span),
        Line(IMPORTING + span, BARE + span),
        *(Line(name + span, BARE + span) for name in remarks),
        Line(HOST + span, BARE + span),
        *(Line(name + IN_HOST + span, HOST + span, at_most=goal) for name in remarks),
    ]
    title = "From the worker's last statement to its end" if span == EXIT else "The worker's whole process"
    return Table(title, "ms", lines, samples, "arrived", {name + span: remark for name, remark in remarks.items()})


class _Site:
    """A daemon and an endpoint with one kind of behaviour."""

    def __init__(self, endpoint: str) -> None:
        self.counted = self.arrived = self._runs = 0
        self._behaviour = endpoint
        self._stack = ExitStack()

    def __enter__(self) -> _Site:
        if self._behaviour == "closed":
            reserved = self._stack.enter_context(socket.socket())
            reserved.bind(("127.0.0.1", 0))  # bound without listening, so that a connect is refused
            url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        else:
            self._endpoint = self._stack.enter_context(Child.worker("endpoint", self._behaviour))
            url = self._endpoint.ask(ask="url")["url"]
        self._place = self._stack.enter_context(Place(url))
        self._daemon = self._place.serve()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, name: str, imports: str) -> dict[str, float]:
        with OwnedSession(self._place) as session:
            with suspended(self._daemon.pid) if name == STOPPED else nullcontext():
                times = _times_of(imports + WORKER, session.environ)
            self._runs += 1
            self.counted += COUNTS + REQUESTS
            self.arrived += session.arrived(COUNTS + REQUESTS)
            session.end()
        return times

    def problems(self, name: str) -> list[str]:
        return inexact(f"{name}: at the daemon", self.arrived, self.counted)

    def at_endpoint(self) -> int:
        """Return the sum of the request counts of all session events, after waiting for all events."""
        requests: int = self._endpoint.ask(ask="events", at_least=EVENTS * self._runs)["request_count"]
        return requests


def _times_of(code: str, environ: Mapping[str, str] | None) -> dict[str, float]:
    """Run the code in a new Python. Returns how long its exit took, and how long the whole process took, in ms.

    The code's last statement prints the time at which the exit begins.
    """
    begun = time.monotonic_ns()
    process = subprocess.Popen([sys.executable, "-c", code], env=environ or os.environ, stdout=subprocess.PIPE)
    exit_code = process.wait()  # stdout is read only then, because its few bytes fit into the pipe
    ended = time.monotonic_ns()
    assert process.stdout is not None
    with process.stdout as stdout:
        printed = stdout.read()
    if exit_code:
        raise RuntimeError(f"a worker exited with {exit_code}")
    return {"exit": (ended - int(printed)) / NS_PER_MS, "whole process": (ended - begun) / NS_PER_MS}
