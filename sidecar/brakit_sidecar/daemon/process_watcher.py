"""The ends of processes that are no children of ours, awaited by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup


class ProcessWatcher:
    def __init__(self) -> None:
        self._scopes: dict[str, anyio.CancelScope] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._scopes

    def start(self, tasks: TaskGroup, name: str, end_of_process: int, then: Callable[[], None]) -> None:
        """Calls ``then`` when the process ends, by the descriptor that ``host.process`` gave for it: ours to close.
        One of the same name is over: an owner came back.
        """
        self.stop(name)
        scope = self._scopes[name] = anyio.CancelScope()
        tasks.start_soon(_await_end, end_of_process, scope, then)

    def stop(self, name: str) -> None:
        if scope := self._scopes.pop(name, None):
            scope.cancel()


async def _await_end(end_of_process: int, scope: anyio.CancelScope, then: Callable[[], None]) -> None:
    try:
        with scope:
            await anyio.wait_readable(end_of_process)
            then()
    finally:
        os.close(end_of_process)
