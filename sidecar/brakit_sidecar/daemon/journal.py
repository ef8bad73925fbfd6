"""What the next daemon needs to know of this one's sessions and events, should this one die: a file for each session,
to which lines are appended, and which goes when the session is sealed and its events have their receipts.

One append is one write, so a daemon that is killed leaves whole lines, or at worst a last one that is none and is
skipped. Only ``records`` knows what the lines say. A full or read-only disk costs the journal, nothing else.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from ..host import secure_files
from ..host.debug import debug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..core.outbox import QueuedEvent

    Record = dict[str, Any]

VERSION = 1
COMPACT_BYTES = 1024 * 1024  # bytes since the last rewriting: thousands of changes, or hours of snapshots
_EVENTS = "events"  # the file of those that belong to no session
_SUFFIX = ".jsonl"
_NEW = ".new"  # behind it while the file is being rewritten


class Journal:
    def __init__(self, directory: str, whose: Callable[[], str | None]) -> None:
        """``whose``: the anonymous id as of now. What was kept under another one is nobody's any more."""
        self._directory = directory
        self._whose = whose
        self._sizes: dict[str, int] = {}  # by session: what was appended since it was last rewritten
        self._unsettled: dict[str, dict[str, QueuedEvent]] = {}  # by session and uuid: frozen, and without a receipt
        self._first_lines: dict[str, Record] = {}  # with the id under which each began, whatever it is by now
        self._sealed = {_EVENTS}  # what is only kept for the sake of its events
        self._unsynced: set[str] = set()
        self._has_directory = False  # a real one, and ours: what it leads to otherwise is left alone
        self.found_anothers = False  # a daemon before this one counted under an id that is no more

    # --- what is written -------------------------------------------------------------------------------------------

    def append(self, session: str, news: Iterable[Record]) -> bool:
        """Whether the file has grown so much that it should be rewritten."""
        lines = list(news)
        if session not in self._sizes:
            self._sizes[session] = 0
            lines.insert(0, self._first_lines.setdefault(session, self._first_line(session)))
        data = _encoded(lines)
        self._sizes[session] += len(data)
        self._write(self._path(session), os.O_APPEND, data)
        self._unsynced.add(session)
        return self._sizes[session] > COMPACT_BYTES

    def rewrite(self, session: str, whole: Iterable[Record]) -> None:
        """In place of all that was appended, at once or not at all. Events that wait are kept."""
        events = map(_frozen, self._unsettled.get(session, {}).values())
        path = self._path(session)
        first = self._first_lines.setdefault(session, self._first_line(session))
        if self._write(path + _NEW, os.O_TRUNC, _encoded([first, *whole, *events])):
            with suppress(OSError):  # then the longer one stays
                secure_files.replace(path, by=path + _NEW)
        self._sizes[session] = 0
        self._unsynced.add(session)

    def freeze(self, event: QueuedEvent) -> None:
        """An event is about to be sent: whoever sends it sends these bytes."""
        session = event.session or _EVENTS
        self._unsettled.setdefault(session, {})[event.uuid] = event
        self.append(session, [_frozen(event)])

    def settle(self, event: QueuedEvent) -> None:
        """It has its receipt, and is nobody's to send any more."""
        session = event.session or _EVENTS
        self._unsettled.get(session, {}).pop(event.uuid, None)
        if not self._forget_if_done(session):
            self.append(session, [{"settled": event.uuid}])

    def seal(self, session: str) -> None:
        """The session is over, and its event frozen."""
        self._sealed.add(session)
        self._forget_if_done(session)

    def take_unsynced(self) -> list[str]:
        """What the disk may not have yet, for ``sync``, which needs nothing else of what the loop goes on to change."""
        if not self._unsynced:
            return []
        unsynced = [*map(self._path, self._unsynced), self._directory]
        self._unsynced.clear()
        return unsynced

    # --- what is read ----------------------------------------------------------------------------------------------

    def left_behind(self) -> list[tuple[str, list[Record]]]:
        """What a daemon before this one wrote, by session, each in the order in which it was written."""
        found = []
        names = sorted(_names_in(self._directory))
        self._has_directory = bool(names)
        for name in names:
            try:
                records = self._read(name) if name.endswith(_SUFFIX) else []
            except OSError as error:  # left for a daemon that can: this one may be out of descriptors
                debug("a journal cannot be read", error)
                continue
            if records:
                found.append((name.removesuffix(_SUFFIX), records))
            else:  # of another version, of another id, or a rewriting that was broken off
                with suppress(OSError):
                    os.unlink(os.path.join(self._directory, name))
        self._sizes = dict.fromkeys((session for session, _ in found), 0)
        self._remove_if_empty()
        return found

    def _read(self, name: str) -> list[Record]:
        """Raises OSError."""
        with open(secure_files.open_file(os.path.join(self._directory, name), os.O_RDONLY), "rb") as file:
            records = [record for record in map(_parsed, file) if record is not None]
        first = self._first_line(name.removesuffix(_SUFFIX))
        if records[:1] == [first]:
            return records[1:]
        self.found_anothers |= bool(records) and records[0].get("for") != first["for"]
        return []

    # --- its files -------------------------------------------------------------------------------------------------

    def _forget_if_done(self, session: str) -> bool:
        if session not in self._sealed or self._unsettled.get(session):
            return False
        self._sizes.pop(session, None)
        self._unsettled.pop(session, None)
        self._first_lines.pop(session, None)
        self._unsynced.discard(session)
        if session != _EVENTS:
            self._sealed.discard(session)
        if self._has_directory:
            with suppress(OSError):
                if secure_files.is_own_file(self._path(session)):
                    os.unlink(self._path(session))
            self._remove_if_empty()
        return True

    def _remove_if_empty(self) -> None:
        with suppress(OSError):  # others are in it, or it is not ours
            secure_files.check_directory(self._directory)
            os.rmdir(self._directory)

    def _write(self, path: str, flag: int, data: bytes) -> bool:
        try:
            fd = self._open(path, os.O_WRONLY | os.O_CREAT | flag)
            try:
                written = os.write(fd, data)
                if written < len(data):  # the disk is full: half a line would spoil the next one
                    os.ftruncate(fd, os.fstat(fd).st_size - written)
            finally:
                os.close(fd)
        except OSError as error:
            debug("no journal", error)
            return False
        return written == len(data)

    def _open(self, path: str, flags: int) -> int:
        if self._has_directory:
            with suppress(FileNotFoundError):
                return secure_files.open_file(path, flags)
        # The first line, or the first one since the last session.
        self._has_directory = False
        secure_files.ensure_directory(os.path.dirname(self._directory))
        secure_files.ensure_directory(self._directory)
        self._has_directory = True
        return secure_files.open_file(path, flags)

    def _path(self, session: str) -> str:
        return os.path.join(self._directory, session + _SUFFIX)

    def _first_line(self, session: str) -> Record:
        return {"journal": VERSION, "of": session, "for": self._whose()}


def sync(unsynced: Iterable[str]) -> None:
    """Has the disk keep what was written there until now. Blocks, for as long as the disk likes: for a thread."""
    for path in unsynced:
        with suppress(OSError):  # gone meanwhile, or a disk that cannot
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def discard(directory: str) -> None:
    """Removes the journal of a daemon that does not run."""
    with suppress(OSError):
        for name in _names_in(directory):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


def _names_in(directory: str) -> list[str]:
    """Of the files that a daemon of ours wrote there, whole or not; whatever else is there is left as it is."""
    try:
        secure_files.check_directory(directory)
        names = os.listdir(directory)
    except OSError:
        return []
    written = (name for name in names if name.removesuffix(_NEW).endswith(_SUFFIX))
    return [name for name in written if secure_files.is_own_file(os.path.join(directory, name))]


def _encoded(records: Iterable[Record]) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def _frozen(event: QueuedEvent) -> Record:
    return {"frozen": [event.name, event.uuid, event.distinct_id, event.body.decode()]}


def _parsed(line: bytes) -> Record | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:  # of a daemon that died while it wrote
        return None
    return record if isinstance(record, dict) else None
