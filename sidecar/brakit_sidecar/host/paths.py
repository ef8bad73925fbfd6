"""The paths of this program's files.

The worker's side asks for the runtime directory and the config only. On Linux that works without platformdirs, because
importing it takes 25 ms and an application's environment may lack it. A test holds that the answer is platformdirs'.
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

_SOCKET_NAME = f"sidecar-{PROTOCOL}.sock"  # an incompatible protocol has a daemon of its own
_LOCK_NAME = f"sidecar-{PROTOCOL}.lock"
_NOWHERE = os.devnull  # a parent in which no user, root included, can make a file
_COUNTER_FILE_PREFIX = f"counters-{PROTOCOL}-"  # by protocol, because a daemon reads every file with its prefix


def socket_path(environ: Mapping[str, str]) -> str:
    """Return the path at which this user's daemon listens."""
    return os.path.join(runtime_dir(environ), _SOCKET_NAME)


def lock_path(socket: str) -> str:
    """Return the path of the lock that belongs to a socket."""
    return os.path.join(os.path.dirname(socket), _LOCK_NAME)


def runtime_dir(environ: Mapping[str, str]) -> str:
    """Return the directory of socket and lock: platformdirs' runtime directory for ``brakit``.

    There are two short fallbacks below /tmp, which are 0700 and checked before use. One stands in if platformdirs would
    derive a directory from TMPDIR, which differs between shells: all processes of a user must get the same answer. The
    other stands in if the socket's path would be longer, in bytes, than the kernel allows.
    """
    preferred = _preferred_runtime_dir(environ)
    if preferred is not None:
        if len(os.fsencode(os.path.join(preferred, _SOCKET_NAME))) <= MAX_SOCKET_PATH:
            return preferred
        import hashlib  # noqa: PLC0415 (loads OpenSSL, for a path that is hardly ever needed)

        distinct = hashlib.blake2b(os.fsencode(preferred), digest_size=4).hexdigest()
        return f"/tmp/brakit-{os.getuid()}-{distinct}"  # noqa: S108 (ensure_directory refuses another user's)
    return f"/tmp/brakit-{os.getuid()}"  # noqa: S108 (ensure_directory refuses another user's)


def state_dir() -> str:
    """Return the directory of receipts and journal: platformdirs' state directory for ``brakit``."""
    if sys.platform == "linux":  # the import would be 1.7 MiB of the daemon's memory; a test holds that both agree
        named = os.environ.get("XDG_STATE_HOME", "")
        base = named if os.path.isabs(named) else os.path.join(home(os.environ), ".local", "state")
        return os.path.join(base, "brakit")
    import platformdirs  # noqa: PLC0415 (needed on this platform only)

    found = platformdirs.user_state_dir("brakit", appauthor=False)
    # Without a usable HOME, platformdirs answers with a relative path, and files would land in the working directory.
    return found if os.path.isabs(found) else os.path.join(home(os.environ), ".local", "state", "brakit")


def journal_dir(socket: str) -> str:
    """Return the journal of the daemon that listens there. Daemons of different places have different journals."""
    from zlib import crc32  # noqa: PLC0415 (a worker never needs this path)

    return os.path.join(state_dir(), f"journal-{crc32(os.fsencode(socket)):08x}")


def counter_file_path(socket: str, producer: str) -> str:
    """Return the path of a worker's counter file, beside the daemon's socket."""
    return os.path.join(os.path.dirname(socket), counter_file_name(producer))


def counter_file_name(producer: str) -> str:
    """Return the name of a worker's counter file, beside the socket and in a service manager's store."""
    return _COUNTER_FILE_PREFIX + producer


def producer_of(name: str) -> str:
    """Return the producer that a counter file's name holds."""
    return name[len(_COUNTER_FILE_PREFIX) :]


def named_counter_files(socket: str) -> dict[str, str]:
    """Return the paths of the counter files beside the socket, by producer. Raises OSError."""
    directory = os.path.dirname(socket)
    names = [name for name in os.listdir(directory) if name.startswith(_COUNTER_FILE_PREFIX)]
    return {producer_of(name): os.path.join(directory, name) for name in names}


def config_path(environ: Mapping[str, str]) -> str:
    """Return the path of brakit's config, which its Node SDK shares."""
    return os.path.join(home(environ), ".brakit", "config.json")


def home(environ: Mapping[str, str]) -> str:
    """Return HOME if it is absolute, else the home directory of the password database.

    Returns a path in which nothing can be made if neither is known, as for a container's arbitrary user: no file must
    land in the working directory.
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
    """Return platformdirs' answer. Returns None if platformdirs would warn on stderr and derive it from TMPDIR."""
    if sys.platform == "darwin":
        import platformdirs  # noqa: PLC0415 (needed on this platform only)

        return platformdirs.user_runtime_dir("brakit", appauthor=False)
    named = environ.get("XDG_RUNTIME_DIR", "").strip()
    if os.path.isabs(named) and _may_hold_ours(named):
        return os.path.join(named, "brakit")
    system = f"/run/user/{os.getuid()}"
    if not os.path.isabs(named) and _may_hold_ours(system) and os.path.isdir(system):
        return os.path.join(system, "brakit")
    return None


def _may_hold_ours(directory: str) -> bool:
    """Return whether the directory is private, or is missing and can be made."""
    try:
        return _is_private(os.lstat(directory))
    except FileNotFoundError:
        return os.access(os.path.dirname(directory.rstrip("/")), os.W_OK)
    except OSError:
        return False


def _is_private(info: os.stat_result) -> bool:
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and stat.S_IMODE(info.st_mode) == 0o700
