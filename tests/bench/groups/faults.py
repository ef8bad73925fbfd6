"""The cost of a failing network, compared with an endpoint that answers.

It measures the time of the command, the time until its daemon exits, and the daemon's peak memory.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.bench.measuring import Effort, Line, Report, Samples, Table
from tests.faults import CASES, HEALTHY, PLAIN, PROXY, TLS, network_case
from tests.harness import POLL_S, Wire, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.harness import Place

CHOSEN = [
    HEALTHY[PLAIN],
    HEALTHY[TLS],
    f"{PLAIN} is silent",
    f"{PLAIN} drips its head",
    f"{PLAIN} resets",
    f"{PLAIN} answers 307",
    f"{PLAIN} answers 500",
    f"{PLAIN} answers 100 without end",
    f"{PLAIN} writes a header of a megabyte",
    f"{PLAIN} writes headers without end",
    f"{PLAIN} writes a body without end",
    f"{PLAIN} writes a compressed body without end",
    f"{TLS} is silent in the handshake",
    f"{TLS} has a certificate of an unknown authority",
    f"{TLS} writes a body without end",
    f"{PROXY} is silent",
    f"{PROXY} wants a password",
]
TAKEN, EXITED, MEMORY = "command time", "time to exit", "peak memory"
BEYOND = "above that with an endpoint that answers"


def run(effort: Effort) -> Report:
    """Measure each chosen fault."""
    return _measured(CHOSEN[: max(4, effort.times(len(CHOSEN)))], max(1, effort.rounds // 3))


def _measured(chosen: Sequence[str], rounds: int) -> Report:
    """Measure each fault once a round. For each fault, the command starts a daemon of its own.

    A daemon may still linger while the next fault is measured.
    """
    samples = Samples()
    wrong: list[str] = []
    for number in range(rounds):
        order = chosen if number % 2 else chosen[::-1]
        with ExitStack() as stack, ThreadPoolExecutor(len(order)) as watching:
            for fault in order:
                _, place = stack.enter_context(network_case(fault))
                begun = time.monotonic()
                done = place.run("run", "--", "true")
                ended = time.monotonic()
                if (done.returncode, done.stdout, done.stderr) != (0, "", ""):
                    wrong.append(f"{fault}: the command exited with {done.returncode}: {done.stdout}{done.stderr}")
                samples.take(f"{fault}, {TAKEN}", (ended - begun) * 1e3)
                watching.submit(_watch, place, fault, ended, samples)
                wait_until(place.receipts, "the event's receipt")  # an endpoint's flood must not slow the next fault
    for fault in chosen:
        for unit in (TAKEN, MEMORY):
            healthy = samples.taken[f"{HEALTHY[CASES[fault].server]}, {unit}"]
            for one, other in zip(samples.taken[f"{fault}, {unit}"], healthy, strict=True):
                samples.take(f"{fault}, {unit} {BEYOND}", one - other)
    return Report(
        [
            Table("`run -- true`", "ms", [_beyond(fault, TAKEN, at_most=100) for fault in chosen], samples),
            Table(
                "From the command's end to its daemon's exit",
                "s",
                [Line(f"{fault}, {EXITED}", at_most=4) for fault in chosen],
                samples,
            ),
            Table("The daemon's peak memory", "MiB", [_beyond(fault, MEMORY, at_most=4) for fault in chosen], samples),
        ],
        wrong,
    )


def _beyond(fault: str, unit: str, at_most: float) -> Line:
    return Line(f"{fault}, {unit} {BEYOND}", at_most=at_most)


def _watch(place: Place, fault: str, ended: float, samples: Samples) -> None:
    with Wire(place.socket_path).hello() as wire:
        pid = wire.ask("identity")[0]["pid"]
    most = 0.0
    while not place.daemon_has_exited():
        most = _peak_mib(pid) or most
        time.sleep(POLL_S)
    samples.take(f"{fault}, {EXITED}", time.monotonic() - ended)
    samples.take(f"{fault}, {MEMORY}", most)


def _peak_mib(pid: int) -> float:
    """Return a process' peak memory in MiB. Returns 0 if the process has exited or the system is not Linux."""
    if sys.platform != "linux":
        return 0
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")), 0)
    except OSError:
        return 0
