"""Consent is withdrawn during a session. The session's counts never arrive, even if consent is given again."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.harness import Place, Wire, end_process, new_id, wait_until
from tests.privacy.worker import COUNTING, REAL_POLL_S, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Endpoint


def switch_off(place: Place) -> None:
    assert place.run("telemetry", "off").returncode == 0


def opt_out_by_another_command(place: Place) -> None:
    """Opt out by the environment of a command. The command does not notify the daemon."""
    assert place.run("run", "true", BRAKIT_TELEMETRY="off").returncode == 0


each_way_out = pytest.mark.parametrize(
    "withdraw", [switch_off, opt_out_by_another_command], ids=lambda way: way.__name__
)


def switch_on(place: Place) -> None:
    assert place.run("telemetry", "on").returncode == 0


def send_one_event(place: Place, endpoint: Endpoint) -> None:
    """Send an event that must arrive. It shows that delivery works, so an event that is missing was never sent."""
    with Wire(place.socket_path).hello() as wire:
        wire.send(event={"name": "cli_invoked"}).sync()
    endpoint.wait_for("cli_invoked")


@each_way_out
def test_counts_from_a_time_without_a_daemon_are_dropped(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    place.run("start")
    place.run("stop")  # now the config exists
    with Worker(place, new_id()) as worker:
        withdraw(place)
        worker.count_after_two_polls()
        switch_on(place)
        served = place.serve()
        worker.count_after_two_polls()
    send_one_event(place, endpoint)
    end_process(served)
    assert [body["event"] for body in endpoint.bodies] == ["cli_invoked"]


@each_way_out
def test_counts_that_only_a_counter_file_holds_are_dropped(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    """No journal holds the anonymous id of those counts, because the killed daemon had no session yet."""
    end_process(place.serve(), signal.SIGKILL)
    with Worker(place, new_id(), COUNTING) as worker:
        withdraw(place)
        worker.count()
        switch_on(place)
        served = place.serve()
        assert place.status()["sessions"] == []
    send_one_event(place, endpoint)
    end_process(served)
    assert [body["event"] for body in endpoint.bodies] == ["cli_invoked"]


@each_way_out
def test_a_session_whose_daemon_was_killed_before_the_opt_out_is_not_sent(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    endpoint.may_answer.clear()  # the attempt does not end, and the event is in the journal
    with Worker(place, new_id()) as worker:
        killed = place.serve()
        worker.count_after_two_polls()
        wait_until(lambda: endpoint.requests, "the first attempt")
        end_process(killed, signal.SIGKILL)
        before = len(endpoint.requests)
        withdraw(place)
        endpoint.may_answer.set()
        switch_on(place)
        served = place.serve()
        worker.count_after_two_polls()
    send_one_event(place, endpoint)
    end_process(served)
    assert [body["event"] for body in endpoint.bodies[before:]] == ["cli_invoked"]


@each_way_out
def test_an_open_session_is_not_sent_although_consent_is_given_again(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    served = place.serve()
    with Worker(place, new_id(), poll_s=REAL_POLL_S) as worker:
        endpoint.wait_for("first_request")
        withdraw(place)
        worker.count_after_two_polls()
        switch_on(place)
        worker.count_after_two_polls()
    end_process(served)
    assert [body["event"] for body in endpoint.bodies] == ["first_request"]


@each_way_out
@pytest.mark.slow
def test_nothing_arrives_more_than_a_second_after_the_withdrawal_although_the_endpoint_is_slow(
    withdraw: Callable[[Place], None], endpoint: Endpoint, place: Place
) -> None:
    endpoint.may_answer.clear()
    served = place.serve()
    with Worker(place, new_id()) as worker, Wire(place.socket_path).hello(new_id()) as wire:
        for _ in range(12):
            wire.send(event={"name": "cli_invoked"})
        wire.sync()
        wait_until(lambda: len(endpoint.requests) >= 4, "the first attempts")
        withdraw(place)
        time.sleep(1)
        arrived = len(endpoint.requests)
        endpoint.may_answer.set()
        worker.count_after_two_polls()
        wire.send(event={"name": "cli_invoked"}).sync()
    end_process(served)
    assert len(endpoint.requests) == arrived
    reasons = {receipt["reason"] for receipt in place.receipts()}
    assert "consent" in reasons
    assert reasons <= {"consent", "timeout"}  # the first attempts can time out on a slow machine
    assert all(body["distinct_id"] != place.config["anonymousId"] for body in endpoint.bodies)
