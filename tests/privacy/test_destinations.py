"""A session goes to the destination of the environment that opened it, or it stays on this machine."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import Endpoint, Place, Wire, end_process, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = "import brakit_sidecar; brakit_sidecar.connect().request('GET /', 3)"
NO_KEY = {"BRAKIT_TELEMETRY_KEY": "", "BRAKIT_TELEMETRY_ENDPOINT": ""}


@pytest.fixture
def another(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Return the endpoint of another project on the same machine."""
    server = Endpoint()
    yield server
    server.close()


def settings_of(other: str, another: Endpoint) -> dict[str, str]:
    return {
        "no key": NO_KEY,
        "another key": {"BRAKIT_TELEMETRY_KEY": "phc_another"},
        "another endpoint": {"BRAKIT_TELEMETRY_ENDPOINT": another.url},
        "another project": {"BRAKIT_TELEMETRY_KEY": "phc_another", "BRAKIT_TELEMETRY_ENDPOINT": another.url},
    }[other]


OTHERS = pytest.mark.parametrize("other", ["no key", "another key", "another endpoint", "another project"])


def only_receipt(place: Place, event: str = "session") -> tuple[str, str]:
    """Return outcome and reason of the only receipt of an event."""

    def found() -> list[dict[str, str]]:
        return [receipt for receipt in place.receipts() if receipt["event"] == event]

    wait_until(found, f"the receipt of {event}")
    (receipt,) = found()
    return receipt["outcome"], receipt["reason"]


@OTHERS
def test_the_session_of_a_run_with_other_settings_is_not_sent(
    place: Place, endpoint: Endpoint, another: Endpoint, other: str
) -> None:
    place.serve()
    ran = place.run("run", "--", sys.executable, "-c", COUNT, **settings_of(other, another))
    assert "the running daemon has other settings" in ran.stderr
    assert only_receipt(place) == ("local", "other_settings")
    assert place.run("stop").returncode == 0
    assert endpoint.bodies == another.bodies == []


@OTHERS
def test_the_session_of_a_worker_with_other_settings_is_not_sent(
    place: Place, endpoint: Endpoint, another: Endpoint, other: str
) -> None:
    place.serve(grace_s=0.2)
    assert place.run_python(COUNT, BRAKIT_SESSION_ID=new_id(), **settings_of(other, another)).returncode == 0
    assert only_receipt(place) == ("local", "other_settings")
    assert endpoint.bodies == another.bodies == []


def test_a_session_stays_with_the_settings_that_opened_it_whichever_worker_joins_later(
    place: Place, endpoint: Endpoint
) -> None:
    place.serve()
    code = f"import os, subprocess, sys; os.environ['BRAKIT_TELEMETRY_KEY'] = ''; {COUNT}"
    assert place.run("run", "--", sys.executable, "-c", code).stderr == ""
    assert endpoint.only_session()["request_count"] == 1


@OTHERS
@pytest.mark.parametrize("command", [("emit", "cli_invoked"), ("session", "start")], ids=" ".join)
def test_what_a_command_with_other_settings_reports_is_not_sent(
    place: Place, endpoint: Endpoint, another: Endpoint, other: str, command: tuple[str, ...]
) -> None:
    place.serve()
    ran = place.run(*command, **settings_of(other, another))
    assert ran.returncode == 0
    if command[0] == "session":
        with Wire(place.socket_path).hello(ran.stdout.strip()) as wire:
            wire.send(incr={"request_count": 1}).sync()
        place.run("session", "end", ran.stdout.strip())
    assert only_receipt(place, "session" if command[0] == "session" else "cli_invoked") == ("local", "other_settings")
    assert endpoint.bodies == another.bodies == []


