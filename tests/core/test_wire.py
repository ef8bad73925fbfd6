from __future__ import annotations

import json

import pytest
from brakit_sidecar.core.wire import MAX_LINE, PROTOCOL, encode
from hypothesis import given
from hypothesis import strategies as st

from tests.core import strategies


def test_the_protocol_number_and_the_length_limit_of_version_1_never_change() -> None:
    assert (PROTOCOL, MAX_LINE) == (1, 65_536)


def test_a_frame_is_encoded_as_one_compact_line() -> None:
    assert encode({"incr": {"request_count": 1}}) == b'{"incr":{"request_count":1}}\n'


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())))
def test_an_encoded_frame_is_one_line_with_the_same_content(frame: dict[str, object]) -> None:
    line = encode(frame)
    assert line.find(b"\n") == len(line) - 1
    assert json.loads(line) == frame


@given(st.dictionaries(st.text(), st.text()))
def test_an_encoded_frame_is_ascii(frame: dict[str, object]) -> None:
    assert encode(frame).isascii()


@given(strategies.json_values)
def test_encoding_succeeds_or_raises_value_error(value: object) -> None:
    try:
        line = encode({"ask": value})
    except ValueError:
        return
    assert line.count(b"\n") == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_express_raises_value_error(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode({"observe": {"9f3a61c2d4e5b607": [value]}})


def test_an_object_that_json_cannot_express_raises_type_error() -> None:
    with pytest.raises(TypeError):
        encode({"set": {"framework": object()}})
