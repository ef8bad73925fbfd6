"""Debug messages: what the daemon and the worker's side print to stderr under BRAKIT_DEBUG, and else do not."""

from __future__ import annotations

import os
import sys


def debug(message: str, error: BaseException | None = None) -> None:
    """Print the message, and the error with its traceback. Never raises."""
    if not os.environ.get("BRAKIT_DEBUG"):
        return
    try:
        import traceback  # noqa: PLC0415 (not loaded unless a person asked for messages)

        # Python 3.9 needs all three arguments.
        lines = [] if error is None else traceback.format_exception(type(error), error, error.__traceback__)
        detail = "\n" + "".join(lines).rstrip() if lines else ""
        sys.stderr.write(f"brakit-sidecar[{os.getpid()}]: {message}{detail}\n")
    except Exception:  # noqa: BLE001, S110 (stderr may be closed or missing)
        pass
