"""Watching the exit of a process that is not a child of the watcher."""

from __future__ import annotations

import os
import select
import signal
import subprocess

import pytest
from brakit_sidecar.host import process

from tests.harness import PATIENCE_S, end_process


def is_readable(fd: int, timeout_s: float) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


def test_the_exit_of_a_process_makes_the_descriptor_readable() -> None:
    child = subprocess.Popen(["sleep", "600"])
    end = process.end_of(child.pid)
    assert end is not None
    assert not is_readable(end, 0)
    child.send_signal(signal.SIGKILL)
    assert is_readable(end, PATIENCE_S)  # before the process is reaped
    child.wait(PATIENCE_S)
    os.close(end)


def test_a_process_that_has_exited_cannot_be_watched() -> None:
    child = subprocess.Popen(["sleep", "600"])
    end_process(child, signal.SIGKILL)
    assert process.end_of(child.pid) is None


@pytest.mark.parametrize("pid", [0, -1, -(2**40), 2**31, 2**40, 2**70])
def test_a_number_that_is_not_a_process_cannot_be_watched(pid: int) -> None:
    assert process.end_of(pid) is None


def test_a_process_cannot_be_watched_if_python_lacks_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.delattr(select, "kqueue", raising=False)
    assert process.end_of(os.getpid()) is None


def test_a_child_program_does_not_inherit_the_descriptor() -> None:
    end = process.end_of(os.getpid())
    assert end is not None
    assert not os.get_inheritable(end)
    os.close(end)
