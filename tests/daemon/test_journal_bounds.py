"""The journals that a daemon reads at its start are bounded, because it keeps their records in memory."""

from __future__ import annotations

import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.daemon.consent_gate import ConsentGate
from brakit_sidecar.daemon.journal import MAX_READ_BYTES, Journal

from tests.harness import new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ANONYMOUS_ID = new_id()


@pytest.fixture
def open_journal(tmp_path: Path) -> Callable[[], Journal]:
    """Return a function that opens the directory's journal as the next daemon does."""
    (tmp_path / ".brakit").mkdir(mode=0o700)
    (tmp_path / ".brakit" / "config.json").write_text(f'{{"telemetry": true, "anonymousId": "{ANONYMOUS_ID}"}}')

    def opened() -> Journal:
        consent = ConsentGate({"HOME": str(tmp_path)})
        consent.allows()
        return Journal(str(tmp_path / "state" / "journal"), consent)

    return opened


def written(journal: Journal, size: int = 0) -> str:
    """Write the journal of a session, of that size. Returns the session's id."""
    session = new_id()
    journal.append(session, [{"occurred": "x" * size}])
    return session


def path_of(journal: Journal, session: str) -> str:
    return os.path.join(journal.directory, f"{session}.jsonl")


def sessions(found: Iterator[tuple[str, list[dict[str, Any]]]]) -> set[str]:
    return {session for session, _records in found}


def test_a_journal_that_is_too_large_is_removed_and_the_others_are_read(open_journal: Callable[[], Journal]) -> None:
    dead = open_journal()
    good, large = written(dead), written(dead)
    os.truncate(path_of(dead, large), 64 * MAX_READ_BYTES)  # sparse, so it takes no disk
    tracemalloc.start()
    found = open_journal().left_behind()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sessions(found) == {good}
    assert os.listdir(dead.directory) == [f"{good}.jsonl"]
    assert peak < 4 * MAX_READ_BYTES


def test_a_journal_that_is_too_large_still_tells_that_it_is_of_another_anonymous_id(
    open_journal: Callable[[], Journal],
) -> None:
    dead = open_journal()
    large = written(dead)
    with open(path_of(dead, large), "r+b") as file:
        content = file.read().replace(ANONYMOUS_ID.encode(), new_id().encode())
        file.seek(0)
        file.write(content)
        file.truncate(2 * MAX_READ_BYTES)
    journal = open_journal()
    assert list(journal.left_behind()) == []
    assert journal.found_foreign_id
