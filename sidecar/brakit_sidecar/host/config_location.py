"""Finds the real place of brakit's config, by one rule for reading and for writing it.

Links are resolved, because people keep their settings in a repository and link to it. A config is believed only if this
user alone can write it. HOME, each directory that holds the config or a link to it, and the directories between them
and HOME must belong to this user, and no other user may write there.
"""

from __future__ import annotations

import os
import stat

from . import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_LINKS = 40  # Linux's limit for one path
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UntrustedConfigError(OSError):
    """The config is not to be believed, and nothing is to be made at its place. The message says why, as a clause."""


def find(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return the path of the config without links, and when the last of these links was made (ctime in ns, or 0).

    The config, and the directory ``~/.brakit``, may be missing. Raises UntrustedConfigError.
    """
    _check(paths.home(environ), f"HOME ({paths.home(environ)})")
    home = directory = os.path.realpath(paths.home(environ))
    names = list(paths.CONFIG_NAMES)
    linked_at = links = 0
    while names:
        found = os.path.normpath(os.path.join(directory, names.pop(0)))  # there is no link left before a ".."
        made_at = _link_made_at(found)
        if not made_at:
            directory = found
            continue
        _check_holder(directory)
        linked_at, links = max(linked_at, made_at), links + 1
        if links > _MAX_LINKS:
            raise UntrustedConfigError("is a link to itself")
        target = os.readlink(found)
        if os.path.isabs(target):
            directory = "/"
        names = [*target.split("/"), *names]
    if linked_at or os.path.lexists(os.path.dirname(found)):  # else ~/.brakit is to be made
        _check_up_to_home(os.path.dirname(found), home)
        _check_only_name(found)
    return found, linked_at


def is_writable(path: str) -> bool:
    """Return whether the config can be written or, if it is missing, be made. ``path`` has no links.

    The file itself must be writable, because a file that is a mount point cannot be replaced.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.access(path, os.W_OK)


def problem_of(info: os.stat_result) -> str | None:
    """Return why a file or directory is not to be believed, as a clause. Returns None if it is."""
    if info.st_uid != os.getuid():
        return "belongs to another user"
    if info.st_mode & _WRITABLE_BY_OTHERS:
        return "can be written by other users; `chmod go-w` it"
    return None


def _link_made_at(path: str) -> int:
    try:
        info = os.lstat(path)
    except OSError:
        return 0
    return info.st_ctime_ns if stat.S_ISLNK(info.st_mode) else 0


def _check_holder(directory: str) -> None:
    """Check a directory that holds a link. It may be root's, such as /."""
    info = os.stat(directory)
    if info.st_uid != 0 or info.st_mode & _WRITABLE_BY_OTHERS:
        _check(directory, directory)


def _check_up_to_home(directory: str, home: str) -> None:
    """Check a directory and, if it is below HOME, also those between them: their writers could replace it."""
    _check(directory, directory)
    while directory.startswith(f"{home.rstrip('/')}/"):
        directory = os.path.dirname(directory)
        _check(directory, directory)


def _check_only_name(path: str) -> None:
    """Raise UntrustedConfigError if the file has a hard link, because a write would replace only one of its names."""
    try:
        info = os.lstat(path)
    except OSError:  # it is missing
        return
    if stat.S_ISREG(info.st_mode) and info.st_nlink > 1:
        raise UntrustedConfigError(
            "is not believed, because it has a second name; replace the hard link by a symbolic link"
        )


def _check(directory: str, name: str) -> None:
    try:
        info = os.stat(directory)
    except OSError as error:
        raise UntrustedConfigError(f"cannot be found, because {name} cannot be used ({error.strerror})") from error
    if not stat.S_ISDIR(info.st_mode):
        raise UntrustedConfigError(f"cannot be found, because {name} is not a directory")
    problem = problem_of(info)
    if problem is not None:
        raise UntrustedConfigError(f"is not believed, because {name} {problem}")
