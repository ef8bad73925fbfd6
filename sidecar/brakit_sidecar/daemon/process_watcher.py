"""The exits of processes that are not our children, watched by a descriptor if possible, else by polling."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ..host import process

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    Name = tuple[str, str | None]  # a session, and one of its workers or None for its owner
    Call = Callable[[], object]


@dataclass(eq=False)
class ProcessWatcher:
    """Calls a function once for each watched process, when that process has exited."""

    tasks: TaskGroup
    polled: dict[Name, tuple[Callable[[], bool], Call]] = field(
        default_factory=dict
    )  # the processes without a descriptor
    _scopes: dict[Name, anyio.CancelScope] = field(default_factory=dict)

    def watch(
        self, name: Name, pid: int, is_alive: Callable[[], bool], then: Call, *, by_descriptor: bool = True
    ) -> None:
        """Call ``then`` when the process exits. A second watch of the same name replaces the first."""
        self.unwatch(name)
        exit_fd = process.end_of(pid) if by_descriptor else None
        if exit_fd is None:
            self.polled[name] = is_alive, then
            return
        scope = self._scopes[name] = anyio.CancelScope()
        self.tasks.start_soon(_call_at_exit, exit_fd, scope, then)

    def unwatch(self, name: Name) -> None:
        """Stop watching."""
        self.polled.pop(name, None)
        if scope := self._scopes.pop(name, None):
            scope.cancel()

    def unwatch_all(self, session_id: str) -> None:
        """Stop watching the processes of a session."""
        for name in [name for name in (*self._scopes, *self.polled) if name[0] == session_id]:
            self.unwatch(name)

    def poll(self) -> None:
        """Check the processes that are watched without a descriptor."""
        for name, (is_alive, then) in list(self.polled.items()):
            if name in self.polled and not is_alive():
                del self.polled[name]
                then()


async def _call_at_exit(exit_fd: int, scope: anyio.CancelScope, then: Call) -> None:
    try:
        with scope:
            await anyio.wait_readable(exit_fd)
            then()
    finally:
        os.close(exit_fd)
