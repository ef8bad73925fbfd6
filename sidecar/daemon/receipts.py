"""The local record of every event: its exact bytes, when, and what became of it. Bounded, private, readable by anyone
who owns the file. The daemon writes; ``brakit-sidecar log`` reads.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO

from sidecar.host import paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    data = line.encode() + b"\n"
    fd = _open(newer)
    try:
        before = os.fstat(fd).st_size
        if before + len(data) > MAX_BYTES // 2:
            os.rename(newer, os.path.join(directory, _OLDER))
            os.close(fd)
            fd, before = _open(newer), 0
        if os.write(fd, data) < len(data):  # the disk is full
            os.ftruncate(fd, before)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def read() -> Iterator[dict[str, Any]]:
    """Every receipt, oldest first."""
    directory = paths.state_dir()
    for name in (_OLDER, _NEWER):
        with suppress(FileNotFoundError), open(os.path.join(directory, name), encoding="utf-8") as file:
            yield from _whole(file)


def written() -> dict[str, str]:
    """The events that have receipts: their names by uuid."""
    return {receipt["uuid"]: receipt["event"] for receipt in read()}


def follow() -> Iterator[dict[str, Any] | None]:
    """Every receipt, oldest first, then each new one as it comes; None where the caller has to wait for one."""
    older, newer = (os.path.join(paths.state_dir(), name) for name in (_OLDER, _NEWER))
    with suppress(FileNotFoundError), open(older, encoding="utf-8") as file:
        yield from _whole(file)
    while True:
        with suppress(FileNotFoundError), open(newer, encoding="utf-8") as file:
            is_newer = True
            while is_newer:
                is_newer = _is_at(newer, file)  # asked before reading on: nothing more comes to the older one
                yield from _whole(iter(file.readline, ""))
                if is_newer:
                    yield None
            continue
        yield None


def _is_at(path: str, file: TextIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _whole(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Without the half line that a power cut may leave behind."""
    for line in lines:
        with suppress(ValueError):
            yield json.loads(line)
