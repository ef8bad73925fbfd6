"""Writes brakit's config. One process writes at a time, the file is replaced as a whole, and other keys are kept.

The file is written at its real place (``config_location``). A worker needs only the decision (``consent``). It loads
this file only if the environment opts out.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
from contextlib import suppress

from . import config_location, paths, secure_files
from .config_location import UntrustedConfigError
from .consent import Config, Consent, current, read_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_FRESH_NAME = "first-session"  # exists until a session ends under a config that this package made; holds its stamp
_BAD = ".bad"  # the suffix of a copy of a config that could not be parsed
_MAX_COPIED = 1024 * 1024  # bytes; a larger file is not a config that a person wants back
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # flock's errors on a filesystem without locks
_NO_REPLACING = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM)  # a bind mount, or a directory that is read-only


class ConfigError(OSError):
    """The config could not be written. The message says why."""


class Settled:
    """The decision after it was written. ``problem`` is a clause: why the config could not be written."""

    __slots__ = ("decision", "problem")

    def __init__(self, decision: Consent, problem: str | None = None) -> None:
        self.decision = decision
        self.problem = problem


def settled(environ: Mapping[str, str], *, wait: bool = True) -> Consent:
    """Return the decision, after writing it to the config (see ``settle``)."""
    return settle(environ, wait=wait).decision


def settle(environ: Mapping[str, str], *, wait: bool = True) -> Settled:
    """Write the decision to the config, and return it.

    Writes an opt-out that comes from the environment. Writes an anonymous id if telemetry is on and the config has no
    id. The decision is off if the config cannot be written. If ``wait`` is False, the config also counts as not
    writable while another process is writing it.
    """
    decision = current(environ)
    if decision.dormant:
        return Settled(decision)
    try:
        if decision.by_environment:
            _opt_out(environ, wait=wait)
        elif decision.on and decision.anonymous_id is None:
            _give_id(environ, wait=wait)
            return Settled(current(environ))
    except OSError as error:
        problem = str(error) if isinstance(error, UntrustedConfigError) else f"cannot be written ({error})"
        return Settled(decision if decision.by_environment else Consent(on=False, why=f"the config {problem}"), problem)
    return Settled(decision)


def switch(environ: Mapping[str, str], *, on: bool) -> None:
    """Write a person's decision. Raises ConfigError if the config cannot be written.

    An opt-out replaces the anonymous id by an id that was never sent. A config that is not valid is copied first.
    """
    try:
        was_missing = read_config(environ).missing
        if on:
            _update(environ, lambda content: {"anonymousId": _new_id(), **content, "telemetry": True}, is_forced=True)
        else:
            _update(environ, lambda content: {**content, "telemetry": False, "anonymousId": _new_id()}, is_forced=True)
        if on and was_missing:
            _mark_fresh(environ)
    except UntrustedConfigError as error:
        raise ConfigError(f"cannot write {paths.config_path(environ)}: the config {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot write {paths.config_path(environ)} ({error.strerror or error})") from error


def was_missing_until(stamp: int) -> bool:
    """Return whether this package made the config that has this stamp, and no session has ended since.

    A process that started without a config has then counted under the same consent all the time.
    """
    with suppress(OSError, ValueError):
        fd = secure_files.open_file(_fresh_path(), os.O_RDONLY)
        try:
            return int(os.read(fd, 32)) == stamp
        finally:
            os.close(fd)
    return False


def take_first_session() -> bool:
    """Return whether the session that ends now is the first under a config that this package made.

    Returns True only once.
    """
    try:
        secure_files.unlink(_fresh_path())
    except OSError:
        return False
    return True


def _new_id() -> str:
    return str(uuid.uuid4())


def _opt_out(environ: Mapping[str, str], *, wait: bool) -> None:
    config = read_config(environ)
    already = config.content is not None and config.content.get("telemetry") is False and config.anonymous_id
    if not already:
        _update(environ, lambda content: {**content, "telemetry": False, "anonymousId": _new_id()}, wait=wait)


def _give_id(environ: Mapping[str, str], *, wait: bool) -> None:
    """Make the config, or add an id to it. If several processes add an id at the same time, the first id stays."""
    was_missing = read_config(environ).missing

    def change(content: dict[str, Any]) -> dict[str, Any]:
        return content if Config(content).anonymous_id else {"telemetry": True, **content, "anonymousId": _new_id()}

    if _update(environ, change, wait=wait) and was_missing:
        _mark_fresh(environ)


def _fresh_path() -> str:
    return os.path.join(paths.state_dir(), _FRESH_NAME)


def _mark_fresh(environ: Mapping[str, str]) -> None:
    """Mark that no session has ended yet. If the mark cannot be made, the first session is reported as a later one."""
    with suppress(OSError):
        secure_files.ensure_directory(paths.state_dir())
        fd = secure_files.open_file(_fresh_path(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            os.write(fd, b"%d\n" % read_config(environ).stamp)
        finally:
            os.close(fd)


def _update(
    environ: Mapping[str, str],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    wait: bool = True,
    is_forced: bool = False,
) -> bool:
    """Replace the config's content by ``change(content)``. Returns False if ``change`` returns the same content.

    A lock on the directory lets one process write at a time, so that no process undoes another's change. Raises
    BlockingIOError if the lock is taken and ``wait`` is False. Raises UntrustedConfigError if the config is not to be
    believed, or is not valid. With ``is_forced``, an invalid config is replaced, and a copy of it is kept.
    """
    path = config_location.find(environ)
    directory = os.path.dirname(path)
    if directory == os.path.dirname(paths.config_path(environ)):  # it is not a link, so its mode is this package's
        secure_files.ensure_directory(directory)
    locked = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(locked, wait=wait)
        config = read_config(environ)
        if config.problem and not is_forced:
            raise UntrustedConfigError(config.problem)
        if config.problem and config.content is None:
            _keep_bad(path)
        content = config.content or {}
        if config.problem:  # another user may have written the id
            content.pop("anonymousId", None)
        changed = change(content)
        if changed == config.content and not config.problem:
            return False
        _write(path, json.dumps(changed, indent=2).encode() + b"\n")
    finally:
        os.close(locked)
    return True


def _lock(directory: int, *, wait: bool) -> None:
    """Lock the directory. Race: on a filesystem without locks, the last of two writers wins, and each writes a whole
    file.
    """
    try:
        fcntl.flock(directory, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _keep_bad(path: str) -> None:
    """Copy an invalid config beside itself, because it may hold settings that a person wants back."""
    with suppress(OSError):
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            content = file.read(_MAX_COPIED)
        _write(path + _BAD, content)


def _write(path: str, data: bytes) -> None:
    """Write the whole file or nothing, even if this process is killed.

    A file that cannot be replaced, such as a bind mount, is written in place.
    """
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        if error.errno not in _NO_REPLACING or not os.path.lexists(path):
            raise
        _overwrite(path, data)


def _overwrite(path: str, data: bytes) -> None:
    """Write in place. The rest of a longer file is blank before it is cut off, so that a reader always sees JSON."""
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _write_all(fd, data.ljust(os.fstat(fd).st_size))
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(fd)
