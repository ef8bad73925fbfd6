"""The daemon's log: its start and stop, recovery and withdrawal, and failures.

The log never holds a producer's text. A developer's terminal does not show the log.
"""

from __future__ import annotations

import logging
import os
import sys
from traceback import extract_tb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def set_up(environ: Mapping[str, str]) -> None:
    """Log to stderr: all messages under BRAKIT_DEBUG, or those from INFO on if stderr is systemd's journal."""
    logger = logging.getLogger(__package__)
    logger.propagate = False
    debug = bool(environ.get("BRAKIT_DEBUG"))
    handler: logging.Handler = logging.NullHandler()
    if debug or _is_journal(environ):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"brakit-sidecar[{os.getpid()}]: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Return True if stderr is the stream that JOURNAL_STREAM names by device and inode (systemd.exec(5))."""
    try:
        info = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # stderr is missing or closed
        return False
    return environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def log_unexpected(logger: logging.Logger, step: str, error: BaseException) -> None:
    """Log a failure by its type and place. An exception's message may hold a producer's text."""
    frames = extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "unknown"
    logger.error("%s failed: %s at %s", step, type(error).__name__, place)
