"""What a producer's account says, in the wire's own words. Whoever hears a transcript, from nothing, in any order and
any number of times, has the account again: so a journal is made of transcripts, and needs no format of its own.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ..rules import First
from ..schema import SESSION_FIELDS
from .state import News

if TYPE_CHECKING:
    from .state import ProducerState

Said = tuple[int, dict[str, Any]]  # when, and a frame of the wire without its hello


def news(state: ProducerState) -> list[Said]:
    """What changed in the account since this was last asked."""
    fresh, state.news = state.news, News()
    frames: dict[int, dict[str, Any]] = defaultdict(dict)
    for name in fresh.said:
        field, account = SESSION_FIELDS[name], state.said[name]
        # Only for a word that wins by being first does it matter when it was said.
        when = account[0] if isinstance(field.rule, First) else 0
        for key in field.rule.said_by - {"hello"}:  # the hello's own word is said with every hello
            frames[when].setdefault(key, {})[name] = field.rule.value(account)
    if fresh.counts:
        frames[0]["total"] = {name: state.counts[name] for name in fresh.counts}
    if fresh.routes:
        frames[0]["histogram"] = {route: list(state.routes[route]) for route in fresh.routes}
    for name, mark in fresh.marks:
        frames[0].setdefault("mark", {}).setdefault(name, []).append(mark)
    return sorted(frames.items())


def whole(state: ProducerState) -> list[Said]:
    """All of the account, whatever was asked before."""
    state.news.counts.update(state.counts)
    state.news.routes.update(state.routes)
    state.news.said.update(state.said)
    state.news.marks = [(name, mark) for name, marks in state.marks.items() for mark in sorted(marks)]
    return news(state)
