"""The local record of every event: its exact bytes, when, and what became of it. Bounded, private, readable by anyone
who owns the file. The daemon writes; ``brakit-sidecar log`` reads.
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

# Two files of half the bound: the older one goes as a whole, so writing never rewrites.
MAX_BYTES = 4 * 1024 * 1024
_NEWER, _OLDER = "receipts.jsonl", "receipts.old.jsonl"
_KEYS = {"at", "event", "uuid", "outcome", "reason", "body"}


def write(event: QueuedEvent, verdict: Verdict) -> None:
    """Appends one receipt. Raises OSError, after which the log still holds whole lines only."""
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
        if before and os.pread(fd, 1, before - 1) != b"\n":  # half a line, from a power cut: it must not spoil this one
            data = b"\n" + data
        if os.write(fd, data) < len(data):  # the disk is full
            os.ftruncate(fd, before)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    return secure_files.open_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)


def read() -> Iterator[dict[str, Any]]:
    """Every receipt, oldest first. Raises UnsafePathError."""
    for file in _open_both():
        if file is not None:
            with file:
                yield from _whole(file)


def written() -> dict[str, str]:
    """The events that have receipts, as far as these can be read: their names by uuid."""
    return {**_written(_OLDER), **_written(_NEWER)}


def _written(name: str) -> dict[str, str]:
    try:
        file = _open_to_read(name)
        if file is None:
            return {}
        with file:
            return {one["uuid"]: one["event"] for one in _whole(file) if UUID.fullmatch(str(one["uuid"]))}
    except OSError as error:
        _log.warning("receipts cannot be read: %s", os.strerror(error.errno or 0))
        return {}


def follow() -> Iterator[dict[str, Any] | None]:
    """Every receipt, oldest first, then each new one as it comes; None where the caller has to wait for one."""
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
                is_newer = True
                while is_newer:
                    is_newer = _is_at(path, newer)  # asked before reading on: nothing more comes to the older one
                    yield from _whole(newer)
                    if is_newer:
                        yield None
        newer = _open_to_read(_NEWER)


def _open_both() -> tuple[BinaryIO | None, BinaryIO | None]:
    """The older and the newer file, before anything is read: a reader may take its time, and miss nothing meanwhile."""
    newer = _open_to_read(_NEWER)
    older = _open_to_read(_OLDER)
    if newer and older and os.path.sameopenfile(newer.fileno(), older.fileno()):  # it was renamed just now
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
    """From where it stands, without a last line that is still being written, and without what a power cut spoilt."""
    while line := file.readline():
        if not line.endswith(b"\n"):
            file.seek(-len(line), os.SEEK_CUR)
            return
        with suppress(ValueError, RecursionError):
            receipt = json.loads(line)
            if isinstance(receipt, dict) and receipt.keys() >= _KEYS:
                yield receipt
