"""What the daemon and the worker's side otherwise keep to themselves, on stderr under BRAKIT_DEBUG."""

from __future__ import annotations

import os
import sys


def debug(message: str, error: BaseException | None = None) -> None:
    """Says the message, and the error with its traceback. Never raises."""
    if not os.environ.get("BRAKIT_DEBUG"):
        return
    try:
        import traceback  # noqa: PLC0415 (what nobody asked for costs nothing)

        detail = "" if error is None else "\n" + "".join(traceback.format_exception(error)).rstrip()
        sys.stderr.write(f"brakit-sidecar[{os.getpid()}]: {message}{detail}\n")
    except Exception:  # noqa: BLE001, S110 (a stderr that is closed, or none at all, is no reason to fail)
        pass
