"""How long the worker's exit is delayed, whatever the endpoint or the daemon does; and that all it counted arrives.

Every worker is a session of its own, so that each run sends two events to its endpoint.
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
EXITS = 4  # in a round: three milliseconds, of which a machine's noise is a third
EVENTS = 2  # of each worker: first_request, and its session's
NS_PER_MS = 1e6

LAST_WORDS = "import os, time; os.write(1, b'%d' % time.monotonic_ns())"
IMPORTS = f"import json, socket\n{LAST_WORDS}"
# An interpreter's end takes its modules apart, so a small application's are half of its own exit.
APPLICATION = "import asyncio, email.message, http.server, json, logging.config, sqlite3, ssl, uuid\n"
WORKER = f"""
import brakit_sidecar
t = brakit_sidecar.connect()
counter = t.counter("request_count")
for _ in range({COUNTS}):
    counter.inc()
for _ in range({REQUESTS}):
    t.request("GET /users", duration_ms=12.5)
t.event("first_request", port=8000)
{LAST_WORDS}
"""

BARE, IMPORTING = "bare Python", "Python that imports json and socket"
ANSWERS, CLOSED, SILENT, DROPS = (
    f"sidecar, endpoint {does}" for does in ("answers", "is closed", "is silent", "drops connections")
)
STOPPED = "sidecar, daemon is stopped"
HOST = "Python with a small application's imports"
IN_HOST = ", in that application"
EXIT, WHOLE = ", exit", ", whole process"


def run(effort: Effort) -> Report:
    with ExitStack() as stack:
        places = {
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
            Contestant(BARE, partial(_times_of, LAST_WORDS, None)),
            Contestant(IMPORTING, partial(_times_of, IMPORTS, None)),
            Contestant(HOST, partial(_times_of, APPLICATION + LAST_WORDS, None)),
            *(
                Contestant(name + where, partial(site.measure, name, imports))
                for name, site in places.items()
                for where, imports in (("", ""), (IN_HOST, APPLICATION))
            ),
        ]
        samples = interleave(contestants, EXITS * effort.rounds)
        wrong = [problem for name, site in places.items() for problem in site.problems(name)]
        remarks = {name: f"{site.arrived:,} of {site.counted:,}" for name, site in places.items()}
        at_endpoint = {name: site.at_endpoint() for name, site in places.items() if name in (ANSWERS, STOPPED)}
        for name, said in at_endpoint.items():
            wrong += inexact(f"{name}: at the endpoint", said, places[name].counted)
            remarks[name] += f"; {said:,} at the endpoint"
        return Report([_table(samples, what, remarks) for what in (EXIT, WHOLE)], wrong)


def _table(samples: Samples, what: str, remarks: Mapping[str, str]) -> Table:
    goal = 1.2 if what == EXIT else None
    lines = [
        Line(BARE + what),
        Line(IMPORTING + what, BARE + what),
        *(Line(name + what, BARE + what, at_most=goal) for name in remarks),
        Line(HOST + what, BARE + what),
        *(Line(name + IN_HOST + what, HOST + what, at_most=goal) for name in remarks),
    ]
    title = "From the worker's last statement to its end" if what == EXIT else "The worker's whole process"
    return Table(title, "ms", lines, samples, "arrived", {name + what: said for name, said in remarks.items()})


class _Site:
    """A daemon with an endpoint that behaves in one way."""

    def __init__(self, endpoint: str) -> None:
        self.counted = self.arrived = self._runs = 0
        self._behaviour = endpoint
        self._stack = ExitStack()

    def __enter__(self) -> _Site:
        if self._behaviour == "closed":
            reserved = self._stack.enter_context(socket.socket())
            reserved.bind(("127.0.0.1", 0))  # and does not listen
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
        """What the session events say, together."""
        said: int = self._endpoint.ask(ask="said", at_least=EVENTS * self._runs)["request_count"]
        return said


def _times_of(code: str, environ: Mapping[str, str] | None) -> dict[str, float]:
    """In ms, of a Python that runs the code: from its last words to its end, and from before it was started."""
    begun = time.monotonic_ns()
    process = subprocess.Popen([sys.executable, "-c", code], env=environ or os.environ, stdout=subprocess.PIPE)
    code_of_exit = process.wait()  # what it says fits into the pipe
    ended = time.monotonic_ns()
    assert process.stdout is not None
    with process.stdout as stdout:
        said = stdout.read()
    if code_of_exit:
        raise RuntimeError(f"a worker ended with {code_of_exit}")
    last_words = int(said)
    return {"exit": (ended - last_words) / NS_PER_MS, "whole process": (ended - begun) / NS_PER_MS}
