"""Interleaved measurements and their tables. This file does not know what is measured.

In every round each contestant is measured once, in rotating order, so that a change of the machine's load affects all
contestants. For the same reason, a ratio is the median of the ratios of all rounds, and not the ratio of two medians. A
missed goal is not a failure: the table shows whether a goal was met.
"""

from __future__ import annotations

from importlib.util import find_spec
from statistics import median, quantiles
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Measured = float | Mapping[str, float]

NOTHING = "-"


class Effort(NamedTuple):
    """How many rounds are run, and how large each measurement is."""

    rounds: int
    size: float  # the size of each measurement, as a fraction of the full size
    with_peers: bool = True  # whether to measure packages of the ``bench`` extra, Node, and packages from npm

    def times(self, number: float) -> int:
        """Return ``number`` scaled by ``size``, at least 1."""
        return max(1, round(number * self.size))


class Contestant(NamedTuple):
    """A program or a function that is compared with others.

    ``measure`` returns one sample, or several samples by name. If the contestant cannot be measured, ``measure`` is
    None, and ``absent`` is the reason.
    """

    name: str
    measure: Callable[[], Measured] | None
    absent: str = ""


def absence(effort: Effort, package: str) -> str:
    """Return why the contestant of a package cannot be measured. Returns an empty string if it can be measured."""
    if not effort.with_peers:
        return "left out"
    return "" if find_spec(package) else "not installed"


class Samples:
    """The samples of all rounds, by contestant.

    If a measurement has several samples, the key is ``contestant, name``.
    """

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}
        self.absent: dict[str, str] = {}

    def take(self, name: str, measured: Measured) -> None:
        """Add the samples of one measurement."""
        if isinstance(measured, (int, float)):
            self.taken.setdefault(name, []).append(float(measured))
        else:
            for part, sample in measured.items():
                self.take(f"{name}, {part}", sample)

    def ratio(self, name: str, against: str) -> float | None:
        """Return the median, over all rounds, of the ratio of two contestants.

        Returns None if one of the contestants was not measured, or if a sample of ``against`` is zero.
        """
        pairs = list(zip(self.taken.get(name, ()), self.taken.get(against, ()), strict=False))
        return median(one / other for one, other in pairs) if pairs and all(other for _, other in pairs) else None


def interleave(contestants: Sequence[Contestant], rounds: int, *, warm_up: bool = True) -> Samples:
    """Measure each contestant once a round. With ``warm_up``, one more round comes first and is not counted.

    Every second round runs in reverse order, so that a contestant does not always follow the same contestant.
    """
    samples = Samples()
    samples.absent = {one.name: one.absent for one in contestants if one.measure is None}
    present = [one for one in contestants if one.measure is not None]
    for number in range(-1 if warm_up else 0, rounds):
        start = number % len(present) if present else 0
        order = present[start:] + present[:start]
        for one in order if number % 2 else reversed(order):
            assert one.measure is not None
            measured = one.measure()
            if number >= 0:
                samples.take(one.name, measured)
    return samples


# --- tables --------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One row of a table. It shows a contestant alone, or compared with another contestant (``against``).

    A goal applies to the ratio of the two contestants, or to the median of a contestant that is alone.
    """

    name: str
    against: str = ""
    at_most: float | None = None
    at_least: float | None = None


class Table(NamedTuple):
    """A table of contestants. ``remark`` is the heading of a last column that holds ``remarks``."""

    title: str
    unit: str
    lines: Sequence[Line]
    samples: Samples
    remark: str = ""
    remarks: Mapping[str, str] = {}

    def render(self) -> str:
        """Return the table as Markdown."""
        heads = ["contestant", f"median, {self.unit}", "middle half", "ratio", "goal", "met"]
        rows = [self._row(line) for line in self.lines]
        if self.remark:
            heads.append(self.remark)
            for row, line in zip(rows, self.lines, strict=True):
                row.append(self.remarks.get(line.name, ""))
        lines = [heads, ["---"] * len(heads), *rows]
        return f"### {self.title}\n\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"

    def missed(self) -> list[str]:
        """Return a description of each goal that was measured and missed."""
        return [
            f"{self.title}: {line.name}: {self._ratio(line)}, goal {_goal(line)}"
            for line in self.lines
            if self._met(line) is False
        ]

    def _row(self, line: Line) -> list[str]:
        taken = self.samples.taken.get(line.name)
        if taken is None:
            absent = next((why for name, why in self.samples.absent.items() if line.name.startswith(name)), NOTHING)
            return [line.name, absent, NOTHING, NOTHING, _goal(line), NOTHING]
        low, _, high = quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else taken * 3
        met = self._met(line)
        return [
            line.name,
            number(median(taken)),
            f"{number(low)} to {number(high)}",
            self._ratio(line),
            _goal(line),
            {None: NOTHING, True: "yes", False: "**no**"}[met],
        ]

    def _judged(self, line: Line) -> float | None:
        if line.against:
            return self.samples.ratio(line.name, line.against)
        taken = self.samples.taken.get(line.name)
        return median(taken) if taken else None

    def _ratio(self, line: Line) -> str:
        judged = self._judged(line)
        if not line.against:
            return NOTHING if judged is None or _goal(line) == NOTHING else number(judged)
        return f"{NOTHING if judged is None else number(judged)} x {line.against}"

    def _met(self, line: Line) -> bool | None:
        judged = self._judged(line)
        if judged is None or _goal(line) == NOTHING:
            return None
        return (line.at_most is None or judged <= line.at_most) and (line.at_least is None or judged >= line.at_least)


class Report(NamedTuple):
    """A group's tables, and its errors (``wrong``), such as an inexact total. A missed goal is not an error."""

    tables: Sequence[Table]
    wrong: Sequence[str] = ()


def number(value: float) -> str:
    """Format a number with three significant digits, or as a whole number from 100 on."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _goal(line: Line) -> str:
    if line.at_most is not None:
        return f"≤ {line.at_most:.3g}"
    return NOTHING if line.at_least is None else f"≥ {line.at_least:.3g}"
