"""Text of foreign origin, for a terminal. This file decides which characters a terminal may get."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return the text with an escape such as ``\x1b`` for each character that is not printable.

    These are line breaks, the control characters by which a terminal is commanded, the format characters by which a
    text is shown in another order than it has, and lone surrogates, which no encoding has.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
