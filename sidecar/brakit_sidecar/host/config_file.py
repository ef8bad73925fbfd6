"""Writes brakit's config. One process writes at a time, the file is replaced as a whole, and other keys are kept.

A worker needs only the decision (``consent``). It loads this file only if the environment opts out.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid

from . import paths, secure_files
from .consent import Config, Consent, current, read_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_FRESH_NAME = "first-session"  # exists until a session ends under a config that this package made


class ConfigError(OSError):
    """The config could not be written. The message says why."""


def settled(environ: Mapping[str, str], *, wait: bool = True) -> Consent:
    """Return the decision, after writing it to the config.

    Writes an opt-out that comes from the environment. Writes an anonymous id if telemetry is on and the config has no
    id. The decision is off if the config cannot be written. If ``wait`` is False, the config also counts as not
    writable while another process is writing it.
    """
    decision = current(environ)
    path = paths.config_path(environ)
    if decision.dormant:
        return decision
    try:
        if decision.by_environment:
            _opt_out(path, wait=wait)
        elif decision.on and decision.anonymous_id is None:
            _give_id(path, wait=wait)
            return current(environ)
    except OSError as error:
        return Consent(on=False, why=f"the config cannot be written ({error})")
    return decision


def switch(environ: Mapping[str, str], *, on: bool) -> None:
    """Write a person's decision. Raises ConfigError if the config cannot be written.

    An opt-out replaces the anonymous id by an id that was never sent.
    """
    path = paths.config_path(environ)
    try:
        is_first = read_config(path).missing
        if on:
            _update(path, lambda content: {"anonymousId": _new_id(), **content, "telemetry": True})
        else:
            _update(path, lambda content: {**content, "telemetry": False, "anonymousId": _new_id()})
        if on and is_first:
            _mark_fresh()
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error})") from error


def take_first_session() -> bool:
    """Return whether the session that ends now is the first under a config that this package made.

    Returns True only once.
    """
    path = os.path.join(paths.state_dir(), _FRESH_NAME)
    try:
        if not secure_files.is_own_file(path):
            return False
        os.unlink(path)
    except OSError:
        return False
    return True


def _new_id() -> str:
    return str(uuid.uuid4())


def _opt_out(path: str, *, wait: bool) -> None:
    config = read_config(path)
    already = config.content is not None and config.content.get("telemetry") is False and config.anonymous_id
    if not already:
        _update(path, lambda content: {**content, "telemetry": False, "anonymousId": _new_id()}, wait=wait)


def _give_id(path: str, *, wait: bool) -> None:
    """Make the config, or add an id to it. If several processes add an id at the same time, the first id stays."""
    config = read_config(path)
    if config.missing:
        if _write(path, {"telemetry": True, "anonymousId": _new_id()}, only_if_missing=True):
            _mark_fresh()
    else:
        _update(
            path,
            lambda content: content if Config(content).anonymous_id else {**content, "anonymousId": _new_id()},
            wait=wait,
        )


def _mark_fresh() -> None:
    """Mark that no session has ended yet. If the mark cannot be made, the first session is reported as a later one."""
    try:
        secure_files.ensure_directory(paths.state_dir())
        os.close(secure_files.open_file(os.path.join(paths.state_dir(), _FRESH_NAME), os.O_WRONLY | os.O_CREAT))
    except OSError:
        pass


def _update(path: str, change: Callable[[dict[str, Any]], dict[str, Any]], *, wait: bool = True) -> None:
    """Replace the config's content by ``change(content)``. The content of an unreadable config is {}.

    A lock on the directory lets one process write at a time, so that no process undoes another's change. Writes nothing
    if ``change`` returns the same content. Raises BlockingIOError if the lock is taken and ``wait`` is False.
    """
    secure_files.ensure_directory(os.path.dirname(path))
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = read_config(path).content
        changed = change(found or {})
        if changed != found:
            _write(path, changed)
    finally:
        os.close(directory)


def _write(path: str, content: dict[str, Any], *, only_if_missing: bool = False) -> bool:
    """Write the whole file or nothing, even if this process is killed.

    With ``only_if_missing``, writes nothing and returns False if another process has made the file first.
    """
    secure_files.ensure_directory(os.path.dirname(path))
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, json.dumps(content, indent=2).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        if only_if_missing:
            os.link(temporary, path)
        else:
            os.rename(temporary, path)
    except FileExistsError:
        return False
    finally:
        try:
            os.unlink(temporary)
        except FileNotFoundError:  # the temporary file was renamed
            pass
    return True
