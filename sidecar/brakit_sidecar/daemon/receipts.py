"""The receipts. A receipt holds an event's exact bytes, the time, and whether it was sent or why not.

The daemon writes them; ``brakit-sidecar log`` reads them. Their size is bounded. Only the user that owns them can read
them.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, BinaryIO

from ..core.frames import UUID
from ..host import paths, secure_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..core.outbox import QueuedEvent, Verdict

_log = logging.getLogger(__name__)

# The receipts are in two files of half the bound each. The older file is dropped as a whole, so a write never rewrites
# older receipts.
MAX_BYTES = 4 * 1024 * 1024
MAX_LINE = 64 * 1024  # ten times the largest receipt
_NEWER, _OLDER = "receipts.jsonl", "receipts.old.jsonl"
_KEYS = {"at", "event", "uuid", "outcome", "reason", "body"}


def write(event: QueuedEvent, verdict: Verdict, destination: str) -> None:
    """Append one receipt. ``destination`` names, for a person, where the event may go.

    Raises OSError if it cannot be written. The files then still hold only whole lines.
    """
    directory = paths.state_dir()
    secure_files.ensure_directory(directory)
    newer = os.path.join(directory, _NEWER)
    line = json.dumps(
        {
            "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": event.name,
            "uuid": event.uuid,
            "outcome": verdict.outcome.value,
            "reason": verdict.reason.value,
            "destination": destination,
            "body": event.body.decode(),
        }
    )
    data = line.encode() + b"\n"
    fd = _open(newer)
    try:
        before = os.fstat(fd).st_size
        if before + len(data) > MAX_BYTES // 2:
            secure_files.replace(os.path.join(directory, _OLDER), by=newer)
            full, fd, before = fd, _open(newer), 0
            os.close(full)
        if before and os.pread(fd, 1, before - 1) != b"\n":  # a power cut left half a line, so begin a new line
            data = b"\n" + data
        if os.write(fd, data) < len(data):  # the disk is full
            os.ftruncate(fd, before)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    return secure_files.open_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)


def read() -> Iterator[dict[str, Any]]:
    """Yield every receipt, oldest first. Raises UnsafePathError if a path is not a file of this user."""
    for file in _open_both():
        if file is not None:
            with file:
                yield from _whole(file)


def forget() -> int:
    """Remove all receipts, and return their number. Raises UnsafePathError if a path is not a file of this user."""
    count = sum(1 for _ in read())
    for name in (_OLDER, _NEWER):
        with suppress(FileNotFoundError):
            secure_files.unlink(os.path.join(paths.state_dir(), name))
    return count


def written() -> dict[str, str]:
    """Return the names of the events that have receipts, by uuid. Skips receipts that cannot be read."""
    return {**_written(_OLDER), **_written(_NEWER)}


def _written(name: str) -> dict[str, str]:
    try:
        file = _open_to_read(name)
        if file is None:
            return {}
        with file:
            # If another program has made the file too large, only the newest receipts, because all are kept in memory.
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_BYTES // 2))
            return {found["uuid"]: found["event"] for found in _whole(file) if UUID.fullmatch(str(found["uuid"]))}
    except OSError as error:
        _log.warning("receipts cannot be read: %s", os.strerror(error.errno or 0))
        return {}


def follow() -> Iterator[dict[str, Any] | None]:
    """Yield every receipt, oldest first, then each new receipt.

    Yields None if the caller must wait for a new receipt.
    """
    path = os.path.join(paths.state_dir(), _NEWER)
    older, newer = _open_both()
    if older is not None:
        with older:
            yield from _whole(older)
    while True:
        if newer is None:
            yield None
        else:
            with newer:
                # Race: the daemon may append to the file and rename it after the comparison. That is harmless, because
                # the next comparison finds the rename, and the file is then read once more. A renamed file never grows.
                is_newer = True
                while is_newer:
                    is_newer = _is_at(path, newer)
                    yield from _whole(newer)
                    if is_newer:
                        yield None
        newer = _open_to_read(_NEWER)


def _open_both() -> tuple[BinaryIO | None, BinaryIO | None]:
    """Open both files before either is read, so that a slow reader misses nothing. Returns the older and the newer."""
    newer = _open_to_read(_NEWER)
    older = _open_to_read(_OLDER)
    if newer and older and os.path.sameopenfile(newer.fileno(), older.fileno()):  # the daemon just renamed it
        older.close()
        return None, newer
    return older, newer


def _open_to_read(name: str) -> BinaryIO | None:
    try:
        return open(secure_files.open_file(os.path.join(paths.state_dir(), name), os.O_RDONLY), "rb")
    except FileNotFoundError:
        return None


def _is_at(path: str, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _whole(file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield the receipts from the file's position on.

    Stops before a last line that is still being written. Skips a line that a power cut has spoilt, and a line that is
    too long to be a receipt.
    """
    is_rest = False  # of a line that is too long
    while line := file.readline(MAX_LINE):
        is_end = line.endswith(b"\n")
        if not is_end and len(line) < MAX_LINE:
            file.seek(-len(line), os.SEEK_CUR)
            return
        if is_end and not is_rest:
            with suppress(ValueError, RecursionError):
                receipt = json.loads(line)
                if isinstance(receipt, dict) and receipt.keys() >= _KEYS:
                    yield receipt
        is_rest = not is_end