def test_a_session_that_was_counted_without_a_key_is_not_sent_after_a_crash(endpoint: Endpoint) -> None:
    with Place() as place:
        session = new_id()
        killed = place.serve()
        with Wire(place.socket_path).hello(session) as wire:
            wire.send(incr={"request_count": 7}).sync()
            end_process(killed, signal.SIGKILL)
        place.environ |= {"BRAKIT_TELEMETRY_ENDPOINT": endpoint.url, "BRAKIT_TELEMETRY_KEY": "phc_test"}
        place.serve(grace_s=0.2)
        assert only_receipt(place) == ("local", "other_settings")
    assert endpoint.bodies == []


def test_an_event_that_waited_for_one_endpoint_is_not_sent_to_another(place: Place, endpoint: Endpoint) -> None:
    another = Endpoint()
    try:
        endpoint.may_answer.clear()
        killed = place.serve()
        place.run("emit", "cli_invoked")
        wait_until(lambda: endpoint.requests, "the first attempt")
        end_process(killed, signal.SIGKILL)
        place.environ |= {"BRAKIT_TELEMETRY_ENDPOINT": another.url}
        place.serve()
        assert only_receipt(place, "cli_invoked") == ("local", "other_settings")
        assert another.bodies == []
    finally:
        endpoint.may_answer.set()
        another.close()


def test_start_says_if_the_running_daemon_has_other_settings(place: Place, endpoint: Endpoint) -> None:
    place.serve()
    assert place.run("start").stderr == ""
    other = place.run("start", **NO_KEY)
    assert other.returncode == 0
    assert other.stdout.strip() == place.socket_path
    assert f"destination {endpoint.url}, project key phc_test; here none: no project key" in other.stderr


def test_commands_name_the_destination(place: Place, endpoint: Endpoint) -> None:
    name = f"{endpoint.url}, project key phc_test"
    assert name in place.run("telemetry").stdout
    assert "none: no project key" in place.run("telemetry", **NO_KEY).stdout
    place.serve()
    assert name in place.run("status").stdout
    place.run("emit", "cli_invoked")
    assert only_receipt(place, "cli_invoked") == ("sent", "")
    assert name in place.run("log").stdout
    assert place.receipts()[0]["destination"] == name


def test_an_event_of_other_settings_is_shown_as_such(place: Place) -> None:
    place.serve()
    place.run("emit", "cli_invoked", **NO_KEY)
    assert only_receipt(place, "cli_invoked") == ("local", "other_settings")
    assert "destination of other settings" in place.run("log").stdout


def test_two_projects_of_one_process_group_are_two_sessions(place: Place, endpoint: Endpoint) -> None:
    place.serve(grace_s=0.2)
    for environ in ({}, {"BRAKIT_TELEMETRY_KEY": "phc_another"}, {}):
        assert place.run_python(COUNT, **environ).returncode == 0  # these processes are of the test's own group
    wait_until(lambda: len(place.receipts()) == 2, "both receipts")
    assert {(receipt["outcome"], receipt["reason"]) for receipt in place.receipts()} == {
        ("sent", ""), ("local", "other_settings"),
    }  # fmt: skip
    assert endpoint.only_session()["request_count"] == 2


def test_an_emitted_event_of_other_settings_does_not_join_the_session_that_it_names(
    place: Place, endpoint: Endpoint
) -> None:
    place.serve()
    session = place.run("session", "start").stdout.strip()
    place.run("emit", "cli_invoked", BRAKIT_SESSION_ID=session, **NO_KEY)
    assert only_receipt(place, "cli_invoked") == ("local", "other_settings")
    assert endpoint.bodies == []


def test_an_event_that_waited_while_the_config_changed_is_not_sent(place: Place, endpoint: Endpoint) -> None:
    endpoint.may_answer.clear()
    killed = place.serve()
    place.run("emit", "cli_invoked")
    wait_until(lambda: endpoint.requests, "the first attempt")
    end_process(killed, signal.SIGKILL)
    arrived = len(endpoint.requests)
    os.utime(place.config_path)
    place.serve()
    assert only_receipt(place, "cli_invoked") == ("local", "config_changed")
    endpoint.may_answer.set()
    assert len(endpoint.requests) == arrived
