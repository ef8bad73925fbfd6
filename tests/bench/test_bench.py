"""The benchmarks run without errors. The numbers that these tests measure mean nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.child import ROOT
from tests.bench.measuring import Contestant, Line, Samples, Table, interleave
from tests.harness import PATIENCE_S


@pytest.mark.slow
def test_a_tiny_run_prints_tables_and_succeeds() -> None:
    """The run needs no optional package, and checks that all totals are exact."""
    groups = ("increments", "journeys", "exits", "ingest", "sealing", "faults")
    only = [word for group in groups for word in ("--only", group)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--rounds", "1", "--size", "0.01", "--without-peers", *only],
        capture_output=True,
        cwd=ROOT,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"## {group}\n" in done.stdout for group in groups)
    assert "| sidecar `counter.inc()` |" in done.stdout
    assert "| datadog, buffered and aggregated, Unix datagrams | left out |" in done.stdout
    assert "## Errors\n\nnone" in done.stdout
    assert "## the machine" in done.stdout


def test_each_round_measures_every_contestant_once_in_a_different_order() -> None:
    measured: list[str] = []

    def contestant(name: str) -> Contestant:
        def measure() -> float:
            measured.append(name)
            return float(len(measured))

        return Contestant(name, measure)

    samples = interleave([contestant(name) for name in "abc"], 4, warm_up=False)
    rounds = ["".join(measured[at : at + 3]) for at in range(0, len(measured), 3)]
    assert [sorted(one) for one in rounds] == [["a", "b", "c"]] * 4
    assert len(set(rounds)) == 4
    assert {name: len(taken) for name, taken in samples.taken.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_ratio_is_the_median_of_the_ratios_of_all_rounds() -> None:
    """A load that doubles all samples of one round does not change a ratio."""
    samples = Samples()
    for ours, theirs in ((10.0, 5.0), (20.0, 10.0), (12.0, 6.0)):
        samples.take("ours", ours)
        samples.take("theirs", theirs)
    assert samples.ratio("ours", "theirs") == 2.0


def test_a_missed_goal_is_listed_and_an_absent_contestant_is_not_listed() -> None:
    samples = Samples()
    samples.take("ours", 3.0)
    samples.take("theirs", 1.0)
    samples.absent["absent"] = "not installed"
    lines = [Line("ours", "theirs", at_most=2), Line("ours", "absent", at_most=2), Line("absent", "theirs")]
    table = Table("A title", "ns", lines, samples)
    assert table.missed() == ["A title: ours: 3.00 x theirs, goal ≤ 2"]
    assert "| absent | not installed |" in table.render()
