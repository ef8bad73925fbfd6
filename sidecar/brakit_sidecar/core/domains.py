"""A domain is the set of values that a field may have.

A domain never returns a string that a producer sent. It returns an entry of a table, or a string that it makes from
numbers. So no text that a producer wrote can get past a domain.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from typing import Any

from .limits import BUCKETS, COUNT_MAX, MAX_DURATION_MS, admit_duration


class Domain(ABC):
    """A set of values. ``default`` is the value of an unreported field; ``text`` describes the set to a person."""

    default: Any
    text: str

    @abstractmethod
    def admit(self, raw: object) -> Any:
        """Return the domain's value for ``raw``. Returns None if the domain rejects ``raw``."""

    def coerce(self, raw: object) -> Any:
        """Return the domain's value for ``raw``. Returns ``default`` if the domain rejects ``raw``."""
        admitted = self.admit(raw)
        return self.default if admitted is None else admitted


class Bool(Domain):
    text = "true or false"
    default = False

    def admit(self, raw: object) -> bool | None:
        return raw if isinstance(raw, bool) else None


class Integer(Domain):
    """Whole numbers from ``least`` to ``most``. Rejects bool and float, 3.0 included."""

    def __init__(self, least: int, most: int, text: str) -> None:
        self.least, self.most = least, most
        self.default = 0
        self.text = f"{text}, {least} to {most}"

    def admit(self, raw: object) -> int | None:
        return raw if type(raw) is int and self.least <= raw <= self.most else None


class Milliseconds(Domain):
    """A duration in ms, 0 to one day. Fractions round half up.

    ``default`` is None for the fields in which 0 would mean a measured duration of 0 ms.
    """

    def __init__(self, default: int | None = 0) -> None:
        self.default = default
        self.text = f"whole ms, 0 to {MAX_DURATION_MS}" + (" or null" if default is None else "")

    def admit(self, raw: object) -> int | None:
        duration = admit_duration(raw)
        if duration is None:
            return None
        whole = math.floor(duration)
        return whole + (duration - whole >= 0.5)  # floor(duration + 0.5) would round 0.49999999999999994 to 1


class Word(Domain):
    """One word of a closed vocabulary. Any other text becomes ``other``.

    If the vocabulary has no ``other``, any other text becomes the default.
    """

    def __init__(self, words: tuple[str, ...], default: str | None = None) -> None:
        self.words = words
        self._words = {word: word for word in words}
        self.default = default or ("unknown" if "unknown" in self._words else "other")
        self._fallback = "other" if "other" in self._words else self.default
        self.text = "one of " + ", ".join(words)

    def admit(self, raw: object) -> str | None:
        return self._words.get(raw, self._fallback) if isinstance(raw, str) else None


class Words(Domain):
    """A sorted list of different words of a closed vocabulary."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.member = Word(words)
        self.default: list[str] = []
        self.text = "sorted list of " + ", ".join(words)

    def admit(self, raw: object) -> list[str] | None:
        if not isinstance(raw, list):
            return None
        members = [self.member.admit(word) for word in raw]
        return None if None in members else sorted({word for word in members if word is not None})


# Two digits hold every release of Node and Python, and of brakit for years. The six digits of a version are too few for
# a phone number. A fourth number is refused, because four numbers are an IP address.
_VERSION = re.compile(r"v?0*(\d{1,2})\.0*(\d{1,2})\.0*(\d{1,2})(?!\.?\d)", re.ASCII)


class Version(Domain):
    """Three numbers below 100. A suffix is cut off, because it may identify a private build."""

    def __init__(self, default: str | None, prefix: str = "") -> None:
        self.default, self.prefix = default, prefix
        self.text = f"{prefix}d.d.d or " + ("null" if default is None else default)

    def admit(self, raw: object) -> str | None:
        found = _VERSION.match(raw) if isinstance(raw, str) else None
        return self.prefix + ".".join(str(int(digits)) for digits in found.groups()) if found else None


# As in Linux 4.9.337. A longer number is a date, or the number of a private build.
_RELEASE_NUMBER = re.compile(r"\d{1,3}", re.ASCII)


class OsRelease(Domain):
    """A platform of a closed vocabulary and the first three numbers of its release, as in ``linux-6.18.44``."""

    def __init__(self, platforms: tuple[str, ...]) -> None:
        self.platform = Word(platforms)
        self.default = "other-0.0.0"
        self.text = "one of " + ", ".join(platforms) + ", then -d.d.d"

    def admit(self, raw: object) -> str | None:
        if not isinstance(raw, str):
            return None
        platform, _, release = raw.partition("-")
        head = release[: len(release) - len(release.lstrip("0123456789."))]
        numbers = [_release_number(digits) for digits in head.split(".") if digits]
        return f"{self.platform.admit(platform)}-" + ".".join([*numbers, "0", "0", "0"][:3])


def _release_number(digits: str) -> str:
    """Return the number without leading zeros, or 0 if it has too many digits."""
    return str(int(digits)) if _RELEASE_NUMBER.fullmatch(digits) else "0"


COUNT = Integer(0, COUNT_MAX, "count")
SECONDS = Integer(0, COUNT_MAX, "whole seconds")
PORT = Integer(1, 65_535, "port")  # its default is 0, on which no server can listen
BOOL = Bool()
MS = Milliseconds()
MS_OR_NULL = Milliseconds(default=None)
BUCKET = Word(("none", *BUCKETS), default="none")
