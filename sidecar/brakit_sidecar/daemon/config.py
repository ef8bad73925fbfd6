"""All durations of the daemon. Tests pass shorter durations, so that they need not wait real seconds."""

from __future__ import annotations

from typing import NamedTuple

from ..core.session.timing import Timing


class Config(NamedTuple):
    """All durations in seconds."""

    timing: Timing = Timing()
    # An idle daemon (no session, connection or queued event) exits after this time. It is long enough for the next
    # command of a script, and short enough that no process stays behind. None means that it never exits.
    linger_s: float | None = 3.0
    # An idle daemon waits at most this long for the endpoint's last answer. Together with the linger time, this lets it
    # exit within four seconds after the last session's end.
    last_attempt_s: float = 0.75
    # After `stop` or a signal: the time for goodbyes and for a last attempt. The daemon then exits within two seconds.
    stop_s: float = 1.6
    stop_goodbye_s: float = 0.3
    # A power cut may cost half a minute of counts: the time between two snapshots, and some seconds for the disk.
    snapshot_s: float = 25.0
    poll_s: float = 1.0  # between two polls of the processes whose exits no descriptor reports
    notify_retry_s: float = 0.1  # between two attempts to send to a service manager whose queue is full


USUAL = Config()
