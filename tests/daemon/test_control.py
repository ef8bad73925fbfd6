"""The questions that a command may ask, put to a daemon in the test's own process."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core.destination import NOWHERE, Destination
from brakit_sidecar.core.outbox import Outbox, Outcome, Reason, Verdict
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.core.version import __version__
from brakit_sidecar.daemon.control import Control
from brakit_sidecar.host import process

from tests.daemon.in_process import SESSION, Daemon
from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Asked:
    """A daemon and its control."""

    def __init__(self, root: Path) -> None:
        self.daemon = Daemon(root)
        self.stops: list[None] = []
        self.control = Control(
            self.daemon.table,
            self.daemon.service,
            self.daemon.service.reporter,
            Outbox(),
            self.daemon.consent,
            "/run/s",
            self.daemon.destination,
            stop_daemon=lambda: self.stops.append(None),
            wake=lambda: self.daemon.wakes.append(None),
        )

    def ask(self, question: Any) -> Any:
        return self.control.answer(question)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_identity_names_the_process_and_its_destination(asked: Asked) -> None:
    assert asked.ask("identity") == {
        "version": __version__,
        "protocol": 1,
        "pid": os.getpid(),
        "socket": "/run/s",
        "destination": {
            "digest": Destination({"BRAKIT_TELEMETRY_KEY": "phc_test"}).digest,
            "name": "https://us.i.posthog.com, project key phc_test",
        },
    }


@pytest.mark.parametrize("question", ["open", "emit"])
@pytest.mark.parametrize("destination", ["", "elsewhere", 7, ["none"]])
def test_a_destination_that_is_no_digest_is_refused(asked: Asked, question: str, destination: object) -> None:
    arguments: dict[str, Any] = {"session": SESSION}
    if question == "emit":
        arguments |= {"event": "cli_invoked", "fields": {}}
    assert asked.ask({question: {**arguments, "destination": destination}}) is Refusal.BAD_VALUE


def test_a_session_is_bound_to_the_destination_of_the_command_that_opened_it(asked: Asked) -> None:
    asked.ask({"open": {"session": SESSION, "destination": NOWHERE}})
    assert asked.ask("status")["destination"]["kept_local"] == {SESSION: "other_settings"}
    asked.ask({"open": {"session": SESSION, "destination": asked.daemon.destination.digest}})
    assert asked.daemon.session.terms.destination == NOWHERE


def test_status_shows_why_a_session_stays_on_this_machine(asked: Asked) -> None:
    asked.ask({"open": {"session": SESSION}})
    assert asked.ask("status")["destination"]["kept_local"] == {}
    asked.daemon.session.keep_local(Reason.CONFIG_CHANGED)
    assert asked.ask("status")["destination"]["kept_local"] == {SESSION: "config_changed"}


def test_an_event_of_a_command_with_another_destination_is_not_sent(asked: Asked) -> None:
    asked.ask({"emit": {"event": "cli_invoked", "fields": {}, "destination": NOWHERE}})
    assert asked.daemon.sent() == []
    ((_event, verdict),) = asked.daemon.delivery.unsent
    assert verdict == Verdict(Outcome.LOCAL, Reason.OTHER_SETTINGS)


@pytest.mark.parametrize(
    "question",
    ["what", {}, {"open": {}, "end": {}}, {"what": {}}, {"open": 1}, {"open": {"colour": "blue"}}, [], 7, None],
    ids=str,
)
def test_any_other_question_is_refused(asked: Asked, question: Any) -> None:
    assert asked.ask(question) is Refusal.UNKNOWN_ASK


def test_status_shows_the_sessions_as_they_would_be_sent(asked: Asked) -> None:
    made = asked.daemon.make_counter_file()
    member = asked.daemon.join(counter_fd=made.fd)
    asked.daemon.count(made, "request_count", 7)
    asked.daemon.service.closed(asked.daemon.join())
    asked.daemon.send(member, set={"framework": "flask"})
    (session,) = asked.ask("status")["sessions"]
    assert (session["id"], session["producers"]) == (SESSION, {"live": 1, "gone": 1})
    assert (session["fields"]["request_count"], session["fields"]["framework"]) == (7, "flask")


def test_status_counts_refusals_and_withheld_events(asked: Asked) -> None:
    asked.daemon.service.refused(Refusal.BAD_JSON)
    asked.daemon.opt(in_=False)
    asked.daemon.send(None, event={"name": "cli_invoked"})
    status = asked.ask("status")
    assert status["refused"] == {"bad_json": 1}
    assert status["delivery"] == {"sent": 0, "local": 0, "queued": 0, "dropped": {"consent": 1}}
    assert status["consent"]["on"] is False


def test_status_starts_the_recovery_if_the_config_has_become_readable(asked: Asked) -> None:
    answers: list[bool] = []
    asked.daemon.config.write_text("{")
    asked.daemon.consent.when_readable(answers.append)
    asked.daemon.opt(in_=True)
    asked.ask("status")
    assert answers == [True]


def test_stop_begins_to_stop_the_daemon(asked: Asked) -> None:
    assert asked.ask("stop") == {"stopping": True}
    assert asked.stops


def test_an_opt_out_withdraws_consent_at_once(asked: Asked) -> None:
    asked.daemon.join()
    assert asked.ask("consent") == {"on": True, "dropped": 0}
    assert asked.daemon.table.open
    asked.daemon.opt(in_=False)
    assert asked.ask("consent") == {"on": False, "dropped": 1}
    assert not asked.daemon.table.open
    assert asked.daemon.delivery.is_withdrawn


def test_a_command_opens_a_session_and_ends_it(asked: Asked) -> None:
    assert asked.ask({"open": {"session": SESSION}}) == {"session": SESSION}
    assert asked.ask({"open": {"session": SESSION}}) == {"session": SESSION}  # opening it again changes nothing
    assert asked.ask({"end": {"session": SESSION, "exit_reason": "sigint"}}) == {"session": SESSION}
    assert asked.daemon.session.ending is not None
    assert asked.daemon.session.ending.exit_reason == "sigint"
    assert len(asked.daemon.wakes) == 2


def test_a_process_may_own_the_session(asked: Asked, other_process: int) -> None:
    assert asked.ask({"open": {"session": SESSION, "owner_pid": other_process}}) == {"session": SESSION}
    asked.daemon.watcher.exit(SESSION, f"owner {other_process}")
    assert asked.daemon.session.ending is not None


@pytest.fixture
def other_process() -> Iterator[int]:
    """Give the pid of a process of this user."""
    with subprocess.Popen(["sleep", "600"]) as sleeping:
        yield sleeping.pid
        sleeping.kill()


def exited_pid() -> int:
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize(
    "owner_pid", [exited_pid, os.getpid, lambda: 0, lambda: 1, lambda: -1, lambda: "1", lambda: True, lambda: 2**64]
)
def test_the_daemon_and_a_process_that_cannot_be_watched_own_no_session(asked: Asked, owner_pid: Any) -> None:
    assert asked.ask({"open": {"session": SESSION, "owner_pid": owner_pid()}}) is Refusal.BAD_VALUE
    assert not asked.daemon.table.open


@pytest.mark.parametrize("named", ["", "pid:[1]", 7])
def test_the_number_of_a_process_in_another_namespace_is_refused(
    asked: Asked, other_process: int, named: object
) -> None:
    question = {"open": {"session": SESSION, "owner_pid": other_process, "pid_namespace": named}}
    assert asked.ask(question) is Refusal.BAD_VALUE
    question["open"]["pid_namespace"] = process.pid_namespace()
    assert asked.ask(question) == {"session": SESSION}


@pytest.mark.parametrize("name", ["open", "end"])
def test_the_id_of_a_session_must_be_a_uuid(asked: Asked, name: str) -> None:
    assert asked.ask({name: {"session": "mine"}}) is Refusal.BAD_VALUE


def test_a_session_that_is_over_cannot_be_opened_or_ended(asked: Asked) -> None:
    asked.daemon.join()
    asked.daemon.seal()
    assert asked.ask({"open": {"session": SESSION}}) is Refusal.SESSION_ENDED
    assert asked.ask({"end": {"session": SESSION}}) is Refusal.SESSION_ENDED


def test_an_exit_reason_must_be_a_text(asked: Asked) -> None:
    asked.daemon.join()
    assert asked.ask({"end": {"session": SESSION, "exit_reason": 7}}) is Refusal.BAD_VALUE


def emit(event: object = "dashboard_viewed", session: object = None, **fields: object) -> dict[str, Any]:
    named = {} if session is None else {"session": session}
    return {"emit": {"event": event, "fields": fields, **named}}


def test_a_command_emits_an_event_without_a_session(asked: Asked) -> None:
    assert asked.ask(emit("cli_invoked", command="run")) == {"emitted": True}
    assert [body["properties"]["command"] for body in asked.daemon.sent()] == ["run"]


def test_a_command_emits_an_event_of_a_session_once(asked: Asked) -> None:
    made = asked.daemon.make_counter_file()
    asked.daemon.join(counter_fd=made.fd)
    asked.daemon.count(made, "request_count", 7)
    for _ in range(2):
        assert asked.ask(emit(session=SESSION)) == {"emitted": True}
    (body,) = asked.daemon.sent()
    assert body["properties"]["request_count_at_open"] == 7


def test_an_event_of_an_unknown_session_is_reported_without_a_session(asked: Asked) -> None:
    assert asked.ask(emit(session=new_id())) == {"emitted": True}
    assert len(asked.daemon.sent()) == 1


def test_an_event_of_a_session_that_is_over_is_refused(asked: Asked) -> None:
    asked.daemon.join()
    asked.daemon.seal()
    assert asked.ask(emit(session=SESSION)) is Refusal.SESSION_ENDED


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (emit("session"), Refusal.UNKNOWN_EVENT),
        (emit(7), Refusal.UNKNOWN_EVENT),
        (emit(session="mine"), Refusal.BAD_VALUE),
        (emit(colour="blue"), Refusal.UNKNOWN_FIELD),
        ({"emit": {"event": "cli_invoked", "fields": []}}, Refusal.BAD_VALUE),
    ],
    ids=str,
)
def test_a_wrong_event_is_refused(asked: Asked, question: Any, reason: Refusal) -> None:
    assert asked.ask(question) is reason
    assert asked.daemon.sent() == []
