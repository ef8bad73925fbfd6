"""Files and directories that belong to this user alone: directories 0700, files 0600. Links are never followed.

The check and the use of a directory are made through one descriptor. Only the last directory of a path is checked, and
what is above may be links.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        fd = _open_directory(directory)
    except FileNotFoundError as error:
        raise UnsafePathError(f"{directory} is missing; make it") from error
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def names_in(directory: str) -> list[str]:
    """Return the names in a directory of this user. Raises UnsafePathError, OSError."""
    fd = _open_directory(directory)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def open_file(path: str, flags: int) -> int:
    """Return a descriptor of a file of this user. A new file gets mode 0600, and a wider mode is reduced to 0600.

    Never blocks. Raises FileNotFoundError if the file or its directory does not exist and is not to be created. Raises
    UnsafePathError if the path is not a file of this user with one name, or if its directory is not this user's.
    """
    with _directory_of(path) as (directory, name):
        try:
            safe_flags = flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, safe_flags, 0o600, dir_fd=directory)
        except OSError as error:
            if error.errno in _NOT_OPENABLE:
                raise UnsafePathError(f"cannot open {path} ({error.strerror}); remove it") from error
            raise
    info = os.fstat(fd)
    try:
        _check_file(path, info)
    except UnsafePathError:
        os.close(fd)
        raise
    if stat.S_IMODE(info.st_mode) & 0o077:
        os.fchmod(fd, 0o600)
    if flags & os.O_TRUNC:  # open() does not truncate, because the owner is checked first
        os.ftruncate(fd, 0)
    return fd


def replace(path: str, by: str) -> None:
    """Rename ``by`` to ``path``, in the same directory.

    Raises UnsafePathError if ``path`` exists and is not a file of this user.
    """
    with _directory_of(path) as (directory, name):
        info = _lstat(name, directory)
        if info is not None:
            _check_file(path, info)
        os.rename(os.path.basename(by), name, src_dir_fd=directory, dst_dir_fd=directory)


def unlink(path: str) -> None:
    """Remove a file of this user. Raises UnsafePathError if the path is not one, and FileNotFoundError."""
    with _directory_of(path) as (directory, name):
        info = _lstat(name, directory)
        if info is not None:
            _check_file(path, info)
        os.unlink(name, dir_fd=directory)


def is_own_file(path: str) -> bool:
    """Return whether the path is a regular file of this user."""
    info = _lstat(path)
    return info is not None and _is_own(info, stat.S_ISREG)


def is_own_socket(path: str) -> bool:
    """Return whether the path is a socket of this user. The socket may be one at which no process listens any more."""
    info = _lstat(path)
    return info is not None and _is_own(info, stat.S_ISSOCK)


# --- steps ----------------------------------------------------------------------------------------------------------


@contextmanager
def _directory_of(path: str) -> Iterator[tuple[int, str]]:
    """Give a descriptor of the path's directory, which is this user's, and the name of the file in it.

    All is done through the descriptor, so that a directory that is replaced by a link meanwhile leads nowhere else.
    """
    fd = _open_directory(os.path.dirname(path))
    try:
        yield fd, os.path.basename(path)
    finally:
        os.close(fd)


def _open_directory(directory: str) -> int:
    """Return a descriptor. Raises UnsafePathError unless it is this user's directory, FileNotFoundError if missing."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in _NOT_OPENABLE:
            raise
        raise UnsafePathError(f"{directory} is not a usable directory ({error.strerror}); remove it") from error
    if os.fstat(fd).st_uid != os.getuid():
        os.close(fd)
        raise UnsafePathError(f"{directory} belongs to another user; remove it, or set XDG_RUNTIME_DIR")
    return fd


def _check_file(path: str, info: os.stat_result) -> None:
    """Raise UnsafePathError unless it is a file of this user with one name.

    What is written to a file with a second name changes a file elsewhere.
    """
    if not _is_own(info, stat.S_ISREG):
        raise UnsafePathError(f"{path} is not a file of this user; remove it")
    if info.st_nlink > 1:
        raise UnsafePathError(f"{path} has a second name; remove it")


def _lstat(path: str, directory: int | None = None) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None


def _is_own(info: os.stat_result, is_type: Callable[[int], bool]) -> bool:
    return is_type(info.st_mode) and info.st_uid == os.getuid()
