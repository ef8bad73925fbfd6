"""Counts the events that are sent, for all daemons of this user: at most 5,000 in any 24 hours (``core.budget``).

The counts are in one small file of the state directory. It is written before each attempt, and not synced: a power cut
may lose the counts of some seconds. A file that does not parse counts as empty, because it would otherwise stop all
events for ever.

If the directory cannot be used, as on a full disk, a daemon counts in its own memory, so that the disk costs no events.
Each daemon may then send 5,000. A disk that is read-only switches telemetry off, because the config is then not
writable.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from contextlib import contextmanager
from time import sleep, time
from typing import TYPE_CHECKING

from ..core.budget import Budget
from ..host import paths, secure_files

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "sent-by-hour.json"
_MAX_BYTES = 4096  # 25 hours take less than 600
_LOCK_TRIES, _LOCK_PAUSE_S = 10, 0.001  # another daemon holds the lock for a fraction of a millisecond

_log = logging.getLogger(__name__)


class SendingBudget:
    """What this daemon knows of the events that were sent."""

    def __init__(self) -> None:
        self._known = Budget()  # also what could not be written

    def take(self) -> bool:
        """Count one event whose attempt begins now. Returns False if it may not be sent."""
        now = time()
        try:
            with _locked(paths.state_dir()) as directory:
                path = os.path.join(directory, _NAME)
                self._known = _read(path).at(now).merged(self._known.at(now))
                taken = self._known.take(now)
                if taken is not None:
                    _write(path, taken)
        except OSError as error:
            _log.warning("sent events are counted in memory: %s", os.strerror(error.errno or 0))
            taken = self._known.take(now)
        if taken is None:
            return False
        self._known = taken
        return True


@contextmanager
def _locked(directory: str) -> Iterator[str]:
    """Lock the directory. Raises BlockingIOError if another process keeps the lock."""
    secure_files.ensure_directory(directory)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _lock(fd)
        yield directory
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    for _ in range(_LOCK_TRIES):
        if _try_lock(fd):
            return
        sleep(_LOCK_PAUSE_S)
    raise BlockingIOError(errno.EWOULDBLOCK, "another process keeps the lock")


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: str) -> Budget:
    try:
        with open(secure_files.open_file(path, os.O_RDONLY), "rb") as file:
            return Budget.of_json(json.loads(file.read(_MAX_BYTES)))
    except (FileNotFoundError, ValueError, RecursionError):
        return Budget()


def _write(path: str, budget: Budget) -> None:
    new = path + ".new"
    with open(secure_files.open_file(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(json.dumps(budget.as_json()).encode())
    secure_files.replace(path, by=new)
