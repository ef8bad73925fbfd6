"""The journal. If the daemon dies, the next daemon continues its sessions and events from these records.

Each session has a file with one record per line. The file is removed when the session is sealed and its events have
their receipts. One append is one write. A daemon that is killed therefore leaves whole lines, except perhaps for the
last line. On a full or read-only disk, only the journal is lost. ``core.session.records`` describes the records.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from ..host import secure_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..core.outbox import QueuedEvent
    from .consent_gate import ConsentGate

    Record = dict[str, Any]

VERSION = 2  # 1 had no terms
COMPACT_BYTES = 1024 * 1024  # appended since the last rewriting; thousands of changes, or hours of snapshots
# Of one file. A worker with twenty routes and twenty marks takes 1.4 KiB of a journal, and a worker with a full counter
# file 45 KiB. Parsed records take seven times as much memory, so 110 MiB.
MAX_READ_BYTES = 16 * 1024 * 1024
_EVENTS = "events"  # the file of the events that belong to no session
_SUFFIX = ".jsonl"
_NEW = ".new"  # the suffix of a replacement that is being written

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Journal:
    """The records of each session, and the events that wait for their receipts."""

    directory: str
    consent: ConsentGate  # gives the anonymous id; events journaled under another id must not be sent
    found_foreign_id: bool = False  # an earlier daemon counted under an id that has been replaced
    _sizes: dict[str, int] = field(default_factory=dict)  # by session: the bytes appended since the last rewriting
    _unsettled: dict[str, dict[str, QueuedEvent]] = field(
        default_factory=dict
    )  # events without a receipt, by session and uuid
    _first_lines: dict[str, Record] = field(default_factory=dict)  # by session; names its anonymous id
    _sealed: set[str] = field(default_factory=set)  # sessions whose files are kept only for their events
    _unsynced: set[str] = field(default_factory=set)
    _has_directory: bool = (
        False  # True if the directory exists and is private; a link or a foreign directory is not touched
    )

    # --- writing ---------------------------------------------------------------------------------------------------

    def append(self, session: str, records: Iterable[Record]) -> bool:
        """Append records. Returns True if the file has grown so much that it should be rewritten."""
        lines = list(records)
        if session not in self._sizes:
            self._sizes[session] = 0
            lines.insert(0, self._first_line(session))
        data = b"".join([orjson.dumps(line) + b"\n" for line in lines])
        self._sizes[session] += len(data)
        self._write(self._path(session), os.O_APPEND, data)
        self._unsynced.add(session)
        return self._sizes[session] > COMPACT_BYTES

    def rewrite(self, session: str, whole: Iterable[Record]) -> None:
        """Replace the whole file atomically. Events without a receipt are kept."""
        events = map(_frozen, self._unsettled.get(session, {}).values())
        data = b"".join([orjson.dumps(line) + b"\n" for line in (self._first_line(session), *whole, *events)])
        path = self._path(session)
        if self._write(path + _NEW, os.O_TRUNC, data):
            with suppress(OSError):  # the longer file stays
                secure_files.replace(path, by=path + _NEW)
        self._sizes[session] = 0
        self._unsynced.add(session)

    def freeze(self, event: QueuedEvent) -> None:
        """Record an event before the first attempt, so that every daemon sends the same bytes."""
        session = event.session or _EVENTS
        self._unsettled.setdefault(session, {})[event.uuid] = event
        self.append(session, [_frozen(event)])

    def settle(self, event: QueuedEvent) -> None:
        """Note that the event has its receipt, so that no daemon sends it again."""
        session = event.session or _EVENTS
        self._unsettled.get(session, {}).pop(event.uuid, None)
        if not self._remove_if_done(session):
            self.append(session, [{"settled": event.uuid}])

    def seal(self, session: str) -> None:
        """Note that the session is over and its event is frozen."""
        self._sealed.add(session)
        self._remove_if_done(session)

    def take_unsynced(self) -> list[str]:
        """Return the paths that were written since the last call, for ``sync``."""
        if not self._unsynced:
            return []
        paths = [*map(self._path, self._unsynced), self.directory]
        self._unsynced.clear()
        return paths

    # --- reading ---------------------------------------------------------------------------------------------------

    def left_behind(self) -> Iterator[tuple[str, list[Record]]]:
        """Yield the records that an earlier daemon wrote, by session and in the order of writing.

        Only one file is in memory at a time. A file that cannot be read now is left for a later daemon. A file that is
        larger than MAX_READ_BYTES, or is of another version or another anonymous id, is removed. A replacement that was
        not finished is also removed.
        """
        names = sorted(_names_in(self.directory))
        self._has_directory = bool(names)
        for name in names:
            path, session = os.path.join(self.directory, name), name.removesuffix(_SUFFIX)
            try:
                records = _read(path) if name.endswith(_SUFFIX) else []
            except OSError as error:
                _log.warning("a journal cannot be read: %s", os.strerror(error.errno or 0))
                continue
            first = _first_line(session, self.consent.last_anonymous_id)
            if records[1:] and records[0] == first:
                self._sizes[session] = 0
                yield session, records[1:]
                continue
            self.found_foreign_id |= bool(records) and records[0].get("for") != first["for"]
            if name.endswith(_SUFFIX):
                _log.warning("a journal of another version or anonymous id, or without a record, is removed")
            with suppress(OSError):
                secure_files.unlink(path)
        _remove_if_empty(self.directory)

    # --- its files -------------------------------------------------------------------------------------------------

    def _remove_if_done(self, session: str) -> bool:
        if (session != _EVENTS and session not in self._sealed) or self._unsettled.get(session):
            return False
        self._sizes.pop(session, None)
        self._unsettled.pop(session, None)
        self._first_lines.pop(session, None)
        self._unsynced.discard(session)
        self._sealed.discard(session)
        if self._has_directory:
            with suppress(OSError):
                secure_files.unlink(self._path(session))
            _remove_if_empty(self.directory)
        return True

    def _write(self, path: str, flag: int, data: bytes) -> bool:
        try:
            fd = self._open(path, os.O_WRONLY | os.O_CREAT | flag)
            try:
                written = os.write(fd, data)
                if written < len(data):  # the disk is full, and half a line would spoil the next line
                    os.ftruncate(fd, os.fstat(fd).st_size - written)
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("the journal cannot be written: %s", os.strerror(error.errno or 0))
            return False
        return written == len(data)

    def _open(self, path: str, flags: int) -> int:
        if self._has_directory:
            with suppress(FileNotFoundError):
                return secure_files.open_file(path, flags)
        # This is the first line, or the first line since the directory was removed.
        self._has_directory = False
        secure_files.ensure_directory(os.path.dirname(self.directory))
        secure_files.ensure_directory(self.directory)
        self._has_directory = True
        return secure_files.open_file(path, flags)

    def _path(self, session: str) -> str:
        return os.path.join(self.directory, session + _SUFFIX)

    def _first_line(self, session: str) -> Record:
        if session not in self._first_lines:
            self._first_lines[session] = _first_line(session, self.consent.last_anonymous_id)
        return self._first_lines[session]


def sync(paths: Iterable[str]) -> None:
    """Sync these files to the disk. It runs in a thread, because a slow disk blocks it."""
    for path in paths:
        with suppress(OSError):  # the file was removed meanwhile, or the disk cannot sync
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def discard(directory: str) -> int:
    """Remove the journal of a daemon that does not run. Returns the number of its files, one for each session."""
    names = _names_in(directory)
    with suppress(OSError):
        for name in names:
            secure_files.unlink(os.path.join(directory, name))
        os.rmdir(directory)
    return len(names)


def _first_line(session: str, anonymous_id: str | None) -> Record:
    return {"journal": VERSION, "of": session, "for": anonymous_id}


def _frozen(event: QueuedEvent) -> Record:
    return {"frozen": [event.name, event.uuid, event.distinct_id, event.body.decode(), event.destination, event.stamp]}


def _names_in(directory: str) -> list[str]:
    """Return the names of the journal's files, including unfinished replacements. Other files are ignored."""
    try:
        secure_files.check_directory(directory)
        names = secure_files.names_in(directory)
    except OSError:
        return []
    return [
        name
        for name in names
        if name.removesuffix(_NEW).endswith(_SUFFIX) and secure_files.is_own_file(os.path.join(directory, name))
    ]


def _remove_if_empty(directory: str) -> None:
    with suppress(OSError):  # the directory holds files or is not ours
        secure_files.check_directory(directory)
        os.rmdir(directory)


def _read(path: str) -> list[Record]:
    """Return the records of a file. Raises OSError if it cannot be read.

    Returns only the first record of a file that is too large. It may name another anonymous id.
    """
    with open(secure_files.open_file(path, os.O_RDONLY), "rb") as file:
        data = file.read(MAX_READ_BYTES + 1)
    if len(data) > MAX_READ_BYTES:
        _log.warning("a journal is larger than %d bytes", MAX_READ_BYTES)
        data = data.partition(b"\n")[0]
    return [record for record in map(_parsed, data.split(b"\n")) if record is not None]


def _parsed(line: bytes) -> Record | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:  # a daemon died while it wrote this line
        return None
    return record if isinstance(record, dict) else None
