"""How long the daemon waits for what. Tests give other numbers, so that they need not wait real seconds."""

from __future__ import annotations

from typing import NamedTuple

from ..core.session.session import Timing


class Config(NamedTuple):
    """All durations in seconds."""

    timing: Timing = Timing()
    # Without session, connection and queue: long enough for the next command of a script, short enough that nothing is
    # left behind. None: the daemon stays.
    linger_s: float | None = 3.0
    # A daemon that exits because it is idle waits this long for a last answer of the endpoint, even if none ever comes.
    # With the linger it exits within four seconds after the last session's end.
    last_attempt_s: float = 0.75
    # `stop` and signals: the time for goodbyes and for a last attempt, so that the daemon exits within two seconds.
    stop_s: float = 1.6
    stop_goodbye_s: float = 0.3
    # A power cut may cost half a minute of counts: the time between two snapshots, and some seconds for the disk.
    snapshot_s: float = 25.0
    poll_s: float = 1.0  # how often a process is looked at whose exit no descriptor reports
    notify_retry_s: float = 0.1  # a service manager that has not read its messages by then is sent them again


USUAL = Config()
