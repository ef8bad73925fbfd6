"""Side by side: in every round each contestant is measured once, in rotating order, so that whatever else the machine
does meets all of them. A ratio is the median of the rounds' ratios, not the ratio of two medians, for the same reason.

Nothing here knows what is measured. No measurement fails by the clock: a goal is met or missed, and the table says so.
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
    """How much of everything."""

    rounds: int
    size: float  # of a measurement, in parts of the full one
    with_peers: bool = True  # packages of the ``bench`` extra, Node, and what npm installs

    def times(self, number: float) -> int:
        return max(1, round(number * self.size))


class Contestant(NamedTuple):
    """``measure`` gives one sample, or several by what each is a sample of. None: it is absent, for that reason."""

    name: str
    measure: Callable[[], Measured] | None
    absent: str = ""


def absence(effort: Effort, package: str) -> str:
    """Why a package's contestant cannot be measured; empty where it can."""
    if not effort.with_peers:
        return "left out"
    return "" if find_spec(package) else "not installed"


class Samples:
    """By contestant, or ``contestant, what`` where one measurement gives several: one sample of each round."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}
        self.absent: dict[str, str] = {}

    def take(self, name: str, measured: Measured) -> None:
        if isinstance(measured, (int, float)):
            self.taken.setdefault(name, []).append(float(measured))
        else:
            for what, sample in measured.items():
                self.take(f"{name}, {what}", sample)

    def ratio(self, name: str, against: str) -> float | None:
        """Of one contestant to another, round by round; None where one was not measured, or a sample is zero."""
        pairs = list(zip(self.taken.get(name, ()), self.taken.get(against, ()), strict=False))
        return median(one / other for one, other in pairs) if pairs and all(other for _, other in pairs) else None


def interleave(contestants: Sequence[Contestant], rounds: int, *, warm_up: bool = True) -> Samples:
    """Measures each contestant once a round. Every other round runs backwards, so that none always follows the same.
    The first round is not counted where it warms up.
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
    """A contestant beside another, or alone; with a goal for their ratio (alone: for its median), or without one."""

    name: str
    against: str = ""
    at_most: float | None = None
    at_least: float | None = None


class Table(NamedTuple):
    title: str
    unit: str
    lines: Sequence[Line]
    samples: Samples
    remark: str = ""  # the heading of a last column
    remarks: Mapping[str, str] = {}

    def render(self) -> str:
        heads = ["contestant", f"median, {self.unit}", "middle half", "ratio", "goal", "met"]
        rows = [self._row(line) for line in self.lines]
        if self.remark:
            heads.append(self.remark)
            for row, line in zip(rows, self.lines, strict=True):
                row.append(self.remarks.get(line.name, ""))
        lines = [heads, ["---"] * len(heads), *rows]
        return f"### {self.title}\n\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"

    def missed(self) -> list[str]:
        """The goals that were measured and not reached."""
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
    """A group's tables, and what was wrong: totals that are not exact. A missed goal is nothing wrong."""

    tables: Sequence[Table]
    wrong: Sequence[str] = ()


def number(value: float) -> str:
    """Three digits that mean something."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _goal(line: Line) -> str:
    if line.at_most is not None:
        return f"≤ {line.at_most:.3g}"
    return NOTHING if line.at_least is None else f"≥ {line.at_least:.3g}"
