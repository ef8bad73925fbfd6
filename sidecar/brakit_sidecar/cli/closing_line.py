"""The line with which ``run`` ends at a terminal: what was counted, by how many workers, and what became of it."""

from __future__ import annotations

import os
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COUNTS = (
    ("request_count", "request"),
    ("query_count", "query"),
    ("fetch_count", "fetch"),
    ("error_count", "error"),
)
_PLURALS = {"query": "queries", "fetch": "fetches"}
_SEE_MORE = "`brakit-sidecar log` shows it"

_UNJOINED_PYTHON = "IES"  # the options with which a Python ignores PYTHONPATH or loads no sitecustomize


def closing_line(result: Mapping[str, Any], command: Sequence[str], left_out: str | None) -> str:
    """Return the line, without a newline.

    ``result`` is the daemon's answer about the session, empty if it knows nothing of it. ``left_out`` is a clause: why
    some brakit applications below the command do not join by themselves. It is None if all of them do.
    """
    if not result:
        return "the daemon does not tell what became of the session; `brakit-sidecar log` shows it"
    if result.get("reason") == "consent":
        return "nothing was reported, because telemetry was switched off; `brakit-sidecar telemetry` shows it"
    if not result["workers"]:
        return f"nothing was counted, because {_why_nobody_joined(command, left_out)}"
    counts = [_number(result["properties"].get(field, 0), word) for field, word in _COUNTS]
    counted = ", ".join([counts[0], *(count for count in counts[1:] if not count.startswith("0 "))])
    return f"{counted} from {_number(result['workers'], 'worker')}; {_outcome(result)}; {_SEE_MORE}"


def _number(count: int, word: str) -> str:
    return f"{count} {word if count == 1 else _PLURALS.get(word, word + 's')}"


def _outcome(result: Mapping[str, Any]) -> str:
    match result["outcome"], result["reason"]:
        case "queued", _:
            return "the event is on its way"
        case "sent", _:
            return "the event was sent"
        case "local", "no_key":
            return "the event is kept on this machine, because there is no project key"
        case "local", "other_settings":
            return "the event is kept on this machine, because the running daemon has other settings"
        case "local", "config_changed":
            return "the event is kept on this machine, because brakit's config was changed meanwhile"
        case "local", reason:
            return f"the event is kept on this machine ({reason})"
        case _, reason:
            return f"the event was not sent ({reason})"


def _why_nobody_joined(command: Sequence[str], left_out: str | None) -> str:
    if left_out is not None:
        return f"no process joined; {left_out}"
    if _has_unjoined_python(command):
        return "no process joined; a Python with -I, -E or -S cannot"
    return "no process imported brakit, or it has an environment of its own"


def _has_unjoined_python(command: Sequence[str]) -> bool:
    """Return whether the command is a Python with an option by which it does not load the preload file."""
    for position, argument in enumerate(command):
        if os.path.basename(argument).startswith("python"):
            options = takewhile(lambda option: option.startswith("-"), command[position + 1 :])
            return any(set(option) & set(_UNJOINED_PYTHON) for option in options if not option.startswith("--"))
    return False
