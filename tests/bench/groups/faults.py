"""What a failing network costs: the command's time, the daemon's, and its memory, beside an endpoint that answers."""

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
TAKEN, GONE, MEMORY = "the command", "gone", "memory"
BEYOND = "more than where one answers"


def run(effort: Effort) -> Report:
    return _measured(CHOSEN[: max(4, effort.times(len(CHOSEN)))], max(1, effort.rounds // 3))


def _measured(chosen: Sequence[str], rounds: int) -> Report:
    """In every round each of them is met once, by a daemon that the command starts and that lingers while the next is
    measured.
    """
    samples = Samples()
    wrong: list[str] = []
    for number in range(rounds):
        order = chosen if number % 2 else chosen[::-1]
        with ExitStack() as stack, ThreadPoolExecutor(len(order)) as watching:
            for what in order:
                _, place = stack.enter_context(network_case(what))
                begun = time.monotonic()
                done = place.run("run", "--", "true")
                ended = time.monotonic()
                if (done.returncode, done.stdout, done.stderr) != (0, "", ""):
                    wrong.append(f"{what}: the command ended with {done.returncode}: {done.stdout}{done.stderr}")
                samples.take(f"{what}, {TAKEN}", (ended - begun) * 1e3)
                watching.submit(_watch, place, what, ended, samples)
                wait_until(
                    place.receipts, "the event's receipt_of_one_event"
                )  # a flood must not meet who is measured next
    for what in chosen:
        for unit in (TAKEN, MEMORY):
            healthy = samples.taken[f"{HEALTHY[CASES[what].server]}, {unit}"]
            for one, other in zip(samples.taken[f"{what}, {unit}"], healthy, strict=True):
                samples.take(f"{what}, {unit} {BEYOND}", one - other)
    return Report(
        [
            Table("`run -- true`", "ms", [_beyond(what, TAKEN, at_most=100) for what in chosen], samples),
            Table(
                "From the command's end until its daemon is gone",
                "s",
                [Line(f"{what}, {GONE}", at_most=4) for what in chosen],
                samples,
            ),
            Table("The daemon's most memory", "MiB", [_beyond(what, MEMORY, at_most=4) for what in chosen], samples),
        ],
        wrong,
    )


def _beyond(what: str, unit: str, at_most: float) -> Line:
    return Line(f"{what}, {unit} {BEYOND}", at_most=at_most)


def _watch(place: Place, what: str, ended: float, samples: Samples) -> None:
    with Wire(place.socket_path).hello() as wire:
        pid = wire.ask("identity")[0]["pid"]
    most = 0.0
    while not place.daemon_has_exited():
        most = _peak_mib(pid) or most
        time.sleep(POLL_S)
    samples.take(f"{what}, {GONE}", time.monotonic() - ended)
    samples.take(f"{what}, {MEMORY}", most)


def _peak_mib(pid: int) -> float:
    """0 where it cannot be known: it is gone, or the system does not say."""
    if sys.platform != "linux":
        return 0
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")), 0)
    except OSError:
        return 0
