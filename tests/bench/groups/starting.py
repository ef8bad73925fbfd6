"""How soon a daemon accepts, what an idle daemon costs, and what importing the client costs.

The daemon is compared with a bare asyncio listener, which is the least that Python can do.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from brakit_sidecar.host import launch

from tests.bench.child import ROOT
from tests.bench.measuring import Contestant, Effort, Line, Report, Samples, Table, interleave
from tests.bench.sessions import OwnedSession
from tests.harness import Endpoint, Place, Wire, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

POLL_S = 0.0005
SETTLE_S = 4.0  # longer than the daemon's late imports, its work for an event, and its linger time
IDLE_S = 10.0
LISTENER = os.path.join(ROOT, "tests", "bench", "workers", "reading.py")

BARE, SIDECAR = "bare asyncio listener", "sidecar"


def run(effort: Effort) -> Report:
    """Measure starts, idle processes and imports."""
    if not os.path.isdir("/proc/self"):
        return Report([Table(f"{name} (not available without /proc)", "", [], Samples()) for name in ("Start", "Idle")])
    return Report([_start(effort), *_idle(effort), _imports(effort)])


# --- until a connect succeeds ---------------------------------------------------------------------------------


def _start(effort: Effort) -> Table:
    with Place() as place, tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp") as directory:
        place.start()  # creates the config and the directories
        place.run("stop")
        path = os.path.join(directory, "bare.sock")
        contestants = [
            Contestant(BARE, partial(_start_of_listener, path)),
            Contestant(SIDECAR, partial(_start_of_sidecar, place)),
        ]
        samples = interleave(contestants, effort.rounds)
    accepts, answers = f"{SIDECAR}, accepts", f"{SIDECAR}, answers"
    lines = [Line(BARE), Line(accepts, BARE, at_most=1.4), Line(answers, BARE)]
    return Table("From the spawn of a detached process to a connect that succeeds", "ms", lines, samples)


def _start_of_listener(path: str) -> float:
    begun = time.perf_counter()
    _spawn_listener(path)
    _until_it_accepts(path).close()
    took = time.perf_counter() - begun
    _kill_listener(path)
    return took * 1e3


def _start_of_sidecar(place: Place) -> dict[str, float]:
    begun = time.perf_counter()
    launch._spawn(place.environ, place.socket_path, subprocess.DEVNULL)
    _until_it_accepts(place.socket_path).close()
    accepts = time.perf_counter() - begun
    with Wire(place.socket_path).hello() as wire:
        wire.sync()
        answers = time.perf_counter() - begun
        wire.ask("stop")
    wait_until(place.daemon_has_exited, "the daemon's end")
    return {"accepts": accepts * 1e3, "answers": answers * 1e3}


def _spawn_listener(path: str) -> None:
    """Start the listener in the same way in which host.launch starts the daemon."""
    subprocess.Popen(
        ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-I", LISTENER, path, "discard"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ).wait()


def _kill_listener(path: str) -> None:
    with _until_it_accepts(path) as stream:
        os.kill(_pid_of_peer(stream), signal.SIGKILL)
        with suppress(ConnectionResetError):
            stream.recv(1)  # returns when the killed process' connection is closed
    os.unlink(path)


def _until_it_accepts(path: str) -> socket.socket:
    while True:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if stream.connect_ex(path) == 0:
            return stream
        stream.close()
        time.sleep(POLL_S)


def _pid_of_peer(stream: socket.socket) -> int:
    """Return the id of the process that listens at the other end."""
    pid: int = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


# --- idle -----------------------------------------------------------------------------------------------------

FRESH, IN_SESSION, AFTER_EVENT = "before the first event", "with a session and a worker", "after one event was sent"


def _idle(effort: Effort) -> list[Table]:
    idle_s = IDLE_S * min(1.0, effort.size * 5)
    samples = Samples()
    for _ in range(max(1, round(effort.rounds / 4))):
        _measure_idle(samples, idle_s)
    resident = [
        Line(f"{BARE}, VmRSS"),
        Line(f"{SIDECAR} {FRESH}, VmRSS", f"{BARE}, VmRSS", at_most=1.25),
        Line(f"{SIDECAR} {IN_SESSION}, VmRSS", f"{BARE}, VmRSS"),
        Line(f"{SIDECAR} {AFTER_EVENT}, VmRSS", f"{BARE}, VmRSS", at_most=1.9),
    ]
    # PSS depends on which other Python processes share the same pages, so only VmRSS has goals.
    proportional = [Line(line.name.replace("VmRSS", "PSS"), line.against.replace("VmRSS", "PSS")) for line in resident]
    wakeups = [
        Line(f"{BARE}, wake-ups"),
        *(Line(f"{SIDECAR} {state}, wake-ups", at_most=0) for state in (FRESH, IN_SESSION, AFTER_EVENT)),
    ]
    return [
        Table("Memory of an idle process", "MiB", resident + proportional, samples),
        Table(f"Wake-ups of an idle process in {idle_s:.0f} s", "voluntary context switches", wakeups, samples),
    ]


def _measure_idle(samples: Samples, idle_s: float) -> None:
    """Measure the listener and three daemons, which are all idle at the same time."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp"))
        path = os.path.join(directory, "bare.sock")
        _spawn_listener(path)
        stack.callback(_kill_listener, path)
        with _until_it_accepts(path) as stream:
            idle = {BARE: _pid_of_peer(stream)}
        fresh, in_session = (stack.enter_context(Place()) for _ in range(2))
        endpoint = Endpoint()
        stack.callback(endpoint.close)
        after_event = stack.enter_context(Place(endpoint.url))
        for state, place in ((FRESH, fresh), (IN_SESSION, in_session), (AFTER_EVENT, after_event)):
            running = place.start()  # in the same way in which a command or a worker starts it
            idle[f"{SIDECAR} {state}"] = running["pid"]
            held = stack.enter_context(Wire(running["socket"]).hello())  # keeps the daemon from exiting
            held.sync()
            if place is after_event:
                held.send(event={"name": "cli_invoked", "command": "install"})
                endpoint.wait_for("cli_invoked")
        session = stack.enter_context(OwnedSession(in_session))
        stack.enter_context(Wire(in_session.socket_path).hello(session.id)).sync()
        time.sleep(SETTLE_S)
        before = {name: _wakeups(pid) for name, pid in idle.items()}
        time.sleep(idle_s)
        for name, pid in idle.items():
            samples.take(name, {"wake-ups": _wakeups(pid) - before[name], **_memory_mib(pid)})


