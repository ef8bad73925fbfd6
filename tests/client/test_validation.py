"""The checks of a caller's values. A good value is returned. A bad value becomes a frame that the daemon refuses."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.client import validation
from brakit_sidecar.client.validation import Mistake
from brakit_sidecar.core.frames import parse
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.core.wire import encode
from hypothesis import given
from hypothesis import strategies as st

from tests.core.page import COUNT_MAX, DAY_MS

if TYPE_CHECKING:
    from collections.abc import Callable

SURROGATE = "\ud800"
REFUSABLE = {"set": {"framework": None}}


def refusals_of(check: Callable[[], object]) -> list[Refusal]:
    """Return the refusals under which the daemon counts the mistake that ``check`` raises."""
    with pytest.raises(Mistake) as caught:
        check()
    return parse(encode(caught.value.frame)).refused


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["request_count", "a", "a1_", "x" * 64])
def test_a_valid_name_is_returned(name: str) -> None:
    assert validation.name_of(name, "incr") == name


BAD_NAMES = ["", "A", "1a", "_a", "a b", "a-b", "x" * 65, "framework\n", "\u0430", SURROGATE, None, 7, b"a", ["a"]]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
@pytest.mark.parametrize("key", ["incr", "set", "add", "mark"])
def test_any_other_name_is_counted_as_an_unknown_field(name: object, key: str) -> None:
    assert refusals_of(lambda: validation.name_of(name, key)) == [Refusal.UNKNOWN_FIELD]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_any_other_name_of_an_event_is_counted_as_an_unknown_event(name: object) -> None:
    assert refusals_of(lambda: validation.name_of(name, "event")) == [Refusal.UNKNOWN_EVENT]


# --- numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, COUNT_MAX])
def test_a_whole_number_of_at_least_1_is_a_count(n: int) -> None:
    assert validation.increment(n, "request_count") == n


@pytest.mark.parametrize(
    "n", [0, -1, COUNT_MAX + 1, 10**5000, True, 1.0, math.nan, "1", None, [1]], ids=lambda n: type(n).__name__
)
def test_any_other_increment_is_counted_as_a_bad_value(n: object) -> None:
    assert refusals_of(lambda: validation.increment(n, "request_count")) == [Refusal.BAD_VALUE]


@pytest.mark.parametrize("duration", [0, 0.0, 12.5, DAY_MS, float(DAY_MS)])
def test_a_duration_may_be_up_to_a_day(duration: float) -> None:
    assert validation.duration_of(duration) == duration


@pytest.mark.parametrize("duration", [-1, -0.001, DAY_MS + 1, math.nan, math.inf, -math.inf, 10**400, True, "1", None])
def test_any_other_duration_is_counted_as_a_bad_value(duration: object) -> None:
    assert refusals_of(lambda: validation.duration_of(duration)) == [Refusal.BAD_VALUE]


# --- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["flask", "", True, False, 0, -5, COUNT_MAX, -COUNT_MAX, 1.5])
def test_a_scalar_may_be_a_text_a_number_or_a_bool(value: object) -> None:
    found = validation.scalar(value, REFUSABLE)
    assert found == value
    assert type(found) is type(value)


BAD_SCALARS = [None, [], ["flask"], {}, b"flask", object(), COUNT_MAX + 1, -(10**5000), math.nan, math.inf, SURROGATE]


@pytest.mark.parametrize("value", BAD_SCALARS, ids=lambda value: type(value).__name__)
def test_any_other_scalar_is_counted_as_a_bad_value(value: object) -> None:
    assert refusals_of(lambda: validation.scalar(value, REFUSABLE)) == [Refusal.BAD_VALUE]


def test_a_long_word_is_cut_to_64_characters() -> None:
    assert validation.word_of("x" * 100_000, {}) == "x" * 64


@pytest.mark.parametrize("word", ["a" + SURROGATE, "x" * 100 + "\udfff", None, 7, True, b"n1", ["n1"]])
def test_a_value_that_is_not_a_valid_text_is_not_a_word(word: object) -> None:
    assert refusals_of(lambda: validation.word_of(word, {"add": {"insight_types": [None]}})) == [Refusal.BAD_VALUE]


@pytest.mark.parametrize("text", ["GET /users", "", SURROGATE, "x" * 100_000])
def test_any_text_may_be_a_route_or_a_mark(text: str) -> None:
    assert validation.text_of(text, {}) == text


@pytest.mark.parametrize("text", [None, 7, b"GET /", ["GET /"]])
def test_a_route_that_is_not_a_text_is_counted_as_a_bad_id(text: object) -> None:
    assert refusals_of(lambda: validation.text_of(text, {"observe": {"?": []}})) == [Refusal.BAD_ID]


# --- values of events -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["flask", True, 8000, 1.5])
def test_the_value_of_an_event_may_be_a_scalar(value: object) -> None:
    assert validation.event_value(value) == value


@pytest.mark.parametrize("words", [["n1", "slow"], ("n1", "slow"), []])
def test_the_value_of_an_event_may_be_a_list_of_words(words: object) -> None:
    assert validation.event_value(words) == list(words)  # type: ignore[call-overload] # a list or a tuple


def test_a_long_list_is_cut_to_64_words() -> None:
    assert validation.event_value(["n1"] * 1000) == ["n1"] * 64


def test_an_invalid_word_in_a_list_becomes_null() -> None:
    assert validation.event_value(["n1", 7, SURROGATE, None, "x" * 100]) == ["n1", None, None, None, "x" * 64]


@pytest.mark.parametrize("value", BAD_SCALARS[3:], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("field", ["port", "time_to_first_request_ms"])
def test_any_other_value_of_an_event_is_counted_as_a_bad_value(value: object, field: str) -> None:
    line = encode({"event": {"name": "first_request", field: validation.event_value(value)}})
    assert parse(line).refused == [Refusal.BAD_VALUE]


# --- arbitrary values -------------------------------------------------------------------------------------------

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just(SURROGATE), st.binary(),
    st.integers().map(lambda n: n * 10**400), st.lists(st.text() | st.integers()), st.builds(object),
)  # fmt: skip
CHECKS: dict[str, Callable[[Any], object]] = {
    "name_of": lambda it: validation.name_of(it, "set"),
    "increment": lambda it: validation.increment(it, "request_count"),
    "duration_of": validation.duration_of,
    "scalar": lambda it: validation.scalar(it, REFUSABLE),
    "word_of": lambda it: validation.word_of(it, REFUSABLE),
    "event_value": validation.event_value,
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@given(it=anything)
def test_every_check_returns_or_raises_what_a_line_can_hold(check: Callable[[Any], object], it: object) -> None:
    try:
        frame = {"it": check(it)}
    except Mistake as mistake:
        frame = mistake.frame
    refused = parse(encode(frame)).refused
    assert refused == [Refusal.UNKNOWN_KEY] if "it" in frame else refused
    assert Refusal.BAD_JSON not in refused


@given(it=st.text(min_size=1))
def test_no_mistake_repeats_the_value_that_was_passed(it: str) -> None:
    telltale = f"/home/{it}"
    for check in (CHECKS["name_of"], CHECKS["increment"], CHECKS["duration_of"]):
        with pytest.raises(Mistake) as caught:
            check(telltale)
        assert "/home" not in json.dumps(caught.value.frame) + str(caught.value)
