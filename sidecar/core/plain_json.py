"""JSON by the C code of the standard library's ``json`` alone.

``import json`` brings ``re``, ``enum`` and their like: together a fifth of what an interpreter takes apart at its end,
and this runs in somebody else's process. That C code is no public part of the library. Where it is missing, or another
than we know, ``json`` itself does the same.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Defaults:
    """What a scanner asks a decoder for."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_int, parse_float, parse_constant = int, float, float


def _dumps() -> Callable[[Any], str]:
    try:
        from _json import encode_basestring_ascii, make_encoder  # noqa: PLC0415 (see above)

        # No markers, as frames hold no cycles; no default, as they hold nothing that JSON has not; no indent.
        pieces: Any = make_encoder(None, None, encode_basestring_ascii, None, ":", ",", False, False, False)  # type: ignore[arg-type]
        "".join(pieces({"probe": [1]}, 0))
    except (ImportError, TypeError):
        import json  # noqa: PLC0415 (see above)

        return json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    return lambda value: "".join(pieces(value, 0))


def _scan() -> Callable[[str, int], tuple[Any, int]] | None:
    try:
        from _json import make_scanner  # noqa: PLC0415 (see above)

        scan: Any = make_scanner(_Defaults)  # type: ignore[arg-type]
    except (ImportError, TypeError, AttributeError):
        return None
    return scan  # type: ignore[no-any-return]


dumps = _dumps()  # compact; raises ValueError or TypeError for what JSON cannot say
_scanned = _scan()


def loads(raw: bytes) -> Any:
    """As ``json.loads``, which is asked wherever there is more to it than one value in UTF-8."""
    if _scanned is not None:
        try:
            text = raw.decode()
            value, end = _scanned(text, 0)
        except (ValueError, StopIteration, RecursionError):
            pass
        else:
            if not text[end:].strip(" \t\n\r"):
                return value
    import json  # noqa: PLC0415 (see above)

    return json.loads(raw)
