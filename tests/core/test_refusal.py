from __future__ import annotations

import pytest
from brakit_sidecar.core.refusal import CLOSING, Refusal


def test_exactly_four_reasons_close_a_connection() -> None:
    assert {refusal.value for refusal in CLOSING} == {"oversize", "no_hello", "bad_hello", "foreign_user"}


@pytest.mark.parametrize("refusal", Refusal)
def test_the_label_of_a_reason_is_its_name_in_lower_case(refusal: Refusal) -> None:
    assert refusal.value == refusal.name.lower()


@pytest.mark.parametrize("label", ["unknown_field", "session_ended"])
def test_the_labels_that_producers_rely_on_exist(label: str) -> None:
    assert Refusal(label) is Refusal[label.upper()]
