"""Cuts byte streams into lines. This file does not know what a line means: ``frames`` parses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .wire import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Iterator


class LineTooLong(ValueError):
    """A line is longer than MAX_LINE. The reader does not look for the start of the next line."""


class FrameReader:
    """Cuts a byte stream into lines. How the stream is split into chunks does not matter."""

    def __init__(self) -> None:
        # The pieces of the unfinished line. They are joined only once per line. Otherwise a producer that sends single
        # bytes would make the daemon copy the line for each byte.
        self._pieces: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that ``chunk`` completes, without their newlines.

        Raises LineTooLong at an overlong line, after it has yielded the lines before that line.
        """
        for line in self.cut(chunk):
            if len(line) >= MAX_LINE:
                raise LineTooLong
            yield line
        if self.is_overlong:
            raise LineTooLong

    def cut(self, chunk: bytes) -> list[bytes]:
        """Return the lines that ``chunk`` completes, of any length, without their newlines."""
        if b"\n" not in chunk:
            self._held += len(chunk)
            if not self.is_overlong:  # the caller refuses an overlong line, so its bytes need not be kept
                self._pieces.append(chunk)
            return []
        if self._held:
            chunk = b"".join([*self._pieces, chunk])
        lines = chunk.split(b"\n")
        tail = lines.pop()
        self._pieces, self._held = [tail], len(tail)
        return lines

    @property
    def is_overlong(self) -> bool:
        """Return True if the unfinished line is already too long."""
        return self._held >= MAX_LINE
