"""The sink that sends nothing: local mode, and settings under which nothing could arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...core.outbox import Verdict


class LocalSink:
    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    async def send(self, body: bytes) -> Verdict:
        return self._verdict
