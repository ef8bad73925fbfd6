"""Decides whether anything may be counted and sent.

Commands, workers and the daemon all call ``decide``. The daemon calls it right before each request. While the config
cannot be read, telemetry is off, but earlier counts are kept.

The first of these sources that has an answer decides: DO_NOT_TRACK; brakit's guards; an opt-out by BRAKIT_TELEMETRY; a
config that cannot be read; an opt-in by BRAKIT_TELEMETRY; the config's ``telemetry``.
"""

from __future__ import annotations

import json
import os
import re
import stat

from . import paths
from .guards import dormant_because

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# The sources of a decision, in the order in which they are asked.
DO_NOT_TRACK, GUARDS, VARIABLE, CONFIG = SOURCES = ("DO_NOT_TRACK", "brakit's guards", "BRAKIT_TELEMETRY", "config")

_NO = frozenset({"false", "0", "off", "no"})
_YES = frozenset({"true", "1", "yes", "on"})
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)  # no other spelling
_MAX_CONFIG = 64 * 1024  # bytes; a config has about a hundred bytes, so a larger file is not a config


class Config:
    """Brakit's config as it was read: its JSON object, or the reason why it could not be read."""

    __slots__ = ("content", "missing", "problem")

    def __init__(self, content: dict[str, Any] | None, *, missing: bool = False, problem: str = "") -> None:
        self.content = content
        self.missing = missing
        self.problem = problem

    @property
    def anonymous_id(self) -> str | None:
        """Return the anonymous id in lower case. Returns None if the config has no valid id."""
        found = (self.content or {}).get("anonymousId")
        return found.lower() if isinstance(found, str) and _UUID.fullmatch(found) else None


class Consent:
    """The decision.

    ``why`` is the reason, as one clause for a person. ``by`` is the entry of SOURCES that decided. ``dormant`` means
    that no file may be made. ``unreadable`` means that the config cannot be read now, because a process is writing it
    or the descriptor limit is reached. Nothing is then counted or sent, and nothing is discarded.
    """

    __slots__ = ("anonymous_id", "by", "by_environment", "dormant", "on", "unreadable", "why")

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
    ) -> None:
        self.on = on
        self.why = why
        self.by = by
        self.dormant = dormant
        self.by_environment = by_environment
        self.unreadable = unreadable
        self.anonymous_id = anonymous_id

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
    word = environ.get("BRAKIT_TELEMETRY", "").strip().lower()
    if do_not_track.strip().lower() not in ("", "0", "false"):
        dormant = guard is not None
        return Consent(on=False, why="DO_NOT_TRACK is set", by=DO_NOT_TRACK, dormant=dormant, by_environment=True)
    if guard is not None:
        return Consent(on=False, why=guard, by=GUARDS, dormant=True)
    if word in _NO:
        return Consent(on=False, why="BRAKIT_TELEMETRY opts out", by=VARIABLE, by_environment=True)
    if config.content is None and not config.missing:
        return Consent(on=False, why=f"the config {config.problem}", unreadable=True)
    if word in _YES:
        return Consent(on=True, why="BRAKIT_TELEMETRY opts in", by=VARIABLE, anonymous_id=config.anonymous_id)
    if config.content is None:
        return Consent(on=True, why="there is no opt-out")
    if config.content.get("telemetry") is not True:
        return Consent(on=False, why="the config opts out")
    return Consent(on=True, why="the config opts in", anonymous_id=config.anonymous_id)


def current(environ: Mapping[str, str]) -> Consent:
    """Return the decision as of now. Reads the config, and writes nothing."""
    return decide(environ, read_config(paths.config_path(environ)))


def read_config(path: str) -> Config:
    """Return the config at a path. Never raises: a file that cannot be read is a config with a problem."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        # A dangling link is not a missing config. Race: a process may make the config before this check. That is
        # harmless, because the process makes a file and not a link.
        if os.path.islink(path):
            return Config(None, problem="is a link to a missing file")
        return Config(None, missing=True)
    except OSError as error:
        return Config(None, problem=f"cannot be read ({error.strerror})")
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return Config(None, problem="is not a regular file")
        raw = os.read(fd, _MAX_CONFIG + 1)
    except OSError as error:
        return Config(None, problem=f"cannot be read ({error.strerror})")
    finally:
        os.close(fd)
    if len(raw) > _MAX_CONFIG:
        return Config(None, problem="is larger than 64 KiB")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return Config(None, problem="is not valid JSON")
    return Config(content) if isinstance(content, dict) else Config(None, problem="is not a JSON object")
