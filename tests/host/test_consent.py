"""The decision whether anything may be counted and sent."""

from __future__ import annotations

from typing import Any

import pytest
from brakit_sidecar.host import consent
from brakit_sidecar.host.consent import Config
from hypothesis import given
from hypothesis import strategies as st

AN_ID = "6f0c1f2e-7f0a-4b53-9d0c-2a4b7a3e5d11"
MISSING = Config(None, missing=True)
UNREADABLE = Config(None, problem="is not valid JSON")
YES = Config({"telemetry": True, "anonymousId": AN_ID})
NO = Config({"telemetry": False, "anonymousId": AN_ID})

OPT_OUTS = ["false", "0", "off", "no", "FALSE", "Off", "nO", " false "]
OPT_INS = ["true", "1", "yes", "on", "TRUE", "Yes", "oN"]
NEITHER = ["", "2", "enabled", "y", "n", "t", "disable", "none", "null"]


def is_on(config: Config, **environ: str) -> bool:
    return consent.decide(environ, config).on


# --- the decision -------------------------------------------------------------------------------------


def test_telemetry_is_on_without_an_opt_out() -> None:
    assert is_on(MISSING)
    assert is_on(YES)


@pytest.mark.parametrize("value", OPT_OUTS)
@pytest.mark.parametrize("config", [MISSING, UNREADABLE, YES, NO])
def test_an_opt_out_by_environment_wins_over_any_config(value: str, config: Config) -> None:
    decision = consent.decide({"BRAKIT_TELEMETRY": value}, config)
    assert not decision.on
    assert decision.by_environment


@pytest.mark.parametrize("value", [*OPT_INS, *NEITHER])
@pytest.mark.parametrize("config", [MISSING, UNREADABLE, YES, NO])
def test_no_other_value_changes_what_the_config_says(value: str, config: Config) -> None:
    assert is_on(config, BRAKIT_TELEMETRY=value) == is_on(config)


@pytest.mark.parametrize("value", ["", *OPT_OUTS, *OPT_INS])
def test_a_known_value_is_understood(value: str) -> None:
    assert consent.is_understood({"BRAKIT_TELEMETRY": value})


@pytest.mark.parametrize("value", [value for value in NEITHER if value])
def test_an_unknown_value_is_not_understood(value: str) -> None:
    assert not consent.is_understood({"BRAKIT_TELEMETRY": value})


def test_a_variable_that_is_not_set_is_understood() -> None:
    assert consent.is_understood({})


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "yes", "no", "off", "2", "x", "00"])
@pytest.mark.parametrize("opt_in", [{}, {"BRAKIT_TELEMETRY": "true"}])
def test_the_variable_do_not_track_opts_out_before_every_other_source(value: str, opt_in: dict[str, str]) -> None:
    assert not is_on(YES, DO_NOT_TRACK=value, **opt_in)


@pytest.mark.parametrize("value", ["0", "false", ""])
def test_the_variable_do_not_track_does_not_opt_out_with_a_false_value(value: str) -> None:
    assert is_on(YES, DO_NOT_TRACK=value)
    assert not is_on(YES, DO_NOT_TRACK=value, BRAKIT_TELEMETRY="off")


@pytest.mark.parametrize("opt_in", [{}, {"BRAKIT_TELEMETRY": "true"}])
def test_an_unreadable_config_is_not_an_opt_out(opt_in: dict[str, str]) -> None:
    assert consent.decide(opt_in, UNREADABLE).unreadable
    assert not any(consent.decide(opt_in, config).unreadable for config in (MISSING, YES, NO))


@pytest.mark.parametrize("no", [{"DO_NOT_TRACK": "1"}, {"BRAKIT_TELEMETRY": "off"}, {"CI": "1"}])
def test_an_opt_out_by_environment_wins_over_an_unreadable_config(no: dict[str, str]) -> None:
    assert not consent.decide(no, UNREADABLE).unreadable


@pytest.mark.parametrize("opt_in", [{}, {"BRAKIT_TELEMETRY": "true"}])
def test_a_guard_wins_over_an_opt_in_and_makes_brakit_dormant(opt_in: dict[str, str]) -> None:
    decision = consent.decide({"CI": "1", **opt_in}, YES)
    assert (decision.on, decision.dormant) == (False, True)
    assert decision.sentence == "telemetry is off here: CI=1"


@pytest.mark.parametrize("opt_out", [{"DO_NOT_TRACK": "1"}, {"BRAKIT_TELEMETRY": "false"}])
def test_brakit_stays_dormant_even_if_the_environment_also_opts_out(opt_out: dict[str, str]) -> None:
    assert consent.decide({"CI": "1", **opt_out}, YES).dormant


@pytest.mark.parametrize("value", [False, None, "true", "yes", 1, [True], {}, ...])
def test_a_config_whose_telemetry_is_not_true_means_off(value: object) -> None:
    content: dict[str, Any] = {"anonymousId": AN_ID}
    if value is not ...:
        content["telemetry"] = value
    assert not is_on(Config(content))


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_values_override_a_config_that_opts_out(telemetry: str, do_not_track: str) -> None:
    assert not is_on(NO, BRAKIT_TELEMETRY=telemetry, DO_NOT_TRACK=do_not_track)


def test_every_decision_has_a_reason() -> None:
    environs: list[dict[str, str]] = [{}, {"CI": "1"}, {"DO_NOT_TRACK": "1"}]
    environs += [{"BRAKIT_TELEMETRY": value} for value in ("off", "on", "perhaps")]
    for environ in environs:
        for config in (MISSING, UNREADABLE, YES, NO, Config({})):
            assert consent.decide(environ, config).why
