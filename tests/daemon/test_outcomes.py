"""What became of a session, as the daemon tells `run`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.core.outbox import Outcome, QueuedEvent, Reason, Verdict
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.daemon.outcomes import REMEMBERED, Outcomes

from tests.daemon.in_process import SESSION
from tests.daemon.test_control import Asked

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def event(session: str | None = SESSION, name: str = "session") -> QueuedEvent:
    body = json.dumps({"event": name, "properties": {"request_count": 3}}).encode()
    return QueuedEvent(name, "u", "a", body, session)


def test_an_event_is_queued_until_its_verdict_is_known(outcomes: Outcomes) -> None:
    outcomes.ended(SESSION, 2, event())
    expected = {"workers": 2, "properties": {"request_count": 3}, "outcome": "queued", "reason": ""}
    assert outcomes.of(SESSION) == expected


def test_the_verdict_of_the_session_event_is_its_outcome(outcomes: Outcomes) -> None:
    made = event()
    outcomes.ended(SESSION, 2, made)
    outcomes.settle(made, Verdict(Outcome.LOCAL, Reason.NO_KEY))
    found = outcomes.of(SESSION)
    assert found is not None
    assert (found["outcome"], found["reason"]) == ("local", "no_key")


def test_the_verdict_of_another_event_of_the_session_is_not_its_outcome(outcomes: Outcomes) -> None:
    outcomes.ended(SESSION, 2, event())
    outcomes.settle(event(name="first_request"), Verdict(Outcome.SENT))
    outcomes.settle(event(session=None), Verdict(Outcome.SENT))
    found = outcomes.of(SESSION)
    assert found is not None
    assert found["outcome"] == "queued"


def test_an_event_that_was_never_made_was_dropped_for_consent(outcomes: Outcomes) -> None:
    outcomes.ended(SESSION, 2, None)
    assert outcomes.of(SESSION) == {"workers": 2, "properties": {}, "outcome": "dropped", "reason": "consent"}


def test_the_oldest_session_is_forgotten_first(outcomes: Outcomes) -> None:
    for number in range(REMEMBERED + 1):
        outcomes.ended(str(number), 1, None)
    assert outcomes.of("0") is None
    assert outcomes.of("1") is not None


# --- the question ----------------------------------------------------------------------------------------------------


def test_the_result_of_an_open_session_is_that_it_is_open(asked: Asked) -> None:
    asked.daemon.join()
    assert asked.ask({"result": {"session": SESSION}}) == {"open": True}


def test_the_result_of_a_sealed_session_has_its_workers_and_its_event(asked: Asked) -> None:
    asked.daemon.send(asked.daemon.join(), incr={"request_count": 3})
    asked.daemon.seal()
    result = asked.ask({"result": {"session": SESSION}})
    assert (result["workers"], result["properties"]["request_count"], result["outcome"]) == (1, 3, "queued")


def test_a_session_that_opted_out_before_its_end_was_dropped_for_consent(asked: Asked) -> None:
    asked.daemon.join()
    asked.daemon.opt(in_=False)
    asked.daemon.seal()
    assert asked.ask({"result": {"session": SESSION}})["reason"] == "consent"


def test_an_unknown_session_has_an_empty_result(asked: Asked) -> None:
    assert asked.ask({"result": {"session": SESSION}}) == {}


def test_the_result_of_something_else_is_refused(asked: Asked) -> None:
    assert asked.ask({"result": {"session": 7}}) is Refusal.BAD_VALUE
