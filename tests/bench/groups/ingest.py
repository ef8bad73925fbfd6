"""How many raw lines the daemon reads from four producers at once, in millions per second."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.child import ROOT, Child
from tests.bench.measuring import Contestant, Effort, Line, Report, Table, interleave
from tests.bench.sessions import inexact, served_session
from tests.harness import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PRODUCERS = 4
WRITE = 64 * 1024
WRITES, SINGLE_WRITES = 400, 30_000  # of each producer
STATSD_PART = 1 / 20  # statsd gets only this part of the lines, because it is slower by that factor
READER = os.path.join(ROOT, "tests", "bench", "workers", "reading.py")

SIDECAR, COUNTING, DISCARDING = "sidecar", "asyncio.Protocol that counts whole lines", "asyncio.Protocol that discards"
STATSD = "statsd (npm), its own lines"


class Reader(NamedTuple):
    """A server that reads the producers' lines, and the form in which it expects the lines."""

    name: str
    path: str = ""
    line: Callable[[int], str] = lambda n: json.dumps({"incr": {"request_count": n}}) + "\n"
    session: str | None = None
    part: float = 1
    absent: str = ""


class Load(NamedTuple):
    """The lines that each producer writes."""

    title: str
    distinct: int
    write: int  # the largest number of bytes in one write
    writes: int
    lines: tuple[Line, ...]


LOADS = (
    Load("8 distinct lines, writes of 64 KiB", 8, WRITE, WRITES, (Line(SIDECAR, COUNTING, at_least=0.9),)),
    Load("512 distinct lines, writes of 64 KiB", 512, WRITE, WRITES, (Line(SIDECAR, COUNTING, at_least=0.8),)),
    Load("One line in each write", 1, 1, SINGLE_WRITES, (Line(SIDECAR, DISCARDING, at_least=0.8),)),
)


def run(effort: Effort) -> Report:
    """Measure each load with each server."""
    with ExitStack() as stack:
        place, session = stack.enter_context(served_session())
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp"))
        producers = [stack.enter_context(Child.worker("producing")) for _ in range(PRODUCERS)]
        statsd = stack.enter_context(_statsd(directory)) if effort.with_peers else None
        own = Reader(SIDECAR, place.socket_path, session=session.id)
        readers = [
            own,
            Reader(COUNTING, stack.enter_context(_asyncio(directory, "count"))),
            Reader(DISCARDING, stack.enter_context(_asyncio(directory, "discard"))),
            _statsd_reader(statsd, "not available" if effort.with_peers else "left out"),
        ]
        tables: list[Table] = []
        wrong: list[str] = []
        arrived = expected = statsd_expected = 0
        for load in LOADS:
            rates = [
                Contestant(r.name, None if r.absent else partial(_rate, producers, r, load, effort), r.absent)
                for r in readers
            ]
            samples = interleave(rates, effort.rounds)
            before, runs = arrived, effort.rounds + 1  # one more run for the warm-up
            expected += runs * _sum_of(own, load, effort)
            arrived = session.arrived(expected)
            wrong += inexact(f"ingest: {load.title}", arrived, expected)
            remarks = {SIDECAR: f"{arrived - before:,} of {runs * _sum_of(own, load, effort):,}"}
            if statsd is not None:
                statsd_expected += runs * _sum_of(readers[-1], load, effort)
                remarks[STATSD] = "all" if statsd.counted() == statsd_expected else "not all"
            others = [Line(COUNTING), Line(DISCARDING, COUNTING), Line(STATSD, COUNTING)]
            title = f"Ingest, {PRODUCERS} producers: {load.title}"
            tables.append(Table(title, "M lines/s", [*load.lines, *others], samples, "arrived", remarks))
        return Report(tables, wrong)


def _rate(producers: list[Child], reader: Reader, load: Load, effort: Effort) -> float:
    """Measure from the first write until the server has closed every connection. It closes them after the last line."""
    numbers = _numbers(reader, load)
    chunk, times = "".join(map(reader.line, numbers)), _writes(reader, load, effort)
    for producer in producers:
        producer.send(path=reader.path, session=reader.session, chunk=chunk, times=times)
    for producer in producers:
        producer.receive()
    begun = time.perf_counter()
    for producer in producers:
        producer.send()
    for producer in producers:
        producer.receive()
    return PRODUCERS * times * len(numbers) / (time.perf_counter() - begun) / 1e6


def _numbers(reader: Reader, load: Load) -> list[int]:
    """Return the increment in each line of one write. A write has as many lines as fit, at least one."""
    numbers: list[int] = []
    size = 0
    while True:
        number = 1 + len(numbers) % load.distinct
        size += len(reader.line(number))
        if numbers and size > load.write:
            return numbers
        numbers.append(number)


def _writes(reader: Reader, load: Load, effort: Effort) -> int:
    return effort.times(load.writes * reader.part)


def _sum_of(reader: Reader, load: Load, effort: Effort) -> int:
    """Return the sum of the increments of all producers in one run."""
    return PRODUCERS * _writes(reader, load, effort) * sum(_numbers(reader, load))


# --- the peers ------------------------------------------------------------------------------------------------


@contextmanager
def _asyncio(directory: str, kind: str) -> Iterator[str]:
    path = os.path.join(directory, f"{kind}.sock")
    with _running([sys.executable, READER, path, kind]):
        wait_until(lambda: _accepts(path), "a bare listener")
        yield path


class _Statsd:
    """A statsd daemon that listens on a Unix socket, and on a TCP port for its management."""

    def __init__(self, path: str, management: int) -> None:
        self.path = path
        self._management = management

    def counted(self) -> int:
        """Return the counter's value. It is complete, because this statsd resets its counters only once a day."""
        with socket.create_connection(("127.0.0.1", self._management)) as stream:
            stream.sendall(b"counters\n")
            answer = b""
            while not answer.endswith(b"END\n\n"):
                answer += stream.recv(65536)
        _, _, after = answer.partition(b"bench:")
        return int(after.split(b",")[0].split()[0])


def _statsd_reader(statsd: _Statsd | None, absent: str) -> Reader:
    if statsd is None:
        return Reader(STATSD, absent=absent)
    return Reader(STATSD, statsd.path, lambda n: f"bench:{n}|c\n", part=STATSD_PART)


@contextmanager
def _statsd(directory: str) -> Iterator[_Statsd | None]:
    """Install statsd from npm for this run only, and run it. Yields None if the installation fails."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None or not _installed(npm, directory):
        yield None
        return
    path, config = os.path.join(directory, "statsd.sock"), os.path.join(directory, "config.js")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        management = reserved.getsockname()[1]
    settings = {
        "servers": [{"server": "./servers/tcp", "socket": path}],
        "mgmt_address": "127.0.0.1",
        "mgmt_port": management,
        "flushInterval": 24 * 60 * 60 * 1000,
        "backends": [],
    }
    with open(config, "w", encoding="utf-8") as file:
        file.write(json.dumps(settings))  # statsd evaluates the file as JavaScript, in which JSON is an object literal
    with _running([node, os.path.join(directory, "node_modules", "statsd", "stats.js"), config]):
        wait_until(lambda: _accepts(path), "statsd")
        yield _Statsd(path, management)


def _installed(npm: str, directory: str) -> bool:
    try:
        return not subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", directory, "statsd"],
            capture_output=True,
            timeout=2 * PATIENCE_S,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        return stream.connect_ex(path) == 0
