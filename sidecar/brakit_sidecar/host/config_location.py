"""Finds the real place of brakit's config, by one rule for reading and for writing it.

Links are resolved, because people keep their settings in a repository and link to it. A config is believed only if this
user alone can write it: HOME and each directory on the way must belong to this user, and no other user may write there.
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


def find(environ: Mapping[str, str]) -> str:
    """Return the path of the config without links. The config, and the directory ``~/.brakit``, may be missing.

    Raises UntrustedConfigError.
    """
    home, path = paths.home(environ), paths.config_path(environ)
    _check(home, f"HOME ({home})")
    own_directory = os.path.dirname(path)
    if not os.path.lexists(own_directory):
        return path
    for _ in range(_MAX_LINKS):
        directory = os.path.realpath(os.path.dirname(path))
        _check(directory, directory)
        path = os.path.join(directory, os.path.basename(path))
        try:
            target = os.readlink(path)
        except OSError:  # it is not a link, or it is missing
            _check_only_name(path)
            return path
        path = os.path.join(directory, target)
    raise UntrustedConfigError("is a link to itself")


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
