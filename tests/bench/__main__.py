"""python -m tests.bench [--quick] [--only GROUP]...: print Markdown tables for each group, then facts of the machine.

A missed goal is listed, but is not a failure. The exit code is 1 if a group could not run, or if a total is not exact.
"""

from __future__ import annotations

import argparse
import compileall
import os
import platform
import sys
import time
import traceback
from typing import TYPE_CHECKING

import brakit_sidecar

from tests.bench.groups import exits, faults, increments, ingest, journeys, sealing, starting, syscalls
from tests.bench.measuring import Effort, Report

if TYPE_CHECKING:
    from collections.abc import Callable

FULL, QUICK = Effort(11, 1.0), Effort(3, 0.2)

GROUPS: dict[str, Callable[[Effort], Report]] = {
    "increments": increments.run,
    "syscalls": syscalls.run,
    "journeys": journeys.run,
    "exits": exits.run,
    "ingest": ingest.run,
    "starting": starting.run,
    "sealing": sealing.run,
    "faults": faults.run,
}


def main() -> int:
    """Run the groups and print their tables. Returns the exit code."""
    arguments = _parser().parse_args()
    effort = QUICK if arguments.quick else FULL
    effort = effort._replace(
        rounds=arguments.rounds or effort.rounds,
        size=arguments.size or effort.size,
        with_peers=not arguments.without_peers,
    )
    # Compile the package, as an installer does. Otherwise an interpreter that may not write to the checkout would
    # compile it at each start, and each exit would be slower.
    compileall.compile_dir(os.path.dirname(brakit_sidecar.__file__), quiet=1)
    begun, load = time.monotonic(), os.getloadavg()[0]
    missed: list[str] = []
    wrong: list[str] = []
    for name in arguments.only or GROUPS:
        print(f"## {name}\n", flush=True)
        try:
            report = GROUPS[name](effort)
        except Exception as error:  # noqa: BLE001 (the other groups run even if one fails)
            traceback.print_exc()
            wrong.append(f"{name} could not run: {error!r}")
            continue
        for table in report.tables:
            print(table.render(), flush=True)
        missed += [goal for table in report.tables for goal in table.missed()]
        wrong += report.wrong
    print(f"## the machine\n\n{_machine(load)}\n- {effort.rounds} rounds in {time.monotonic() - begun:.0f} s\n")
    print(_listed("Goals missed", missed) + _listed("Errors", wrong), end="")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Compare the sidecar's performance with that of similar tools."
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, which take about a minute")
    parser.add_argument("--only", action="append", choices=GROUPS, help="run only this group (may be repeated)")
    parser.add_argument("--rounds", type=int, metavar="N", help="the number of rounds, not counting the warm-up")
    parser.add_argument("--size", type=float, metavar="PART", help="the size of each measurement; 1 is the full size")
    parser.add_argument(
        "--without-peers", action="store_true", help="leave out the tools of the bench extra, of Node and of npm"
    )
    return parser


def _machine(load: float) -> str:
    facts = {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load before the start": f"{load:.1f}",
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _listed(title: str, entries: list[str]) -> str:
    return f"## {title}\n\n" + ("\n".join(f"- {entry}" for entry in entries) or "none") + "\n\n"


if __name__ == "__main__":
    sys.exit(main())
