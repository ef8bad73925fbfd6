"""The paths of this program's files.

A worker needs only the paths of the runtime directory and of the config. On Linux, these are computed without
platformdirs, because importing it takes 25 ms and an application's environment may lack it. A test checks that
platformdirs returns the same paths.
"""

from __future__ import annotations

import os
import stat
import sys

from ..core.wire import PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# The size of sun_path in bytes, without its terminating zero: 108 on Linux, 104 on macOS and the BSDs.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103

CONFIG_NAMES = (".brakit", "config.json")  # below HOME

_SOCKET_NAME = f"sidecar-{PROTOCOL}.sock"  # an incompatible protocol has a daemon of its own
_LOCK_NAME = f"sidecar-{PROTOCOL}.lock"
_NOWHERE = os.devnull  # a parent in which no user, root included, can make a file
_COUNTER_FILE_PREFIX = f"counters-{PROTOCOL}-"  # has the protocol, because a daemon reads all files with its prefix


def socket_path(environ: Mapping[str, str]) -> str:
    """Return the path at which this user's daemon listens."""
    return os.path.join(runtime_dir(environ), _SOCKET_NAME)


def lock_path(socket: str) -> str:
    """Return the path of the lock that belongs to a socket."""
    return os.path.join(os.path.dirname(socket), _LOCK_NAME)


def runtime_dir(environ: Mapping[str, str]) -> str:
    """Return the directory of socket and lock: platformdirs' runtime directory for ``brakit``.

    There are two short fallback directories below /tmp. Both have mode 0700 and are checked before use. The first is
    used if platformdirs would derive a directory from TMPDIR. TMPDIR differs between shells, but all processes of a
    user must get the same directory. The second is used if the socket's path would have more bytes than the kernel
    allows.
    """
    preferred = _preferred_runtime_dir(environ)
    if preferred is not None:
        if len(os.fsencode(os.path.join(preferred, _SOCKET_NAME))) <= MAX_SOCKET_PATH:
            return preferred
        import hashlib  # noqa: PLC0415 (it loads OpenSSL and is hardly ever needed)

        distinct = hashlib.blake2b(os.fsencode(preferred), digest_size=4).hexdigest()
        return f"/tmp/brakit-{os.getuid()}-{distinct}"  # noqa: S108 (ensure_directory refuses another user's directory)
    return f"/tmp/brakit-{os.getuid()}"  # noqa: S108 (ensure_directory refuses another user's directory)


def state_dir() -> str:
    """Return the directory of receipts and journal: platformdirs' state directory for ``brakit``."""
    # Importing platformdirs would take 1.7 MiB of the daemon's memory. A test checks that it returns the same path.
    if sys.platform == "linux":
        named = os.environ.get("XDG_STATE_HOME", "")
        base = named if os.path.isabs(named) else os.path.join(home(os.environ), ".local", "state")
        return os.path.join(base, "brakit")
    import platformdirs  # noqa: PLC0415 (only this platform needs it)

    found = platformdirs.user_state_dir("brakit", appauthor=False)
    # Without a usable HOME, platformdirs returns a relative path. Files would then be made in the working directory.
    return found if os.path.isabs(found) else os.path.join(home(os.environ), ".local", "state", "brakit")


def journal_dir(socket: str) -> str:
    """Return the journal directory of the daemon that listens at ``socket``. Every socket has a journal of its own."""
    from zlib import crc32  # noqa: PLC0415 (a worker never needs this path)

    return os.path.join(state_dir(), f"journal-{crc32(os.fsencode(socket)):08x}")


def counter_file_path(socket: str, producer: str) -> str:
    """Return the path of a worker's counter file, beside the daemon's socket."""
    return os.path.join(os.path.dirname(socket), counter_file_name(producer))


def counter_file_name(producer: str) -> str:
    """Return the name of a worker's counter file. The file has the same name in a service manager's store."""
    return _COUNTER_FILE_PREFIX + producer


def producer_of(name: str) -> str:
    """Return the producer's id in the name of a counter file."""
    return name[len(_COUNTER_FILE_PREFIX) :]


def named_counter_files(socket: str) -> dict[str, str]:
    """Return the paths of the counter files beside the socket, by producer. Raises OSError if they cannot be listed."""
    directory = os.path.dirname(socket)
    names = [name for name in os.listdir(directory) if name.startswith(_COUNTER_FILE_PREFIX)]
    return {producer_of(name): os.path.join(directory, name) for name in names}


def config_path(environ: Mapping[str, str]) -> str:
    """Return the path of brakit's config. Brakit's Node SDK uses the same file."""
    return os.path.join(home(environ), *CONFIG_NAMES)


def home(environ: Mapping[str, str]) -> str:
    """Return HOME if it is an absolute path. Otherwise return the home directory of the password database.

    If the database does not have this user, as in some containers, return a path in which no file can be made. No file
    is then made in the working directory.
    """
    named = environ.get("HOME", "")
    if os.path.isabs(named):
        return named
    try:
        import pwd  # noqa: PLC0415 (missing on Windows, and hardly ever needed)

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError):
        return _NOWHERE


def _preferred_runtime_dir(environ: Mapping[str, str]) -> str | None:
    """Return platformdirs' directory. Returns None if platformdirs would warn on stderr and derive it from TMPDIR."""
    if sys.platform == "darwin":
        import platformdirs  # noqa: PLC0415 (only this platform needs it)

        return platformdirs.user_runtime_dir("brakit", appauthor=False)
    named = environ.get("XDG_RUNTIME_DIR", "").strip()
    if os.path.isabs(named) and _may_hold_ours(named):
        return os.path.join(named, "brakit")
    system = f"/run/user/{os.getuid()}"
    if not os.path.isabs(named) and _may_hold_ours(system) and os.path.isdir(system):
        return os.path.join(system, "brakit")
    return None


def _may_hold_ours(directory: str) -> bool:
    """Return whether the directory is private. If it is missing, return whether it can be made."""
    try:
        return _is_private(os.lstat(directory))
    except FileNotFoundError:
        return os.access(os.path.dirname(directory.rstrip("/")), os.W_OK)
    except OSError:
        return False


def _is_private(info: os.stat_result) -> bool:
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and stat.S_IMODE(info.st_mode) == 0o700
