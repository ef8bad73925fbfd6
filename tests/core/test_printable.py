"""What a terminal gets of a text of foreign origin."""

from __future__ import annotations

import unicodedata

import pytest
from brakit_sidecar.core.printable import printable
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("GET /users", "GET /users"),
        ("секрет 秘密 \U0001f511", "секрет 秘密 \U0001f511"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028\u200b\U000e0041", "\\u2028\\u200b\\U000e0041"),
        ("/home/\udcff", "/home/\\udcff"),
    ],
)
def test_only_printable_characters_reach_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)))
def test_no_control_no_format_and_no_surrogate_is_left(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert shown.encode().decode() == shown
    assert printable(shown) == shown
