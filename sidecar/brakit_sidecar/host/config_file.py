"""Writes brakit's config. One process writes at a time, the file is replaced as a whole, and other keys are kept.

The file is written at its real place (``config_location``). A worker needs only the decision (``consent``). It loads
this file only if the environment opts out.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import uuid
from contextlib import suppress

from ..core.counter_layout import NO_CONFIG
from . import config_location, paths, secure_files
from .config_location import UntrustedConfigError
from .consent import Config, Consent, current, read_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Change = Callable[[dict[str, Any]], dict[str, Any]]

_FIRST_SESSION = "first-session"  # exists until a session ends under a config that this package made
_CONTINUED = "config-continued"  # two stamps: consent stood while this package changed the config from one to the other
_BAD = ".bad"  # the suffix of a copy of a config that could not be parsed
_MAX_COPIED = 1024 * 1024  # bytes; a larger file is not a config that a person wants back
_LOCK_WAIT_S, _LOCK_PAUSE_S = 0.5, 0.01  # another process writes for a few ms; a command does not wait for a stuck one
_MADE_AFTER_NS = 5 * 10**9  # how soon a daemon makes a config after a worker found none and started the daemon
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # flock's errors on a filesystem without locks
_NO_REPLACING = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM)  # a bind mount, or a directory that is read-only


class ConfigError(OSError):
    """The config could not be written. The message says why."""


class Written:
    """The decision after it was written. ``problem`` is a clause: why the config could not be written."""

    __slots__ = ("decision", "problem")

    def __init__(self, decision: Consent, problem: str | None = None) -> None:
        self.decision = decision
        self.problem = problem


def decide_and_write(environ: Mapping[str, str], *, wait: bool = True) -> Written:
    """Write the decision to the config, and return it.

    Writes an opt-out that comes from the environment. Writes an anonymous id if telemetry is on and the config has no
    id. The decision is off if the config cannot be written. If ``wait`` is False, the config also counts as not
    writable while another process is writing it.
    """
    decision = current(environ)
    if decision.dormant:
        return Written(decision)
    try:
        if decision.by_environment:
            _opt_out(environ, wait=wait)
        elif decision.on and decision.anonymous_id is None:
            _give_id(environ, wait=wait)
            return Written(current(environ))
    except OSError as error:
        problem = str(error) if isinstance(error, UntrustedConfigError) else f"cannot be written ({error.strerror})"
        return Written(decision if decision.by_environment else Consent(on=False, why=f"the config {problem}"), problem)
    return Written(decision)


def decided(environ: Mapping[str, str], *, wait: bool = True) -> Consent:
    """Return the decision, after writing it to the config (see ``decide_and_write``)."""
    return decide_and_write(environ, wait=wait).decision


def switch(environ: Mapping[str, str], *, on: bool) -> None:
    """Write a person's decision. Raises ConfigError if the config cannot be written.

    An opt-out replaces the anonymous id by an id that was never sent. A config that is not valid is copied first.
    """
    try:
        if on:
            _update(environ, lambda content: {"anonymousId": _new_id(), **content, "telemetry": True}, is_forced=True)
        else:
            _update(environ, _opted_out, is_forced=True)
    except UntrustedConfigError as error:
        raise ConfigError(f"cannot write {paths.config_path(environ)}: the config {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot write {paths.config_path(environ)} ({error.strerror or error})") from error


def is_continued(environ: Mapping[str, str], before: int, now: int) -> bool:
    """Return whether this package changed the config from one stamp to the other, and consent stood meanwhile.

    A config that was missing may have been made and removed since. So it must have been made within a few seconds.
    Waits for a process that is making the change, because it notes the stamps right after it.
    """
    if before >= NO_CONFIG:
        if now - (before - NO_CONFIG) > _MADE_AFTER_NS:
            return False
        before = NO_CONFIG
    with suppress(OSError, ValueError):
        locked = _locked_directory(config_location.find(environ)[0], wait=True)
        try:
            fd = secure_files.open_file(_state_path(_CONTINUED), os.O_RDONLY)
            with open(fd, "rb") as file:
                return file.read(_MAX_NOTE).split() == [b"%d" % before, b"%d" % now]
        finally:
            os.close(locked)
    return False


def take_first_session() -> bool:
    """Return whether the session that ends now is the first under a config that this package made.

    Returns True only once.
    """
    try:
        secure_files.unlink(_state_path(_FIRST_SESSION))
    except OSError:
        return False
    return True


# --- what is written ------------------------------------------------------------------------------------------------


def _new_id() -> str:
    return str(uuid.uuid4())


def _opted_out(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "telemetry": False, "anonymousId": _new_id()}


def _opt_out(environ: Mapping[str, str], *, wait: bool) -> None:
    config = read_config(environ)
    already = config.content is not None and config.content.get("telemetry") is False and config.anonymous_id
    if not already:
        _update(environ, _opted_out, wait=wait)


def _give_id(environ: Mapping[str, str], *, wait: bool) -> None:
    """Make the config, or add an id to it. If several processes add an id at the same time, the first id stays."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        return content if Config(content).anonymous_id else {"telemetry": True, **content, "anonymousId": _new_id()}

    _update(environ, change, wait=wait)


