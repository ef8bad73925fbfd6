"""All durations of the daemon. Tests give shorter ones, so that they need not wait real seconds."""

from __future__ import annotations

from typing import NamedTuple

from ..core.session.timing import Timing


class Config(NamedTuple):
    """All durations in seconds."""

    timing: Timing = Timing()
    # An idle daemon (no session, connection or queued event) exits after this time. It is long enough for the next
    # command of a script, and short enough that no process stays behind. None means that it never exits.
    linger_s: float | None = 3.0
    # An idle daemon waits at most this long for the endpoint's last answer. Together with the linger it exits within
    # four seconds after the last session's end.
    last_attempt_s: float = 0.75
    # `stop` and signals: the time for goodbyes and for a last attempt, so that the daemon exits within two seconds.
    stop_s: float = 1.6
    stop_goodbye_s: float = 0.3
    # A power cut may cost half a minute of counts: the time between two snapshots, and some seconds for the disk.
    snapshot_s: float = 25.0
    poll_s: float = 1.0  # how often a process is looked at whose exit no descriptor reports
    notify_retry_s: float = 0.1  # until messages to a service manager whose queue was full are sent again


USUAL = Config()
