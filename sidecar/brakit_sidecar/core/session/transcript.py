"""A producer's totals as frames of the wire.

If the frames of a transcript are applied to empty totals, the totals are restored. The frames may be applied in any
order, and more than once. So a journal consists of transcripts, and needs no format of its own.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ..rules import First
from ..schema import SESSION_FIELDS
from .totals import Changes

if TYPE_CHECKING:
    from .totals import ProducerTotals

Timed = tuple[int, dict[str, Any]]  # a time in monotonic nanoseconds, and a frame of the wire without a hello


def changed(totals: ProducerTotals) -> list[Timed]:
    """Return the frames of what changed in the totals since the last call for the same totals."""
    changes, totals.changes = totals.changes, Changes()
    frames: dict[int, dict[str, Any]] = defaultdict(dict)
    for name in changes.values:
        field, account = SESSION_FIELDS[name], totals.values[name]
        # The time matters only if the field's rule takes the first value.
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
    """Return the frames of the whole totals, regardless of earlier calls."""
    totals.changes.counts.update(totals.counts)
    totals.changes.routes.update(totals.routes)
    totals.changes.values.update(totals.values)
    totals.changes.marks = [(name, mark) for name, marks in totals.marks.items() for mark in sorted(marks)]
    return changed(totals)
