"""One connection that joined a session. It batches increments before they are added to its producer's totals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .line_batch import LineBatch

if TYPE_CHECKING:
    from .totals import ProducerTotals
    from .worker import Worker


class Member:
    """One connection that joined a session."""

    __slots__ = ("batch", "producer", "session_id", "totals", "worker")

    def __init__(self, session_id: str, producer: str, totals: ProducerTotals, worker: Worker | None) -> None:
        """``worker`` is None if the connection is the owner's."""
        self.session_id = session_id
        self.producer = producer
        self.totals = totals
        self.worker = worker
        self.batch = LineBatch()

    def count(self, lines: list[bytes]) -> bool:
        """Count the increment lines without parsing every line.

        If any line holds something other than increments, count no line and return False.
        """
        if self.batch.is_full:
            self.flush()
        return self.batch.add(lines)

    def flush(self) -> None:
        """Add the counted increments to the producer's totals."""
        self.batch.flush(self.totals)
