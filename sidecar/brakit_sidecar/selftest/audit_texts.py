"""The secrets that the audit passes to the sidecar, and the search for them in its output.

Each secret contains the mark, and no other text does. So an output that has a piece of the mark has leaked a secret.
The search finds whole and truncated secrets, plain, encoded, and hashed without a key.
"""

from __future__ import annotations

import base64
import hashlib
import re
from zlib import crc32

MARK = "Zq7Xv9Kw3RtB"

# The secrets by their kind. Each kind of data that the telemetry page promises not to collect has at least one secret.
TEXTS: dict[str, str] = {
    "a URL with its query": f"https://{MARK}.example.org/users/7?token={MARK}&q=a%20b#{MARK}",
    "a request's path": f"GET /{MARK}/orders/42",
    "SQL": f"SELECT * FROM users WHERE email = '{MARK}@example.org' -- {MARK}",  # noqa: S608 (no database runs it)
    "a request's body": f'{{"password": "{MARK}", "card": "4111 1111 1111 1111"}}',
    "source code": f"def {MARK}(self):\n    return os.environ['{MARK}']\n",
    "a file's path": f"/home/ada/{MARK}/app.py",
    "an API key": f"sk_live_{MARK}4eC39HqLyjWDarjtT1zdp7dc",
    "a bearer token": f"Bearer eyJhbGciOiJIUzI1NiJ9.{MARK}.c2ln",
    "a private key": f"-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----",
    "a project's name": f"{MARK}-next-big-thing",
    "an e-mail address": f"{MARK}@example.org",
    "an address and a host": f"203.0.113.7 {MARK}.corp.example.org",
    "a version with a suffix": f"1.2.3-{MARK}",
    "a word and more": f"flask {MARK}",
    "a text in another script": f"секрет {MARK} 秘密 \U0001f511",
}

_PIECE = 6  # the length of a piece of the mark, short enough to find a secret that was cut off


def traces(found: bytes) -> list[str]:
    """Return the forms in which a secret is in ``found``. The list is empty if no secret is in it."""
    lower = found.lower()
    forms = [form for form, pieces in _FORMS.items() if any(piece.lower() in lower for piece in pieces)]
    return forms if _CHECKSUMS.isdisjoint(_NUMBERS.findall(lower)) else [*forms, "as a checksum"]


def _pieces(text: str) -> list[bytes]:
    return [text[start : start + _PIECE].encode() for start in range(len(text) - _PIECE + 1)]


def _base64() -> list[bytes]:
    """Return the mark in base64, without the characters at its ends, which depend on the text around it.

    Base64 encodes groups of three bytes, so there are three results: the mark may begin at each position of a group.
    """
    encoded = [base64.b64encode(b"x" * before + MARK.encode()) for before in range(3)]
    return [text[4:-4] for text in encoded]


_DIGEST_SIZES = (8, 16, 32)  # of BLAKE2, whose result depends on the size
_CHECKED_BYTES = 8  # of a hash; the size of an opaque id, which is the smallest hash that the sidecar makes


def _hashes() -> list[bytes]:
    """Return the beginning of each secret's hashes without a key: in hex, in base64 and as bytes in either order.

    Such a hash is a leak, because it confirms a guessed secret to everyone who has it.
    """
    digests = []
    for text in map(str.encode, TEXTS.values()):
        digests += [
            hashlib.new(name, text).digest() for name in sorted(hashlib.algorithms_guaranteed) if "shake" not in name
        ]
        digests += [hashlib.blake2b(text, digest_size=size).digest() for size in _DIGEST_SIZES]
        digests += [hashlib.blake2s(text, digest_size=size).digest() for size in _DIGEST_SIZES]
    starts = {digest[:_CHECKED_BYTES] for digest in digests}
    written = [(start.hex().encode(), base64.b64encode(start)[:10], start, start[::-1]) for start in starts]
    return [form for forms in written for form in forms]


# A checksum has too few bits to be searched for in the midst of other text. So it must be a number by itself, in hex or
# in decimal.
_NUMBERS = re.compile(rb"(?<![0-9a-f])[0-9a-f]{8,10}(?![0-9a-f])")
_CHECKSUMS = {written % crc32(text.encode()) for text in TEXTS.values() for written in (b"%08x", b"%d")}

_FORMS: dict[str, list[bytes]] = {
    "as it is": _pieces(MARK),
    "reversed": _pieces(MARK[::-1]),
    "hex": [piece.hex().encode() for piece in _pieces(MARK)],
    "base64": _base64(),
    "url-encoded": ["".join(f"%{ord(letter):02x}" for letter in MARK[:_PIECE]).encode()],
    "JSON-escaped": ["".join(f"\\u{ord(letter):04x}" for letter in MARK[:_PIECE]).encode()],
    "UTF-16": [MARK[:_PIECE].encode("utf-16-le"), MARK[:_PIECE].encode("utf-16-be")],
    "hashed without a key": _hashes(),
}
