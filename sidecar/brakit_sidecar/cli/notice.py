"""The notice that is shown once in a terminal: what is reported, how to see it, and how to opt out.

The notice is shown before the first event. An empty file in the state directory marks that it was shown. The mark is
not in the config, because brakit's Node SDK rewrites the config and may drop keys that it does not know. The notice is
used only if telemetry is on, so an opt-out creates no file beside the config.
"""

from __future__ import annotations

import os
import sys

from ..core.destination import Destination
from ..core.printable import printable
from ..host import paths, secure_files

NAME = "notice-shown"
_TEXT = """\
brakit-sidecar reports anonymous usage statistics: counts, durations, words of a fixed list; no code, no URLs, no SQL.
Destination: {destination}
See it all: brakit-sidecar log (what was sent), status (what will be sent), schema (what can be sent).
Switch it off: brakit-sidecar telemetry off, or BRAKIT_TELEMETRY=false. This notice is shown only once.
"""


def show_once() -> None:
    """Show the notice if stderr is a terminal and the notice was not shown before. Never raises.

    The caller must have checked that telemetry is on.
    """
    try:
        if sys.stderr.isatty() and _is_first_time():
            from ..core.endpoint import describe  # noqa: PLC0415 (a tenth of the start of `run`, which needs it once)

            sys.stderr.write(_TEXT.format(destination=printable(describe(Destination(os.environ)))))
            sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # stderr does not exist or is closed
        pass


def _is_first_time() -> bool:
    """Return whether this process created the mark. O_EXCL lets only one of several processes create it.

    Also returns True if the mark cannot be created, because showing the notice again is better than not showing it.
    """
    directory = paths.state_dir()
    try:
        secure_files.ensure_directory(directory)
        os.close(secure_files.open_file(os.path.join(directory, NAME), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
