"""The cost of one increment in the worker, with one thread and with four."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from tests.bench.child import Child
from tests.bench.measuring import Contestant, Effort, Line, Report, Table, absence, interleave
from tests.bench.sessions import inexact, served_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SAMPLE_S = 0.2
THREADS = 4
FOUR = ", 4 threads"
RECEIVE = 65536

DICT, NEXT = "`d[k] += 1`", "`itertools.count().__next__`"
INC, REQUEST = "sidecar `counter.inc()`", "sidecar `request()`"
PROMETHEUS, MULTIPROCESS = "prometheus_client, one process", "prometheus_client, multiprocess mode"
DATADOG = "datadog, buffered and aggregated, Unix datagrams"
OPENTELEMETRY = "opentelemetry-sdk `Counter.add`"
STATSD = "statsd, UDP"


def run(effort: Effort) -> Report:
    """Measure one increment of each contestant."""
    with ExitStack() as stack:
        _, session = stack.enter_context(served_session())
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp"))
        agent, statsd_port = stack.enter_context(_Reader.unix(directory)), stack.enter_context(_Reader.udp())
        contestants: list[Contestant] = []
        workers: dict[str, Child] = {}

        def enter(name: str, *command: str, environ: Mapping[str, str] | None = None, package: str = "") -> None:
            absent = absence(effort, package) if package else ""
            if absent:
                contestants.append(Contestant(name, None, absent))
                return
            worker = workers[name] = stack.enter_context(Child.worker("counting", *command, environ=environ))
            for threads, label in ((1, name), (THREADS, name + FOUR)):
                contestants.append(Contestant(label, _measure(worker, threads, SAMPLE_S * effort.size)))

        enter(DICT, "dict")
        enter(NEXT, "itertools")
        enter(INC, "inc", environ=session.environ)
        enter(REQUEST, "request", environ=session.environ)
        enter(PROMETHEUS, "prometheus", package="prometheus_client")
        multiprocess = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": directory}
        enter(MULTIPROCESS, "prometheus", environ=multiprocess, package="prometheus_client")
        enter(DATADOG, "datadog", agent.address, package="datadog")
        enter(OPENTELEMETRY, "opentelemetry", package="opentelemetry.sdk")
        enter(STATSD, "statsd", statsd_port.address, package="statsd")
        samples = interleave(contestants, effort.rounds)

        counted: int = sum(workers[name].ask(ask="counted")["counted"] for name in (INC, REQUEST))
        arrived = session.arrived(counted)
        names = (DICT, NEXT, INC, REQUEST, PROMETHEUS, MULTIPROCESS, DATADOG, OPENTELEMETRY, STATSD)
        lines = [
            Line(DICT),
            Line(NEXT, DICT),
            Line(INC, DICT, at_most=1.8),
            Line(INC, PROMETHEUS, at_most=0.33),
            Line(INC, MULTIPROCESS, at_most=0.12),
            Line(REQUEST, DICT, at_most=15),
            *(Line(name, DICT) for name in names[4:]),
        ]
        four = [Line(name + FOUR, name, at_most=1.2 if name == INC else None) for name in names]
        remarks = dict.fromkeys((INC, REQUEST, INC + FOUR, REQUEST + FOUR), f"{arrived:,} of {counted:,} together")
        tables = [
            Table(title, "ns", of_them, samples, "arrived", remarks)
            for title, of_them in (("One increment", lines), ("One increment, 4 threads", four))
        ]
        return Report(tables, inexact("increments", arrived, counted))


def _measure(worker: Child, threads: int, seconds: float) -> Callable[[], float]:
    def measure() -> float:
        took: float = worker.ask(threads=threads, seconds=seconds)["ns"]
        return took

    return measure


class _Reader:
    """A socket whose datagrams are read and discarded, in place of the other tools' agents."""

    def __init__(self, stream: socket.socket, address: str) -> None:
        self.address = address
        self._socket = stream
        self._thread = threading.Thread(target=self._read, daemon=True)

    @classmethod
    def unix(cls, directory: str) -> _Reader:
        path = os.path.join(directory, "agent.sock")
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        agent.bind(path)
        return cls(agent, path)

    @classmethod
    def udp(cls) -> _Reader:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))
        return cls(server, str(server.getsockname()[1]))

    def __enter__(self) -> _Reader:
        self._socket.settimeout(1.0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._thread.join()

    def _read(self) -> None:
        with suppress(OSError):  # closed
            while True:
                with suppress(TimeoutError):
                    self._socket.recv(RECEIVE)
