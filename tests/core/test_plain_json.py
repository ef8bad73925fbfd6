"""JSON without its import says and reads what ``json`` does, with the C code and without it."""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import plain_json
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
frames = st.dictionaries(st.text(), values)


@pytest.fixture(scope="module", params=["with the C code", "without it", "where it is another"])
def spoken(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The module as it is loaded on implementations that have more or less."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without it":
            patch.setitem(sys.modules, "_json", None)
        elif request.param == "where it is another":
            patch.setattr("_json.make_encoder", lambda: None)
        yield importlib.reload(plain_json)
    importlib.reload(plain_json)


@given(frame=frames)
def test_what_is_said_is_what_json_says(spoken: ModuleType, frame: dict[str, Any]) -> None:
    assert spoken.dumps(frame) == json.dumps(frame, separators=(",", ":"))


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1, 2}, b"", object()], ids=lambda value: type(value).__name__
)
def test_what_json_cannot_say_is_refused(spoken: ModuleType, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        spoken.dumps({"it": value})


def outcome(read: Any, raw: bytes) -> str:
    """By its spelling, in which NaN is itself and 1 is not True."""
    try:
        return repr(read(raw))
    except ValueError:
        return "no JSON"
    except RecursionError:
        return "too deep"


@given(raw=frames.map(lambda frame: json.dumps(frame, indent=2).encode()) | st.binary() | st.text().map(str.encode))
def test_what_is_read_is_what_json_reads(spoken: ModuleType, raw: bytes) -> None:
    assert outcome(spoken.loads, raw) == outcome(json.loads, raw)


STRANGE = [
    b"", b" ", b"{", b"{}x", b"{} {}", b' {"a":1}', b'{"a":1}\n', b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"),
    b'"\xff"', b"NaN", b"[Infinity,-Infinity]", b'{"a":1,"a":2}', b'"\\ud800"', b'{"a":1,}', b"'a'", b"1e400", b"-0",
    b"01", b'"\t"', b'"\x00"', b"{}\xc2\xa0", b"{}\x0b", b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("raw", STRANGE, ids=lambda raw: repr(raw[:12]))
def test_what_is_strange_is_to_it_what_it_is_to_json(spoken: ModuleType, raw: bytes) -> None:
    assert outcome(spoken.loads, raw) == outcome(json.loads, raw)
