"""Programs that are started with some of their standard descriptors closed, and what they write to them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .harness import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .harness import Place

Closed = tuple[int, ...]  # the standard descriptors that are closed

COMBINATIONS: list[Closed] = [closed for count in range(4) for closed in itertools.combinations(range(3), count)]
each_combination = pytest.mark.parametrize(
    "closed", COMBINATIONS, ids=lambda closed: f"closed {''.join(map(str, closed)) or 'none'}"
)

TEXT = "passwd: a text of the application"

# What a test's program needs to look at its standard descriptors, and to write to them whether they are open or not.
PYTHON_PRELUDE = f"""
import json, os, sys

def link(fd, pid="self"):
    try:
        return os.readlink(f"/proc/{{pid}}/fd/{{fd}}")
    except OSError:
        return None

def standard(pid="self"):
    return [link(fd, pid) for fd in range(3)]

def prints():
    for fd in range(3):
        try:
            os.write(fd, b"{TEXT}\\n" * 5)
        except OSError:
            pass

def report(**facts):
    with open(os.environ["REPORT"], "w") as file:
        json.dump(facts, file)
"""


def command(closed: Closed, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a program with these standard descriptors closed."""
    redirections = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *arguments]


def run(closed: Closed, arguments: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with these standard descriptors closed."""
    return subprocess.run(
        command(closed, arguments),
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def sidecar(*arguments: str) -> list[str]:
    """Return the command line of a command of brakit-sidecar."""
    return [sys.executable, "-m", "brakit_sidecar", *arguments]


def standard_of(pid: int) -> list[str | None]:
    """Return what the standard descriptors of a process are, None for one that is closed."""

    def link(fd: int) -> str | None:
        try:
            return os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            return None

    return [link(fd) for fd in range(3)]


def files_with_the_text(place: Place) -> list[str]:
    """Return the paths of the files in a place that hold a part of what the application has written."""
    found = []
    for directory, _, names in os.walk(place.root):
        for path in (os.path.join(directory, name) for name in names):
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    if b"passwd" in file.read():
                        found.append(path)
    return found
