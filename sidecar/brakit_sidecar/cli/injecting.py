"""How brakit applications below a command join: the command's environment makes each process load the preload files."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from ..core.injection import Surroundings, inject
from ..host.debug import debug
from . import preload_copy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .preload_copy import PreloadCopy

_MAX_PACKAGE_JSON = 1024 * 1024  # characters; a package.json has a few thousand
_NODE_VERSION_TIMEOUT_S = 2.0  # a Node prints its version in 40 ms
_OFF = ("0", "false", "no", "off")  # the values of BRAKIT_SIDECAR_INJECT that switch it off


class Injecting:
    """The changes to one command's environment, and the files that they name. Without a copy there are no changes."""

    def __init__(self, variables: dict[str, str], left_out: str | None, copy: PreloadCopy | None = None) -> None:
        """``left_out`` is a clause: why some brakit applications do not join. It is None if all of them do."""
        self.variables = variables
        self.left_out = left_out
        self._copy = copy

    def watch(self) -> None:
        """Have SIGIO sent to this process when a preload file is removed. The caller must have blocked SIGIO."""
        if self._copy is not None:
            self._copy.watch()

    def restore(self) -> None:
        """Write the preload files again after some were removed."""
        if self._copy is not None:
            self._copy.restore()


def prepare(environ: Mapping[str, str], command: Sequence[str], *, is_wanted: bool) -> Injecting:
    """Write the preload files, and decide by which variables the command's processes load them. Never raises."""
    if not is_wanted:
        return Injecting({}, "--no-inject keeps brakit applications from joining by themselves")
    if environ.get("BRAKIT_SIDECAR_INJECT", "").lower() in _OFF:
        return Injecting({}, "BRAKIT_SIDECAR_INJECT keeps brakit applications from joining by themselves")
    try:
        copy = preload_copy.of_this_package()
        copy.ensure()
        surroundings = Surroundings(_has_plug_n_play(), _package_json(), lambda: _node_version(environ, command))
        injection = inject(environ, copy.paths, command, surroundings)
    except Exception as error:  # noqa: BLE001 (an error of the sidecar must not keep the command from running)
        debug("brakit applications do not join by themselves", error)
        return Injecting({}, "the files by which brakit applications join cannot be written")
    reason = injection.node_left_out
    left_out = None if reason is None else f"Node processes could not, because {reason}"
    return Injecting(injection.variables, left_out, copy)


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
    """Return the text of the working directory's package.json, or "" if it cannot be read."""
    try:
        with open("package.json", encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_PACKAGE_JSON)
    except OSError:
        return ""


def _node_version(environ: Mapping[str, str], command: Sequence[str]) -> tuple[int, ...] | None:
    """Return the version of the command if it is a Node, else of the ``node`` on PATH, as (22, 11, 0).

    Returns None if no Node prints a version.
    """
    name = command[0] if os.path.basename(command[0]) == "node" else "node"
    node = shutil.which(name, path=environ.get("PATH"))
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