def _update(environ: Mapping[str, str], change: Change, *, wait: bool = True, is_forced: bool = False) -> None:
    """Replace the config's content by ``change(content)``. Writes nothing if the content stays the same.

    A lock on the directory lets one process write at a time, so that no process undoes another's change. Raises
    BlockingIOError if the lock stays taken. Raises UntrustedConfigError if the config is not to be believed, or is not
    valid. With ``is_forced``, an invalid config is replaced, and a copy of it is kept.
    """
    path, _linked_at = config_location.find(environ)
    directory = os.path.dirname(path)
    if directory == os.path.dirname(paths.config_path(environ)):  # it is not a link, so its mode is this package's
        secure_files.ensure_directory(directory)
    locked = _locked_directory(path, wait=wait)
    try:
        config = read_config(environ)
        if config.problem and not is_forced:
            raise UntrustedConfigError(config.problem)
        if config.problem and config.content is None:
            _keep_bad(path)
        content = dict(config.content or {})
        if config.problem:  # another user may have written the id
            content.pop("anonymousId", None)
        changed = change(content)
        if changed == config.content and not config.problem:
            return
        _write(path, json.dumps(changed, indent=2).encode() + b"\n")
        _note_change(environ, config)
    finally:
        os.close(locked)


# --- what is noted in the state directory -----------------------------------------------------------------------------

_MAX_NOTE = 64  # bytes; two stamps have at most 40


def _note_change(environ: Mapping[str, str], before: Config) -> None:
    """Note that consent stood during a change, and that no session has ended under a new config.

    If nothing can be noted, the sessions of workers that started before the change stay on this machine.
    """
    decision = current(environ)
    said_no = before.problem or (before.content or {"telemetry": True}).get("telemetry") is not True
    if said_no or not decision.on:
        return
    with suppress(OSError):
        secure_files.ensure_directory(paths.state_dir())
        _write_note(_CONTINUED, b"%d %d\n" % (NO_CONFIG if before.missing else before.stamp or 0, decision.stamp or 0))
        if before.missing:
            _write_note(_FIRST_SESSION, b"")


def _state_path(name: str) -> str:
    return os.path.join(paths.state_dir(), name)


def _write_note(name: str, content: bytes) -> None:
    fd = secure_files.open_file(_state_path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


# --- how the file is written ----------------------------------------------------------------------------------------


def _locked_directory(path: str, *, wait: bool) -> int:
    """Return a descriptor of the config's directory, which is locked until it is closed. Raises BlockingIOError.

    Race: on a filesystem without locks, the last of two writers wins, and each writes a whole file.
    """
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    give_up_at = time.monotonic() + (_LOCK_WAIT_S if wait else 0)
    try:
        while not _try_lock(directory):
            if time.monotonic() >= give_up_at:
                raise BlockingIOError(errno.EWOULDBLOCK, "another process keeps its lock")
            time.sleep(_LOCK_PAUSE_S)
    except OSError:
        os.close(directory)
        raise
    return directory


def _try_lock(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


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
