"""Decides whether anything may be counted and sent.

Commands, workers and the daemon all call ``decide``. The daemon calls it right before each request. While the config
cannot be read, telemetry is off, but earlier counts are kept.

A no wins, whichever source gives it: DO_NOT_TRACK, brakit's guards, an opt-out by BRAKIT_TELEMETRY, or the config. No
source switches on what another one switched off. The first of these sources that gives a no is named as the reason.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time

from ..core.counter_layout import NO_CONFIG, NOT_BELIEVED
from . import config_location, paths
from .guards import dormant_because

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# The sources of a decision, in the order in which they are asked.
DO_NOT_TRACK, GUARDS, VARIABLE, CONFIG = SOURCES = ("DO_NOT_TRACK", "brakit's guards", "BRAKIT_TELEMETRY", "config")

_NO = frozenset({"false", "0", "off", "no"})
_YES = frozenset({"", "true", "1", "yes", "on"})  # without effect
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)  # no other spelling
_MAX_CONFIG = 64 * 1024  # bytes; a config has about a hundred bytes, so a larger file is not a config


class Config:
    """Brakit's config as it was read: its JSON object, or the problem because of which it means off.

    A config that can be read, but is not to be believed, has both.
    ``stamp`` is the time of the last change (ctime in ns) of the file and of the links to it. It is NO_CONFIG plus the
    time if there is no file, NOT_BELIEVED if it means off for another reason, and None if that cannot be known now.
    Every write, rename or replacement of the file changes it, even if the content stays the same.
    """

    __slots__ = ("content", "missing", "problem", "stamp")

    def __init__(
        self,
        content: dict[str, Any] | None,
        *,
        missing: bool = False,
        problem: str = "",
        stamp: int | None = NOT_BELIEVED,
    ) -> None:
        self.content = content
        self.missing = missing
        self.problem = problem
        self.stamp = stamp

    @property
    def anonymous_id(self) -> str | None:
        """Return the anonymous id in lower case. Returns None if the config has no valid id."""
        found = (self.content or {}).get("anonymousId")
        return found.lower() if isinstance(found, str) and _UUID.fullmatch(found) else None


class Consent:
    """The decision.

    ``why`` is the reason, as one clause for a person. ``by`` is the entry of SOURCES that decided. ``dormant`` means
    that no file may be made. ``unreadable`` means that the config cannot be read or believed now, for example because a
    process is writing it. Nothing is then counted or sent, and nothing is discarded. ``stamp`` is the config's. It is
    None if another source than the config decided.
    """

    __slots__ = ("anonymous_id", "by", "by_environment", "dormant", "on", "stamp", "unreadable", "why")

    def __init__(
        self,
        *,
        on: bool,
        why: str,
        by: str = CONFIG,
        dormant: bool = False,
        by_environment: bool = False,
        unreadable: bool = False,
        anonymous_id: str | None = None,
        stamp: int | None = None,
    ) -> None:
        self.on = on
        self.why = why
        self.by = by
        self.dormant = dormant
        self.by_environment = by_environment
        self.unreadable = unreadable
        self.anonymous_id = anonymous_id
        self.stamp = stamp

    @property
    def sentence(self) -> str:
        """Return the decision for a person, such as "telemetry is off here: NODE_ENV=production".

        The word "here" shows that the environment of this process decided, and not the user's config.
        """
        state = "on" if self.on else "off" if self.by == CONFIG else "off here"
        return f"telemetry is {state}: {self.why}"


def decide(environ: Mapping[str, str], config: Config) -> Consent:
    """Return the decision for an environment and a config."""
    do_not_track = environ.get("DO_NOT_TRACK", "")
    guard = dormant_because(environ)
    if do_not_track.strip().lower() not in ("", "0", "false"):
        dormant = guard is not None
        return Consent(on=False, why="DO_NOT_TRACK is set", by=DO_NOT_TRACK, dormant=dormant, by_environment=True)
    if guard is not None:
        return Consent(on=False, why=guard, by=GUARDS, dormant=True)
    if _word(environ) in _NO:
        return Consent(on=False, why="BRAKIT_TELEMETRY opts out", by=VARIABLE, by_environment=True)
    if config.problem:
        return Consent(on=False, why=f"the config {config.problem}", unreadable=True, stamp=config.stamp)
    if config.content is None:
        return Consent(on=True, why="there is no opt-out", stamp=config.stamp)
    if config.content.get("telemetry") is not True:
        return Consent(on=False, why="the config opts out", stamp=config.stamp)
    return Consent(on=True, why="the config opts in", anonymous_id=config.anonymous_id, stamp=config.stamp)


def is_understood(environ: Mapping[str, str]) -> bool:
    """Return whether BRAKIT_TELEMETRY has a value that is known. Any other value has no effect."""
    return _word(environ) in _NO | _YES


def current(environ: Mapping[str, str]) -> Consent:
    """Return the decision as of now. Reads the config, and writes nothing."""
    return decide(environ, read_config(environ))


def read_config(environ: Mapping[str, str]) -> Config:
    """Return the config. Never raises: a file that cannot be read or believed is a config with a problem."""
    try:
        path, linked_at = config_location.find(environ)
    except config_location.UntrustedConfigError as error:
        return Config(None, problem=str(error))
    try:
        config = _read(path, linked_at)
    except FileNotFoundError:
        # A dangling link is not a missing config. Race: a process may make the config before this check. That is
        # harmless, because the process makes a file and not a link.
        if os.path.islink(paths.config_path(environ)):
            return Config(None, problem="is a link to a missing file")
        config = Config(None, missing=True, stamp=NO_CONFIG + time.time_ns())
    except OSError as error:
        return Config(None, problem=f"cannot be read ({error.strerror})", stamp=None)
    if not config.problem and not config_location.is_writable(path):
        config.problem, config.stamp = "is not believed, because it cannot be written", NOT_BELIEVED
    return config


def _read(path: str, linked_at: int) -> Config:
    """Read the file at its real place. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return Config(None, problem="is not a regular file")
        # Race: a process may write the file after the stamp is taken. That is harmless, because the new content then
        # has an old stamp, and the next look finds another one.
        raw = os.read(fd, _MAX_CONFIG + 1)
    finally:
        os.close(fd)
    if len(raw) > _MAX_CONFIG:
        return Config(None, problem="is larger than 64 KiB")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return Config(None, problem="is not valid JSON")
    if not isinstance(content, dict):
        return Config(None, problem="is not a JSON object")
    problem = config_location.problem_of(info)
    if problem is not None:
        return Config(content, problem=f"is not believed, because it {problem}")
    return Config(content, stamp=max(info.st_ctime_ns, linked_at))


def _word(environ: Mapping[str, str]) -> str:
    return environ.get("BRAKIT_TELEMETRY", "").strip().lower()
