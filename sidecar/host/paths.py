"""Where our files are, and that they are ours alone: directories 0700, files 0600, nothing followed, nothing shared.

The worker's side loads this file too, so platformdirs (25 ms) is only imported where the answer needs it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.core.wire import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Mapping

# sun_path in bytes, without its terminating zero: 108 on Linux, 104 on macOS and the BSDs.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103

_SOCKET_NAME = f"sidecar-{PROTOCOL}.sock"  # an incompatible protocol gets a daemon of its own
_LOCK_NAME = f"sidecar-{PROTOCOL}.lock"


class UnsafePathError(OSError):
    """Something at one of our paths is not ours, not private or not what it must be. Says what, and what to do."""


def socket_path(environ: Mapping[str, str]) -> str:
    """Where the daemon of this user listens."""
    return os.path.join(runtime_dir(environ), _SOCKET_NAME)


def lock_path(socket: str) -> str:
    return os.path.join(os.path.dirname(socket), _LOCK_NAME)


def runtime_dir(environ: Mapping[str, str]) -> str:
    """The directory of socket and lock: platformdirs' runtime directory for ``brakit``.

    Two short fallbacks below /tmp, 0700 and checked before use, where platformdirs would derive one from TMPDIR
    (which differs between shells), and where the socket's path would exceed what the kernel takes (measured in bytes).
    Never from TMPDIR, so that every process of this user comes to the same answer.
    """
    if _platform_has_a_runtime_dir(environ):
        import platformdirs  # noqa: PLC0415 (25 ms that a worker under `run` never pays)

        preferred = platformdirs.user_runtime_dir("brakit", appauthor=False)
        if len(os.fsencode(os.path.join(preferred, _SOCKET_NAME))) <= MAX_SOCKET_PATH:
            return preferred
        distinct = hashlib.blake2b(os.fsencode(preferred), digest_size=4).hexdigest()
        return f"/tmp/brakit-{os.getuid()}-{distinct}"  # noqa: S108 (ensure_private refuses it if another made it)
    return f"/tmp/brakit-{os.getuid()}"  # noqa: S108 (as above)


def state_dir() -> str:
    """The directory of the receipts: platformdirs' state directory for ``brakit``."""
    import platformdirs  # noqa: PLC0415 (never needed in a worker)

    return platformdirs.user_state_dir("brakit", appauthor=False)


def config_path(environ: Mapping[str, str]) -> str:
    """Brakit's config, shared with its Node SDK."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(home, ".brakit", "config.json")


def _platform_has_a_runtime_dir(environ: Mapping[str, str]) -> bool:
    """Whether platformdirs will find one. Asked first, because where it does not it warns on the host's stderr."""
    if sys.platform == "darwin":
        return True
    named = environ.get("XDG_RUNTIME_DIR", "").strip()
    if named and os.path.isabs(named):
        try:
            return _is_private(os.lstat(named))
        except FileNotFoundError:
            return os.access(os.path.dirname(named.rstrip("/")), os.W_OK)
        except OSError:
            return False
    try:
        return _is_private(os.lstat(f"/run/user/{os.getuid()}"))
    except OSError:
        return False


def _is_private(info: os.stat_result) -> bool:
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and stat.S_IMODE(info.st_mode) == 0o700


def ensure_private(directory: str) -> None:
    """Makes the directory, 0700, where it is missing. Raises UnsafePathError where it is not ours and private."""
    try:
        _make_private(directory)
    except OSError as error:
        raise UnsafePathError(
            f"cannot create {directory} ({error.strerror}); make it, or its parent, writable"
        ) from error
    check_private(directory)


def _make_private(directory: str) -> None:
    """With its missing parents, all of them private: a runtime directory that others may enter is none."""
    if not os.path.isdir(directory):
        _make_private(os.path.dirname(directory))
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)


def check_private(directory: str) -> None:
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
