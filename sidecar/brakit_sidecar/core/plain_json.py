"""JSON by the C code of the standard library's ``json`` alone.

``import json`` brings ``re``, ``enum`` and their like: with ``socket``'s, two thirds of what an interpreter has to take
apart at its end, and this runs in somebody else's process. That C code is no public part of the library. Where it is
missing, or another than we know, ``json`` itself does the same.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    _pieces: Callable[[Any, int], Iterable[str]]
    _scan: Callable[[str, int], tuple[Any, int]]


class _Defaults:
    """What a scanner asks a decoder for."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_int, parse_float, parse_constant = int, float, float


try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    # No memory of what it is in, as frames hold no cycles; nothing for what JSON has not; no indent; no NaN.
    _pieces = make_encoder(None, None, encode_basestring_ascii, None, ":", ",", False, False, False)  # type: ignore[arg-type]
    _scan = make_scanner(_Defaults)  # type: ignore[arg-type]
except (ImportError, TypeError, AttributeError):
    from json import JSONDecoder, JSONEncoder

    _encoder = JSONEncoder(separators=(",", ":"), allow_nan=False)
    _pieces = lambda value, _indent: _encoder.iterencode(value)  # noqa: E731 (the same shape)
    _scan = JSONDecoder().scan_once  # type: ignore[attr-defined]


def dumps(value: dict[str, Any]) -> str:
    """Compact, in ASCII. Raises ValueError or TypeError for what JSON cannot say."""
    return "".join(_pieces(value, 0))


def loads(raw: bytes) -> Any:
    """As ``json.loads``, which is asked wherever there is more to it than one value in UTF-8."""
    try:
        text = raw.decode()
        value, end = _scan(text, 0)
    except (ValueError, StopIteration, RecursionError):
        pass
    else:
        if not text[end:].strip(" \t\n\r"):
            return value
    import json  # noqa: PLC0415 (see above)

    return json.loads(raw)
