"""That our files are ours alone: directories 0700, files 0600, nothing followed, nothing shared."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_IN_THE_WAY = (errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)  # nothing that could be opened


class UnsafePathError(OSError):
    """Something at one of our paths is not ours, not private or not what it must be. Says what, and what to do."""


def ensure_directory(directory: str) -> None:
    """Makes the directory, 0700, where it is missing. Raises UnsafePathError where it is not ours and private."""
    try:
        _make_directory(directory)
    except OSError as error:
        raise UnsafePathError(
            f"cannot create {directory} ({error.strerror}); make it, or its parent, writable"
        ) from error
    check_directory(directory)


def _make_directory(directory: str) -> None:
    """With its missing parents, all of them private: a runtime directory that others may enter is none."""
    if not os.path.isdir(directory):
        _make_directory(os.path.dirname(directory))
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass


def check_directory(directory: str) -> None:
    """Raises UnsafePathError unless the directory is real, ours and 0700. A laxer mode of ours is mended."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UnsafePathError(f"{directory} is not a directory we can use ({error.strerror}); remove it") from error
    try:
        info = os.fstat(fd)
        if info.st_uid != os.getuid():
            raise UnsafePathError(f"{directory} belongs to another user; remove it, or set XDG_RUNTIME_DIR")
        if stat.S_IMODE(info.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def open_file(path: str, flags: int) -> int:
    """A file of ours, 0600 where it is made; a laxer mode of ours is mended. Never waits. Raises FileNotFoundError, and
    UnsafePathError where something else is in its place.
    """
    try:
        fd = os.open(path, flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            in_the_way = os.path.dirname(path) if error.errno == errno.ENOTDIR else path
            raise UnsafePathError(f"cannot open {in_the_way} ({error.strerror}); remove it") from error
        raise
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.getuid():
        os.close(fd)
        raise UnsafePathError(f"{path} is not a file of ours; remove it")
    if stat.S_IMODE(info.st_mode) & 0o077:
        os.fchmod(fd, 0o600)
    if flags & os.O_TRUNC:  # only now that it is known to be ours
        os.ftruncate(fd, 0)
    return fd


def replace(path: str, by: str) -> None:
    """Renames a file of ours. Raises UnsafePathError where something else than one would go."""
    if os.path.lexists(path) and not is_own_file(path):
        raise UnsafePathError(f"{path} is not a file of ours; remove it")
    os.rename(by, path)


def is_own_file(path: str) -> bool:
    return _is_own(path, stat.S_ISREG)


def is_own_socket(path: str) -> bool:
    """Whoever listens in it, or does not any more."""
    return _is_own(path, stat.S_ISSOCK)


def _is_own(path: str, is_such: Callable[[int], bool]) -> bool:
    """Whether such a thing lies there, and is ours. Nothing is followed."""
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return is_such(info.st_mode) and info.st_uid == os.getuid()
