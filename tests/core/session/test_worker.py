"""The table of a worker's phases, which lists the stimuli that are legal in each phase."""

from __future__ import annotations

import pytest
from brakit_sidecar.core.session.totals import ProducerTotals
from brakit_sidecar.core.session.worker import TRANSITIONS, Phase, Stimulus, Worker, as_mermaid

MOVES = [(phase, stimulus) for phase in Phase for stimulus in Stimulus]
PRESENT = {Phase.CONNECTED, Phase.FINISHED, Phase.RECONNECTING}


def worker_in(phase: Phase) -> Worker:
    worker = Worker("p", ProducerTotals("p"))
    worker.phase = phase
    return worker


@pytest.mark.parametrize(("phase", "stimulus"), [move for move in MOVES if move in TRANSITIONS], ids=str)
def test_a_legal_stimulus_changes_the_workers_phase_as_the_table_says(phase: Phase, stimulus: Stimulus) -> None:
    worker = worker_in(phase)
    worker.apply(stimulus)
    assert worker.phase is TRANSITIONS[phase, stimulus]


@pytest.mark.parametrize(("phase", "stimulus"), [move for move in MOVES if move not in TRANSITIONS], ids=str)
def test_an_illegal_stimulus_raises_and_changes_nothing(phase: Phase, stimulus: Stimulus) -> None:
    worker = worker_in(phase)
    with pytest.raises(KeyError):
        worker.apply(stimulus)
    assert worker.phase is phase


def test_a_hello_connects_a_worker_in_every_phase_except_compacted() -> None:
    legal = {phase: TRANSITIONS.get((phase, Stimulus.HELLO)) for phase in Phase}
    assert legal == {phase: None if phase is Phase.COMPACTED else Phase.CONNECTED for phase in Phase}


def test_no_stimulus_is_legal_for_a_compacted_worker() -> None:
    assert not [move for move in TRANSITIONS if move[0] is Phase.COMPACTED]


def test_every_phase_except_the_first_can_be_reached() -> None:
    assert {*TRANSITIONS.values()} == {*Phase} - {Phase.NEW}


@pytest.mark.parametrize("phase", Phase)
def test_a_worker_is_live_if_it_is_present_and_has_not_reported_its_end(phase: Phase) -> None:
    worker = worker_in(phase)
    assert worker.is_present == (phase in PRESENT)
    assert worker.is_live == (phase in PRESENT - {Phase.FINISHED})


def test_the_diagram_shows_each_transition_once() -> None:
    lines = as_mermaid().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert sum(line.count(",") + 1 for line in lines[1:]) == len(TRANSITIONS)
