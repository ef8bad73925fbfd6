"""Destinations are compared by their digests."""

from __future__ import annotations

import pytest
from brakit_sidecar.core.counter_layout import destination_cell, destination_in
from brakit_sidecar.core.destination import DEFAULT_ENDPOINT, NOWHERE, Destination


def digest(endpoint: str = "", key: str = "phc_a") -> str:
    return Destination({"BRAKIT_TELEMETRY_ENDPOINT": endpoint, "BRAKIT_TELEMETRY_KEY": key}).digest


def test_equal_settings_have_one_digest() -> None:
    assert digest() == digest(DEFAULT_ENDPOINT) == digest(f"{DEFAULT_ENDPOINT}/")


def test_another_key_or_endpoint_has_another_digest() -> None:
    digests = [digest(), digest(key="phc_b"), digest("https://a.example"), digest("https://a.example", "phc_b")]
    assert len({*digests}) == 4


def test_a_destination_without_a_key_is_nowhere() -> None:
    assert Destination({}).digest == digest(key="") == digest("https://a.example", key="") == NOWHERE


def test_a_digest_does_not_hold_the_key() -> None:
    assert len(digest()) == 16
    assert "phc" not in digest()


def test_a_variable_that_is_not_utf_8_has_a_digest() -> None:
    assert digest(key="phc_\udcff") != digest(key="phc_")


@pytest.mark.parametrize("found", [NOWHERE, digest(), digest(key="phc_b")])
def test_a_counter_file_holds_the_digest(found: str) -> None:
    assert destination_in(destination_cell(found)) == found


def test_a_counter_file_may_hold_no_digest() -> None:
    assert destination_in(0) is None
