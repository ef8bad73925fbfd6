"""The daemon's reading of consent from a config that other programs may change at any time."""

from __future__ import annotations

import errno
import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.core.counter_layout import NO_CONFIG, NOT_BELIEVED
from brakit_sidecar.core.session.terms import Terms
from brakit_sidecar.daemon.consent_gate import ConsentGate

from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Callable
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


def test_only_an_event_of_the_current_id_may_be_sent(config: Config) -> None:
    assert config.gate.allows_id(config.anonymous_id)
    assert not config.gate.allows_id(new_id())
    assert not config.gate.allows_id(None)
    config.write(telemetry=False)
    assert not config.gate.allows_id(config.anonymous_id)


def test_an_event_may_be_made_only_under_the_current_id_and_sent_only_if_the_config_has_not_changed(
    config: Config,
) -> None:
    assert config.gate.allows()
    terms = Terms(config.anonymous_id, config.gate.last_stamp)
    assert config.gate.allows_event(terms) is True
    assert config.gate.allows_event(terms._replace(stamp=terms.stamp - 1)) is False
    assert config.gate.allows_event(terms._replace(anonymous_id=new_id())) is None
    assert config.gate.allows_event(terms._replace(anonymous_id=None)) is None
    config.write(telemetry=False)
    assert config.gate.allows_event(terms) is None


def test_every_method_that_reads_the_config_notes_the_current_id(config: Config) -> None:
    asks: list[Callable[[], object]] = [
        lambda: config.gate.allows_event(Terms(None)),
        lambda: config.gate.allows_id(None),
    ]
    for ask in asks:
        config.anonymous_id = new_id()
        config.write(telemetry=True)
        ask()
        assert config.gate.last_anonymous_id == config.anonymous_id


def test_nothing_stands_while_the_config_is_not_believed(config: Config) -> None:
    assert config.gate.allows()
    stamp = config.gate.last_stamp
    config.path.parent.chmod(0o770)
    assert config.gate.allows() is None
    assert not config.gate.has_stood_since(stamp)
    assert not config.gate.has_stood_since(NOT_BELIEVED)


def test_a_config_that_cannot_be_opened_for_a_moment_is_taken_for_unchanged(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_keywords: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert config.gate.allows()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        assert config.gate.allows() is None
    assert config.gate.has_stood_since(config.gate.last_stamp)


def test_an_event_without_a_session_has_the_current_id_if_telemetry_is_on(config: Config) -> None:
    assert config.gate.current_id() == config.anonymous_id
    config.write(telemetry=False)
    assert config.gate.current_id() is None


def test_status_shows_the_decision_and_its_reason(config: Config) -> None:
    assert config.gate.status()["on"] is True
    assert config.gate.status()["why"]


def test_consent_has_stood_until_the_config_is_written_again(config: Config) -> None:
    assert config.gate.allows()
    stamp = config.gate.last_stamp
    assert config.gate.has_stood_since(stamp)
    os.utime(config.path)
    assert config.gate.allows()
    assert not config.gate.has_stood_since(stamp)


def test_consent_has_stood_since_there_was_no_config_only_if_this_package_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    gate = ConsentGate({"HOME": str(tmp_path)})
    assert gate.current_id()
    gate.allows()
    assert gate.has_stood_since(NO_CONFIG + time.time_ns())
    os.utime(tmp_path / ".brakit" / "config.json")
    gate.allows()
    assert not gate.has_stood_since(NO_CONFIG + time.time_ns())


def test_a_config_of_another_program_does_not_continue_the_time_without_a_config(config: Config) -> None:
    assert config.gate.allows()
    assert not config.gate.has_stood_since(NO_CONFIG + time.time_ns())
