"""What a person at a terminal is told once, before the first event ever: what is reported, how to see it, how to switch
it off.

That it was said is a file in the state directory: the config is shared with brakit's Node SDK, which may not keep what
it does not know, and where telemetry is off nobody comes here, so that an opt-out makes no file but the config.
"""

from __future__ import annotations

import os
import sys

from ..host import paths, secure_files

_NAME = "notice-shown"
_TEXT = """\
brakit-sidecar reports anonymous usage statistics: counts, durations, words of a fixed list; no code, no URLs, no SQL.
See it all: brakit-sidecar log (what was sent), status (what will be), schema (what can be).
Switch it off: brakit-sidecar telemetry off, or BRAKIT_TELEMETRY=false. You are told this once.
"""


def say_once() -> None:
    """Only where telemetry is on. Raises nothing."""
    try:
        if sys.stderr.isatty() and _is_first_time():
            sys.stderr.write(_TEXT)
            sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # no stderr, or a closed one: nobody is there to be told
        pass


def _is_first_time() -> bool:
    """Of several at once, one. Where that cannot be kept, each time: better told twice than never."""
    directory = paths.state_dir()
    try:
        secure_files.ensure_directory(directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(os.path.join(directory, _NAME), flags, 0o600))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
