"""The effects of a stimulus. The daemon carries them out in the order of the list.

An effect names sessions and workers by their ids. It therefore stays valid even if the session is closed first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..outbox import Reason
    from ..schema import EventSpec
    from .terms import Terms


class Journal(NamedTuple):
    """Append these records to the session's journal."""

    session_id: str
    records: list[dict[str, Any]]


class Emit(NamedTuple):
    """Make this event and queue it.

    The event is sent only if ``terms`` still hold and ``kept_local`` is None. ``workers`` is the number of workers that
    have joined the session so far. A session event without workers is not sent.
    """

    session_id: str
    event: EventSpec
    values: Mapping[str, Any]
    terms: Terms
    kept_local: Reason | None = None
    workers: int = 0


class WatchOwner(NamedTuple):
    """Watch for the exit of the process that owns the session."""

    session_id: str
    pid: int


class WatchWorker(NamedTuple):
    """Watch for the exit of a worker's process, by polling if descriptors are short."""

    session_id: str
    producer: str
    pid: int
    are_descriptors_short: bool = False


class UnwatchWorker(NamedTuple):
    """Stop watching a worker's process, because the worker is connected again."""

    session_id: str
    producer: str


class Release(NamedTuple):
    """Retire a worker's counter file, because it counts for no session any more."""

    session_id: str
    producer: str


class Close(NamedTuple):
    """Remove the journal, the counter files and the watches of a session that is over."""

    session_id: str


Effect = Journal | Emit | WatchOwner | WatchWorker | UnwatchWorker | Release | Close
