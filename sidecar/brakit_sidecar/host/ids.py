"""UUIDs as the module ``uuid`` makes them. Importing that takes 5 ms, and a worker needs one id, or two."""

from __future__ import annotations

import os


def new() -> str:
    """A random one (version 4)."""
    return spelled(_marked(os.urandom(16), 4))


def named(namespace: bytes, name: str) -> bytes:
    """The one of that name in that namespace (version 5)."""
    try:
        from _sha1 import sha1  # type: ignore[import-not-found] # noqa: PLC0415 (hashlib loads OpenSSL)
    except ImportError:
        from hashlib import sha1  # noqa: PLC0415 (where there is no such module)
    return _marked(sha1(namespace + name.encode(), usedforsecurity=False).digest()[:16], 5)


def read(text: str) -> bytes | None:
    """Its bytes, in any spelling that ``uuid.UUID`` takes; None where it is no UUID."""
    digits = text.replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "")
    try:
        return int(digits, 16).to_bytes(16, "big") if len(digits) == 32 else None
    except ValueError:
        return None


def spelled(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _marked(raw: bytes, version: int) -> bytes:
    """With the version, and the variant of RFC 9562, in their bits."""
    marked = bytearray(raw)
    marked[6] = marked[6] & 0x0F | version << 4
    marked[8] = marked[8] & 0x3F | 0x80
    return bytes(marked)