def _memory_mib(pid: int) -> dict[str, float]:
    found = {"VmRSS": _fields(f"/proc/{pid}/status")["VmRSS"] / 1024}
    with suppress(PermissionError):  # only root may read that of a daemon
        found["PSS"] = _fields(f"/proc/{pid}/smaps_rollup")["Pss"] / 1024
    return found


def _wakeups(pid: int) -> float:
    """Return the number of voluntary context switches of all threads so far."""
    tasks = f"/proc/{pid}/task"
    return sum(_fields(f"{tasks}/{task}/status")["voluntary_ctxt_switches"] for task in os.listdir(tasks))


def _fields(path: str) -> Mapping[str, float]:
    """Return the numbers in a file of /proc, by name. Sizes are in KiB."""
    found: dict[str, float] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            with suppress(ValueError, IndexError):
                found[name] = float(value.split()[0])
    return found


# --- importing the client -------------------------------------------------------------------------------------

IMPORT, CONNECT, LEAST = (
    "`import brakit_sidecar`",
    "`import brakit_sidecar; brakit_sidecar.connect()`",
    "`import socket, json`",
)
STATEMENTS = {
    LEAST: "import socket, json",
    IMPORT: "import brakit_sidecar",
    CONNECT: "import brakit_sidecar; brakit_sidecar.connect()",
}
SITES = {"-I": "with site", "-I -S": "without site"}


def _imports(effort: Effort) -> Table:
    with Place() as place:
        place.serve()
        contestants = [
            Contestant(f"{name}, {label}", partial(_import_ms, statement, flags, place.environ))
            for flags, label in SITES.items()
            for name, statement in STATEMENTS.items()
        ]
        samples = interleave(contestants, 3 * effort.rounds)
    lines = [
        line
        for label in SITES.values()
        for line in (
            Line(f"{LEAST}, {label}"),
            Line(f"{IMPORT}, {label}", f"{LEAST}, {label}", at_most=2),
            Line(f"{CONNECT}, {label}", f"{LEAST}, {label}"),
        )
    ]
    return Table("Importing, in a new interpreter with the same flags", "ms", lines, samples)


def _import_ms(statement: str, flags: str, environ: Mapping[str, str]) -> float:
    """Measure the import statement alone, without the start of the interpreter."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from time import perf_counter; begun = perf_counter(); "
        f"{statement}; print(perf_counter() - begun)"
    )
    done = subprocess.run(
        [sys.executable, *flags.split(), "-c", code, os.path.join(ROOT, "sidecar")],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout) * 1e3
