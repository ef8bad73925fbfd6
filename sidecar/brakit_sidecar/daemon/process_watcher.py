"""The exits of processes that are not our children, watched by a descriptor if possible, else by polling."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..host import process
from .log import log_unexpected

if TYPE_CHECKING:
    from collections.abc import Callable

    Name = tuple[str, str]  # a session, and one of its processes
    Call = Callable[[], object]

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class ProcessWatcher:
    """Calls a function once for each watched process, when that process has exited."""

    polled: dict[Name, tuple[Callable[[], bool], Call]] = field(
        default_factory=dict
    )  # the processes without a descriptor
    _exit_fds: dict[Name, int] = field(default_factory=dict)

    def watch(
        self, name: Name, pid: int, is_alive: Callable[[], bool], then: Call, *, by_descriptor: bool = True
    ) -> None:
        """Call ``then`` when the process exits. A second watch of the same name replaces the first."""
        self.unwatch(name)
        exit_fd = process.open_exit_fd(pid) if by_descriptor else None
        if exit_fd is None:
            self.polled[name] = is_alive, then
            return
        self._exit_fds[name] = exit_fd
        asyncio.get_running_loop().add_reader(exit_fd, self._exited, name, then)

    def unwatch(self, name: Name) -> None:
        """Stop watching. An exit that was reported in the same moment is not passed on."""
        self.polled.pop(name, None)
        exit_fd = self._exit_fds.pop(name, None)
        if exit_fd is not None:
            asyncio.get_running_loop().remove_reader(exit_fd)
            os.close(exit_fd)

    def unwatch_all(self, session_id: str) -> None:
        """Stop watching the processes of a session."""
        for name in [name for name in (*self._exit_fds, *self.polled) if name[0] == session_id]:
            self.unwatch(name)

    def poll(self) -> None:
        """Check the processes that are watched without a descriptor."""
        for name, (is_alive, then) in list(self.polled.items()):
            if name in self.polled and not is_alive():
                self._exited(name, then)

    def _exited(self, name: Name, then: Call) -> None:
        self.unwatch(name)
        try:
            then()
        except Exception as error:  # noqa: BLE001 (one session's fault must not end the daemon)
            log_unexpected(_log, "handling a process exit", error)
