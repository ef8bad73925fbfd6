"""The local record of every event: its exact bytes, when, and what became of it. Bounded, private, readable by anyone
who owns the file. The daemon writes; ``brakit-sidecar log`` reads.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from sidecar.host import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.core.outbox import Event, Verdict

# Two files of half the bound: the older one goes as a whole, so writing never rewrites.
MAX_BYTES = 4 * 1024 * 1024
_NEWER, _OLDER = "receipts.jsonl", "receipts.old.jsonl"


def write(event: Event, verdict: Verdict) -> None:
    """Appends one receipt. Raises OSError, after which the log still holds whole lines only."""
    directory = paths.state_dir()
    paths.ensure_private(directory)
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
    fd = os.open(newer, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(fd).st_size
        data = line.encode() + b"\n"
        if os.write(fd, data) < len(data):  # the disk is full
            os.ftruncate(fd, before)
            return
        if before + len(data) > MAX_BYTES // 2:
            os.rename(newer, os.path.join(directory, _OLDER))
    finally:
        os.close(fd)


def read() -> Iterator[dict[str, Any]]:
    """Every receipt, oldest first."""
    directory = paths.state_dir()
    for name in (_OLDER, _NEWER):
        with suppress(FileNotFoundError), open(os.path.join(directory, name), encoding="utf-8") as file:
            yield from map(json.loads, file)


def follow() -> Iterator[dict[str, Any] | None]:
    """Every receipt, oldest first, then each new one as it comes; None where the caller has to wait for one."""
    yield from read()
    path = os.path.join(paths.state_dir(), _NEWER)
    position, inode = _end_of(path)
    while True:
        size, now_inode = _end_of(path)
        if now_inode != inode:  # the newer one became the older one
            position, inode = 0, now_inode
        if size <= position:
            yield None
            continue
        with open(path, encoding="utf-8") as file:
            file.seek(position)
            for line in file.read(size - position).splitlines():
                yield json.loads(line)
        position = size


def _end_of(path: str) -> tuple[int, int]:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return info.st_size, info.st_ino
