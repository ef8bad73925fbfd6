"""A producer's totals as frames of the wire.

Applying a transcript to empty totals restores them, in any order and after any repetition. So a journal is made of
transcripts and needs no format of its own.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ..rules import First
from ..schema import SESSION_FIELDS
from .totals import Changes

if TYPE_CHECKING:
    from .totals import ProducerTotals

Timed = tuple[int, dict[str, Any]]  # when, in monotonic nanoseconds, and a frame of the wire without its hello


def changed(totals: ProducerTotals) -> list[Timed]:
    """Return what changed in the totals since this function was last called for them."""
    changes, totals.changes = totals.changes, Changes()
    frames: dict[int, dict[str, Any]] = defaultdict(dict)
    for name in changes.values:
        field, account = SESSION_FIELDS[name], totals.values[name]
        # The time matters only for a rule by which the first value wins.
        when = account[0] if isinstance(field.rule, First) else 0
        for key in field.rule.said_by - {"hello"}:  # the hello's own field is journaled with the hello
            frames[when].setdefault(key, {})[name] = field.rule.value(account)
    if changes.counts:
        frames[0]["total"] = {name: totals.counts[name] for name in changes.counts}
    if changes.routes:
        frames[0]["histogram"] = {route: list(totals.routes[route]) for route in changes.routes}
    for name, mark in changes.marks:
        frames[0].setdefault("mark", {}).setdefault(name, []).append(mark)
    return sorted(frames.items())


def whole(totals: ProducerTotals) -> list[Timed]:
    """Return all of the totals, whatever was returned before."""
    totals.changes.counts.update(totals.counts)
    totals.changes.routes.update(totals.routes)
    totals.changes.values.update(totals.values)
    totals.changes.marks = [(name, mark) for name, marks in totals.marks.items() for mark in sorted(marks)]
    return changed(totals)
