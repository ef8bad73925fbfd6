"""How brakit applications below a command join: the command's environment makes each process load the preload files."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from ..core.injection import Injection, Surroundings, inject
from . import preload_copy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .preload_copy import PreloadCopy

_MAX_PACKAGE_JSON = 1024 * 1024  # characters; a package.json has a few thousand
_NODE_VERSION_TIMEOUT_S = 2.0  # a Node tells its version in 40 ms
_NO_CHANGE = Injection({})


class Joining:
    """The changes to one command's environment, and the files that they name. Without a copy there are none."""

    def __init__(self, copy: PreloadCopy | None = None, injection: Injection = _NO_CHANGE) -> None:
        self._copy = copy
        self.injection = injection

    @classmethod
    def prepare(cls, environ: Mapping[str, str], command: Sequence[str]) -> Joining:
        """Write the preload files and decide by which variables the command's processes load them. Raises OSError."""
        copy = preload_copy.of_this_package()
        copy.ensure()
        surroundings = Surroundings(_has_plug_n_play(), _package_json(), lambda: _node_version(environ))
        return cls(copy, inject(environ, copy.paths, command, surroundings))

    @property
    def is_prepared(self) -> bool:
        """Return whether brakit applications join."""
        return self._copy is not None

    def watch(self) -> None:
        """Have SIGIO sent to this process when a preload file is removed. The caller must have blocked SIGIO."""
        if self._copy is not None:
            self._copy.watch()

    def restore(self) -> None:
        """Write the preload files again after some were removed."""
        if self._copy is not None:
            self._copy.restore()


def _has_plug_n_play() -> bool:
    """Return whether the working directory, or a directory above it, is one of Yarn's Plug'n'Play."""
    with suppress(OSError):
        directory = os.getcwd()
        while True:
            if os.path.lexists(os.path.join(directory, ".pnp.cjs")):
                return True
            directory, below = os.path.dirname(directory), directory
            if directory == below:
                break
    return False


def _package_json() -> str:
    """Return the text of the working directory's package.json, "" if there is none."""
    try:
        with open("package.json", encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_PACKAGE_JSON)
    except OSError:
        return ""


def _node_version(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return the version of the ``node`` on PATH, as (22, 11, 0). Returns None if there is none."""
    node = shutil.which("node", path=environ.get("PATH"))
    if node is None:
        return None
    try:
        printed = subprocess.run(
            [node, "--version"],
            env={name: value for name, value in environ.items() if name != "NODE_OPTIONS"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_NODE_VERSION_TIMEOUT_S,
            check=True,
        ).stdout
        return tuple(int(part) for part in printed.strip().lstrip("v").split("."))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
