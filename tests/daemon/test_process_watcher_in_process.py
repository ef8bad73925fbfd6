"""Watching real processes, in the test's own process."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
from brakit_sidecar.daemon.process_watcher import ProcessWatcher

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

NAME = ("a session", "a worker")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def sleeping_child() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"])


class Calls:
    """The calls that a watcher made."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._first = anyio.Event()

    def named(self, name: str) -> Callable[[], None]:
        """Return a function that records its name."""

        def call() -> None:
            self.names.append(name)
            self._first.set()

        return call

    async def first(self) -> None:
        """Wait for the first call."""
        with anyio.fail_after(60):
            await self._first.wait()


async def test_an_exit_is_reported_once_and_its_descriptor_closed() -> None:
    watcher, calls, before = ProcessWatcher(), Calls(), open_descriptors()
    with sleeping_child() as child:
        watcher.watch(NAME, child.pid, lambda: True, calls.named("exited"))
        assert not watcher.polled
        child.kill()
        await calls.first()
    assert calls.names == ["exited"]
    assert open_descriptors() == before


async def test_a_process_that_is_not_watched_any_more_is_not_reported() -> None:
    watcher, calls, before = ProcessWatcher(), Calls(), open_descriptors()
    with sleeping_child() as child:
        for name in (NAME, ("a session", "another"), ("another", "a worker")):
            watcher.watch(name, child.pid, lambda: True, calls.named(name[0]))
        watcher.unwatch_all("a session")
        child.kill()
        await calls.first()
    assert calls.names == ["another"]
    assert open_descriptors() == before


async def test_an_exit_that_was_reported_in_the_moment_of_an_unwatch_is_not_passed_on() -> None:
    watcher, calls = ProcessWatcher(), Calls()

    def unwatch_all() -> None:
        watcher.unwatch_all("a session")
        calls.named("exited")()

    with sleeping_child() as child:
        for worker in ("one", "two"):
            watcher.watch(("a session", worker), child.pid, lambda: True, unwatch_all)
        child.kill()
        child.wait()  # the loop does not run meanwhile, so it finds both exits at once
        await calls.first()
        await anyio.lowlevel.checkpoint()
    assert calls.names == ["exited"]


async def test_a_second_watch_replaces_the_first() -> None:
    watcher, calls = ProcessWatcher(), Calls()
    with sleeping_child() as child:
        for call in ("first", "second"):
            watcher.watch(NAME, child.pid, lambda: True, calls.named(call))
        child.kill()
        await calls.first()
    assert calls.names == ["second"]


async def test_a_process_without_a_descriptor_is_polled() -> None:
    watcher, calls, alive = ProcessWatcher(), Calls(), [True]
    watcher.watch(NAME, os.getpid(), lambda: alive[0], calls.named("exited"), by_descriptor=False)
    watcher.poll()
    assert calls.names == []
    alive[0] = False
    watcher.poll()
    watcher.poll()
    assert calls.names == ["exited"]


async def test_a_fault_while_an_exit_is_handled_costs_only_itself() -> None:
    watcher, calls = ProcessWatcher(), Calls()

    def fail() -> None:
        raise ArithmeticError

    watcher.watch(NAME, 0, lambda: False, fail)
    watcher.watch(("another", "a worker"), 0, lambda: False, calls.named("exited"))
    watcher.poll()
    assert calls.names == ["exited"]
    assert not watcher.polled
