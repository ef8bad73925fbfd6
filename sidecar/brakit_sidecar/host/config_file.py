"""The config made to say what was decided. Written whole, by one at a time, with the keys of others kept.

Only what is decided matters to a worker (``consent``): it loads this file just where the environment opts out.
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

_FRESH_NAME = "first-session"  # in the state directory: the config is of our making, and no session has ended under it


class ConfigError(OSError):
    """The config could not be written. Says why."""


def settled(environ: Mapping[str, str], *, wait: bool = True) -> Consent:
    """The decision, with the config made to agree with it: an environment's opt-out is written down, and where
    telemetry is on there is an id. A config that cannot be written means off; also one that another is just writing,
    unless we ``wait`` for that.
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
    """Writes a person's decision. Opting out replaces the id by one that was never sent. Raises ConfigError."""
    path = paths.config_path(environ)
    try:
        is_first = read_config(path).missing
        if on:
            _update(path, lambda content: {"anonymousId": str(uuid.uuid4()), **content, "telemetry": True})
        else:
            _update(path, lambda content: {**content, "telemetry": False, "anonymousId": str(uuid.uuid4())})
        if on and is_first:
            _mark_fresh()
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error})") from error


def take_first_session() -> bool:
    """Whether the session that ends now is the first under a config of our making. True once."""
    path = os.path.join(paths.state_dir(), _FRESH_NAME)
    try:
        if not secure_files.is_own_file(path):
            return False
        os.unlink(path)
    except OSError:
        return False
    return True


def _opt_out(path: str, *, wait: bool) -> None:
    config = read_config(path)
    already = config.content is not None and config.content.get("telemetry") is False and config.anonymous_id
    if not already:
        _update(path, lambda content: {**content, "telemetry": False, "anonymousId": str(uuid.uuid4())}, wait=wait)


def _give_id(path: str, *, wait: bool) -> None:
    """Makes the config, or completes one that has no id. Several may try at once; the first one's id stands."""
    config = read_config(path)
    if config.missing:
        if _write(path, {"telemetry": True, "anonymousId": str(uuid.uuid4())}, only_if_missing=True):
            _mark_fresh()
    else:
        _update(
            path,
            lambda content: content if Config(content).anonymous_id else {**content, "anonymousId": str(uuid.uuid4())},
            wait=wait,
        )


def _mark_fresh() -> None:
    """Where that cannot be kept, the first session passes for a later one; consent does not depend on it."""
    try:
        secure_files.ensure_directory(paths.state_dir())
        os.close(secure_files.open_file(os.path.join(paths.state_dir(), _FRESH_NAME), os.O_WRONLY | os.O_CREAT))
    except OSError:
        pass


def _update(path: str, change: Callable[[dict[str, Any]], dict[str, Any]], *, wait: bool = True) -> None:
    """Rewrites the config; its other keys are kept. What was unreadable is replaced, since a person asked for it.

    One at a time, so that nobody writes back what another has just changed. ``change`` may give its argument back.
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
    """Whole or not at all, whatever dies meanwhile. False where another made the file first, whose content stands."""
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
        except FileNotFoundError:  # renamed
            pass
    return True
