"""Decides how the processes below a command load the preload files: Node by NODE_OPTIONS, Python by PYTHONPATH.

The law of this file: an application that is not counted is acceptable, and an application that does not start is not.
So the user's own value is kept and extended, and it is left alone where an extension is known to break a program.

The known cases, each seen with real programs:

- Two ``--require`` options break ``next dev``, which joins their paths into one. VS Code's debugger and Yarn's
  Plug'n'Play add one. A ``--require`` beside an ``--import`` works.
- ``--import`` ends a Node before 18.18 with an error, so the version must be known.
- A ``--require`` whose file is missing or not readable ends every Node. An ``--import`` of a ``data:`` URL that catches
  its errors does not, but costs each Node process more.
- Node 20 with a permission flag must not read our file, and a policy manifest does not list it.
- A program that becomes another user, or enters another file system, may not be able to read our file.
- Node splits NODE_OPTIONS at spaces outside double quotes. In quotes, a backslash escapes the next character.
- An empty part of PYTHONPATH means the working directory, but an empty PYTHONPATH means nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NODE_ENTRY = "node/brakit.cjs"  # below the copy; an option that an outer `run` added is recognized by it

_FIRST_NODE_WITH_IMPORT = (18, 18)

# Options with which Node must not read a file that the application did not allow. The prefix of each is enough.
_CONFINING = ("--permission", "--experimental-permission", "--experimental-policy", "--policy-integrity")

# Programs that start a command as another user or in another file system.
_LEAVING = frozenset(
    {
        "bwrap", "chroot", "doas", "firejail", "flatpak", "gosu", "nsenter", "pkexec", "proot", "runuser", "setpriv",
        "snap", "su", "su-exec", "sudo", "systemd-run", "unshare",
    }
)  # fmt: skip

# Programs that start another Node than the first one on PATH.
_NODE_CHOOSERS = frozenset({"asdf", "fnm", "mise", "n", "nvm", "volta"})

# `createRequire` loads the file synchronously, which costs half as much as an `import()` of it.
_CAUTIOUS_IMPORT = 'import{createRequire as r}from"node:module";try{r("/")(%s)}catch{}'


class Preload(NamedTuple):
    """The paths of the preload files."""

    node: str  # a CommonJS file
    python: str  # a directory that holds a sitecustomize.py and nothing else


class Surroundings(NamedTuple):
    """What is known about the place where the command runs."""

    has_plug_n_play: bool = False  # a .pnp.cjs lies in the working directory or above
    package_json: str = ""  # the text of the working directory's package.json, whose scripts may start Node
    node_version: Callable[[], tuple[int, ...] | None] = lambda: None  # of the command's Node; asking costs a process


class Injection(NamedTuple):
    """The changed variables, and why Node processes do not join if NODE_OPTIONS is left alone."""

    variables: dict[str, str]
    node_left_out: str | None = None


class _LeaveAlone(Exception):
    """NODE_OPTIONS must not be extended. The message is the reason, as a clause."""


def inject(
    environ: Mapping[str, str], preload: Preload, command: Sequence[str], surroundings: Surroundings
) -> Injection:
    """Return the variables with which the processes below ``command`` load the preload files."""
    variables = _python_path(environ.get("PYTHONPATH", ""), preload.python)
    try:
        node_options = _node_options(environ.get("NODE_OPTIONS", ""), preload.node, command, surroundings)
    except _LeaveAlone as reason:
        return Injection(variables, str(reason))
    return Injection({**variables, "NODE_OPTIONS": node_options})


# --- Python ----------------------------------------------------------------------------------------------------------


def _python_path(existing: str, directory: str) -> dict[str, str]:
    if ":" in directory:  # it separates the parts of PYTHONPATH, and cannot be escaped
        return {}
    if not existing:
        return {"PYTHONPATH": directory}
    if existing.partition(":")[0] == directory:  # an outer `run` of this version put it there
        return {}
    return {"PYTHONPATH": f"{directory}:{existing}"}


# --- Node ------------------------------------------------------------------------------------------------------------


def _node_options(existing: str, path: str, command: Sequence[str], surroundings: Surroundings) -> str:
    options = _split_node_options(existing)
    if any(NODE_ENTRY in option for option in options):  # an outer `run` added it
        return existing
    words = [word for argument in command for word in argument.split()]  # the script of `sh -c` is one argument
    _check_nothing_confines([*options, *words], surroundings.package_json)
    if not _has_a_require([*options, *words], surroundings):
        added = f"--require {_quoted(path)}"
    else:
        _check_has_import(words, surroundings)
        added = f"--import {_cautious_import(path)}"
    return f"{existing} {added}" if existing.strip(" ") else added


def _check_nothing_confines(words: Sequence[str], package_json: str) -> None:
    """Raise _LeaveAlone if a Node process below the command might not be allowed to read the preload file."""
    for flag in _CONFINING:
        if flag in package_json or any(word.startswith(flag) for word in words):
            raise _LeaveAlone(f"Node runs with {flag}")
    for word in words:
        program = word.rpartition("/")[2]
        if program in _LEAVING:
            raise _LeaveAlone(f"{program} may start Node where the sidecar's files cannot be read")


def _has_a_require(words: Sequence[str], surroundings: Surroundings) -> bool:
    """Return whether a Node below the command has, or may get, a ``--require`` of its own."""
    in_scripts = "--require" in surroundings.package_json or " -r " in surroundings.package_json
    return surroundings.has_plug_n_play or in_scripts or any("--require" in word or word == "-r" for word in words)


def _check_has_import(words: Sequence[str], surroundings: Surroundings) -> None:
    """Raise _LeaveAlone if a Node below the command might not have the option ``--import``."""
    version = surroundings.node_version()
    if version is None or version < _FIRST_NODE_WITH_IMPORT:
        raise _LeaveAlone("there is a --require of its own, and this Node has no --import")
    for word in words:
        program = word.rpartition("/")[2]
        if program in _NODE_CHOOSERS or program.startswith("node@"):
            raise _LeaveAlone(f"there is a --require of its own, and {program} may start a Node that has no --import")


def _split_node_options(value: str) -> list[str]:
    """Split a NODE_OPTIONS value as Node does. Raises _LeaveAlone for a value with which no Node starts."""
    options: list[str] = []
    is_quoted, is_new, is_escaped = False, True, False
    for character in value:
        if is_quoted and character == "\\" and not is_escaped:
            is_escaped = True
        elif character == '"' and not is_escaped:
            is_quoted = not is_quoted
        elif character == " " and not is_quoted:
            is_new = True
        else:
            if is_new:
                options.append("")
            options[-1] += character
            is_new = is_escaped = False
    if is_quoted:
        raise _LeaveAlone("NODE_OPTIONS has a quote without its end")
    return options


def _quoted(path: str) -> str:
    """Quote a path if it needs quotes, because a Node before 12 takes quotes for a part of the path."""
    if not any(character in path for character in ' "\\'):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _cautious_import(path: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415 (5 ms, for the few environments with a --require of their own)

    return "data:text/javascript," + quote(_CAUTIOUS_IMPORT % json.dumps(path))
