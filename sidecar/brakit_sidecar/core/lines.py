"""A byte stream cut into lines. What a line says is ``frames``' business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .wire import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Iterator


class LineTooLong(ValueError):
    """A line exceeds MAX_LINE, so where the next one starts is not worth finding out."""


class FrameReader:
    """Cuts a byte stream into lines, however the stream was split."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the unfinished line; joined once, so that a dripping sender costs no copies
        self._held = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that ``chunk`` completes, without their newlines. Raises LineTooLong behind the good ones."""
        for line in self.cut(chunk):
            if len(line) >= MAX_LINE:
                raise LineTooLong
            yield line
        if self.is_overlong:
            raise LineTooLong

    def cut(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, whatever their length."""
        if b"\n" not in chunk:
            self._held += len(chunk)
            if not self.is_overlong:  # else nothing will come of it: why keep it
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
        """Whether the unfinished line is too long by now, whatever completes it."""
        return self._held >= MAX_LINE
