"""The waiting times of a session.

They have a file of their own, because the daemon reads them before it loads the code of sessions.
"""

from __future__ import annotations

from typing import NamedTuple


class Timing(NamedTuple):
    """The waiting times of a session, in seconds."""

    grace_s: float = 5.0  # a reload (gunicorn HUP, --reload, nodemon) takes two or three seconds on a small machine
    goodbye_s: float = 0.5
    unjoined_s: float = 600.0  # if a CLI opens the session and its application never starts


USUAL_TIMING = Timing()
