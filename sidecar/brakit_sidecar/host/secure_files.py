"""Files and directories that belong to this user alone: directories 0700, files 0600. Links are never followed."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The errors of open() if the path exists and is not a file that this user can open.
_NOT_OPENABLE = (errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)


class UnsafePathError(OSError):
    """A file at one of this program's paths belongs to another user, is shared, or has an unexpected type.

    The message names the path and the remedy.
    """


def ensure_directory(directory: str) -> None:
    """Make the directory with mode 0700 if it is missing.

    Raises UnsafePathError if the directory cannot be made, or does not belong to this user.
    """
    try:
        _make_directory(directory)
    except OSError as error:
        raise UnsafePathError(
            f"cannot create {directory} ({error.strerror}); make it, or its parent directory, writable"
        ) from error
    check_directory(directory)


def _make_directory(directory: str) -> None:
    """Make the directory and its missing parents. All get mode 0700, because other users must not enter them."""
    if not os.path.isdir(directory):
        _make_directory(os.path.dirname(directory))
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass


def check_directory(directory: str) -> None:
    """Raise UnsafePathError unless the path is a directory of this user. Reduces a wider mode to 0700."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UnsafePathError(f"{directory} is not a usable directory ({error.strerror}); remove it") from error
    try:
        info = os.fstat(fd)
        if info.st_uid != os.getuid():
            raise UnsafePathError(f"{directory} belongs to another user; remove it, or set XDG_RUNTIME_DIR")
        if stat.S_IMODE(info.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def open_file(path: str, flags: int) -> int:
    """Return a descriptor of a file of this user. A new file gets mode 0600, and a wider mode is reduced to 0600.

    Never blocks. Raises FileNotFoundError if the file does not exist and is not to be created. Raises UnsafePathError
    if the path is not a file of this user.
    """
    try:
        fd = os.open(path, flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NOT_OPENABLE:
            obstacle = os.path.dirname(path) if error.errno == errno.ENOTDIR else path
            raise UnsafePathError(f"cannot open {obstacle} ({error.strerror}); remove it") from error
        raise
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.getuid():
        os.close(fd)
        raise UnsafePathError(f"{path} is not a file of this user; remove it")
    if stat.S_IMODE(info.st_mode) & 0o077:
        os.fchmod(fd, 0o600)
    if flags & os.O_TRUNC:  # open() does not truncate, because the owner is checked first
        os.ftruncate(fd, 0)
    return fd


def replace(path: str, by: str) -> None:
    """Rename ``by`` to ``path``. Raises UnsafePathError if ``path`` exists and is not a file of this user."""
    if os.path.lexists(path) and not is_own_file(path):
        raise UnsafePathError(f"{path} is not a file of this user; remove it")
    os.rename(by, path)


def is_own_file(path: str) -> bool:
    """Return whether the path is a regular file of this user."""
    return _is_own(path, stat.S_ISREG)


def is_own_socket(path: str) -> bool:
    """Return whether the path is a socket of this user. The socket may be one at which no process listens any more."""
    return _is_own(path, stat.S_ISSOCK)


def _is_own(path: str, is_type: Callable[[int], bool]) -> bool:
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return is_type(info.st_mode) and info.st_uid == os.getuid()
