"""Where our files are.

The worker's side loads this file too, so platformdirs (25 ms) is only imported where the answer needs it.
"""

from __future__ import annotations

import os
import stat
import sys

from ..core.wire import PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# sun_path in bytes, without its terminating zero: 108 on Linux, 104 on macOS and the BSDs.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103

_SOCKET_NAME = f"sidecar-{PROTOCOL}.sock"  # an incompatible protocol gets a daemon of its own
_LOCK_NAME = f"sidecar-{PROTOCOL}.lock"
_NOWHERE = os.devnull  # in which nobody, root included, can make anything
_COUNTER_FILE_PREFIX = f"counters-{PROTOCOL}-"  # as a daemon beside this one takes in all that it finds under its names


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
    preferred = _preferred_runtime_dir(environ)
    if preferred is not None:
        if len(os.fsencode(os.path.join(preferred, _SOCKET_NAME))) <= MAX_SOCKET_PATH:
            return preferred
        import hashlib  # noqa: PLC0415 (OpenSSL's 0.5 MiB, for a path that is hardly ever needed)

        distinct = hashlib.blake2b(os.fsencode(preferred), digest_size=4).hexdigest()
        return f"/tmp/brakit-{os.getuid()}-{distinct}"  # noqa: S108 (ensure_directory refuses it if another made it)
    return f"/tmp/brakit-{os.getuid()}"  # noqa: S108 (as above)


def state_dir() -> str:
    """The directory of receipts and journal: platformdirs' state directory for ``brakit``."""
    if sys.platform == "linux":  # its own answer, without the 1.7 MiB that it takes
        named = os.environ.get("XDG_STATE_HOME", "")
        return os.path.join(named if os.path.isabs(named) else os.path.join(home(os.environ), ".local/state"), "brakit")
    import platformdirs  # noqa: PLC0415 (never needed in a worker)

    return platformdirs.user_state_dir("brakit", appauthor=False)


def journal_dir(socket: str) -> str:
    """The journal of the daemon that listens there: another place's daemon keeps its own."""
    from zlib import crc32  # noqa: PLC0415 (never needed in a worker)

    return os.path.join(state_dir(), f"journal-{crc32(os.fsencode(socket)):08x}")


def counter_file_path(socket: str, producer: str) -> str:
    """The name of a worker's memory, beside the daemon's socket."""
    return os.path.join(os.path.dirname(socket), counter_file_name(producer))


def counter_file_name(producer: str) -> str:
    """Of a worker's memory, where it has one: beside the socket, and in a service manager's store."""
    return _COUNTER_FILE_PREFIX + producer


def producer_of(name: str) -> str:
    return name.removeprefix(_COUNTER_FILE_PREFIX)


def counter_files(socket: str) -> dict[str, str]:
    """The paths of the workers' memories that are there, by producer."""
    directory = os.path.dirname(socket)
    names = [name for name in os.listdir(directory) if name.startswith(_COUNTER_FILE_PREFIX)]
    return {producer_of(name): os.path.join(directory, name) for name in names}


def config_path(environ: Mapping[str, str]) -> str:
    """Brakit's config, shared with its Node SDK."""
    return os.path.join(home(environ), ".brakit", "config.json")


def home(environ: Mapping[str, str]) -> str:
    """HOME, else the password database's; where neither knows (a container's made-up user), no directory at all, so
    that nothing of ours lands in the working directory.
    """
    named = environ.get("HOME", "")
    if os.path.isabs(named):
        return named
    try:
        import pwd  # noqa: PLC0415 (not on Windows; and hardly ever needed)

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError):
        return _NOWHERE


def _preferred_runtime_dir(environ: Mapping[str, str]) -> str | None:
    """Platformdirs' answer; None where it would warn on the host's stderr, and then derive one from TMPDIR.

    Where XDG's variables give the answer it is not asked: it takes 25 ms and 1.7 MiB, here in somebody else's process.
    """
    if sys.platform == "darwin":
        import platformdirs  # noqa: PLC0415 (as above)

        return platformdirs.user_runtime_dir("brakit", appauthor=False)
    named = environ.get("XDG_RUNTIME_DIR", "").strip()
    if os.path.isabs(named) and _may_hold_ours(named):
        return os.path.join(named, "brakit")
    system = f"/run/user/{os.getuid()}"
    if not os.path.isabs(named) and _may_hold_ours(system) and os.path.isdir(system):
        return os.path.join(system, "brakit")
    return None


def _may_hold_ours(directory: str) -> bool:
    """Whether it is private, or missing where it can be made."""
    try:
        return _is_private(os.lstat(directory))
    except FileNotFoundError:
        return os.access(os.path.dirname(directory.rstrip("/")), os.W_OK)
    except OSError:
        return False


def _is_private(info: os.stat_result) -> bool:
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and stat.S_IMODE(info.st_mode) == 0o700
