"""The line with which ``run`` ends at a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from brakit_sidecar.cli.closing_line import closing_line


def line(result: dict[str, Any], *command: str, left_out: str | None = None) -> str:
    return closing_line(result, command or ("npm", "start"), left_out)


def ended(outcome: str = "queued", reason: str = "", workers: int = 1, **counts: int) -> dict[str, Any]:
    return {"workers": workers, "properties": counts, "outcome": outcome, "reason": reason}


def test_counts_workers_outcome_and_the_next_command_are_named() -> None:
    result = ended("sent", workers=4, request_count=48, query_count=8, fetch_count=1, error_count=2)
    assert line(result) == (
        "48 requests, 8 queries, 1 fetch, 2 errors from 4 workers; the event was sent; `brakit-sidecar log` shows it"
    )


def test_counts_of_zero_are_left_out_except_the_requests() -> None:
    assert line(ended(request_count=0, query_count=0)).startswith("0 requests from 1 worker; ")


def test_one_is_singular() -> None:
    assert line(ended(request_count=1, query_count=1)).startswith("1 request, 1 query from 1 worker; ")


@pytest.mark.parametrize(
    ("outcome", "reason", "words"),
    [
        ("queued", "", "the event is on its way"),
        ("sent", "", "the event was sent"),
        ("local", "no_key", "the event is kept on this machine, because there is no project key"),
        ("local", "other_settings", "the event is kept on this machine, because the running daemon has other settings"),
        ("local", "config_changed", "the event is kept on this machine, because brakit's config was changed meanwhile"),
        ("local", "bad_key", "the event is kept on this machine (bad_key)"),
        ("dropped", "timeout", "the event was not sent (timeout)"),
    ],
)
def test_the_outcome_is_said_in_words(outcome: str, reason: str, words: str) -> None:
    assert f"; {words}; " in line(ended(outcome, reason, request_count=3))


def test_a_withdrawn_consent_is_named() -> None:
    assert "telemetry was switched off" in line(ended("dropped", "consent", workers=2))


def test_an_unknown_outcome_is_not_guessed() -> None:
    assert "does not tell" in line({})


NO_IMPORT = "no process imported brakit, or it has an environment of its own"
UNJOINED = "no process joined; a Python with -I, -E or -S cannot"


@pytest.mark.parametrize(
    ("command", "left_out", "reason"),
    [
        ("ls", None, NO_IMPORT),
        ("npm start", "Node processes could not, because of a flag", "no process joined; Node processes could not"),
        ("python -I app.py", None, UNJOINED),
        ("/usr/bin/python3.12 -uE app.py", None, UNJOINED),
        ("env A=1 python -S app.py", None, UNJOINED),
        ("python --check-hash-based-pycs always app.py", None, NO_IMPORT),
        ("python app.py -I", None, NO_IMPORT),
        ("gunicorn app:app -E", None, NO_IMPORT),
    ],
)
def test_the_likely_reason_is_named_if_no_worker_joined(command: str, left_out: str | None, reason: str) -> None:
    found = line(ended("dropped", "nobody_joined", 0), *command.split(), left_out=left_out)
    assert found.startswith(f"nothing was counted, because {reason}")
