"""The daemon's reading of consent from a config that other programs may change at any time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.daemon.consent_gate import ConsentGate

from tests.harness import new_id

if TYPE_CHECKING:
    from pathlib import Path


class Config:
    """A config in a temporary home, and a gate that reads it."""

    def __init__(self, home: Path) -> None:
        self.path = home / ".brakit" / "config.json"
        self.path.parent.mkdir(mode=0o700)
        self.gate = ConsentGate({"HOME": str(home)})
        self.anonymous_id = new_id()
        self.write(telemetry=True)

    def write(self, *, telemetry: bool) -> None:
        self.path.write_text(json.dumps({"telemetry": telemetry, "anonymousId": self.anonymous_id}))

    def spoil(self) -> None:
        self.path.write_text("{")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


def test_telemetry_is_on_if_it_is_on_in_the_config(config: Config) -> None:
    assert config.gate.allows() is True
    assert config.gate.last_anonymous_id == config.anonymous_id


def test_telemetry_is_off_as_soon_as_it_is_off_in_the_config(config: Config) -> None:
    assert config.gate.allows()
    config.write(telemetry=False)
    assert config.gate.allows() is False


def test_a_config_that_cannot_be_read_leaves_consent_unknown_and_keeps_the_id(config: Config) -> None:
    assert config.gate.allows()
    config.spoil()
    assert config.gate.allows() is None
    assert config.gate.last_anonymous_id == config.anonymous_id


def test_the_callback_gets_the_first_readable_consent_once(config: Config) -> None:
    consents: list[bool] = []
    config.spoil()
    config.gate.when_readable(consents.append)
    assert consents == []
    config.write(telemetry=True)
    config.gate.allows()
    config.gate.allows()
    assert consents == [True]


def test_only_an_event_of_the_current_id_may_be_made_and_sent(config: Config) -> None:
    checks = config.gate.allows_event, config.gate.allows_id
    assert [allows(config.anonymous_id) for allows in checks] == [True, True]
    assert [allows(new_id()) for allows in checks] == [False, False]
    assert [allows(None) for allows in checks] == [False, False]
    config.write(telemetry=False)
    assert [allows(config.anonymous_id) for allows in checks] == [False, False]


def test_every_method_that_reads_the_config_notes_the_current_id(config: Config) -> None:
    for ask in (config.gate.allows_event, config.gate.allows_id):
        config.anonymous_id = new_id()
        config.write(telemetry=True)
        ask(None)
        assert config.gate.last_anonymous_id == config.anonymous_id


def test_an_event_without_a_session_has_the_current_id_if_telemetry_is_on(config: Config) -> None:
    assert config.gate.settled_id() == config.anonymous_id
    config.write(telemetry=False)
    assert config.gate.settled_id() is None


def test_status_shows_the_decision_and_its_reason(config: Config) -> None:
    assert config.gate.status()["on"] is True
    assert config.gate.status()["why"]


def test_an_opt_out_in_the_config_is_noticed_despite_an_opt_in_by_the_environment(config: Config) -> None:
    config.gate.environ["BRAKIT_TELEMETRY"] = "true"
    assert not config.gate.config_was_changed()
    config.write(telemetry=False)
    assert config.gate.config_was_changed()
    config.spoil()
    assert not config.gate.config_was_changed()
