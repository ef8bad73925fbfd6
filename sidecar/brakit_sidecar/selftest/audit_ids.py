"""The ids of routes and marks that lie on disk while their sessions are open. An id is a text's hash.

A worker hashes a text with the session's id as key. So an id must differ from session to session, and it stays on this
machine.
"""

from __future__ import annotations

import os
import re
import uuid
from array import array
from itertools import combinations

from ..core import counter_layout

_OPAQUE_ID = re.compile(rb'"([0-9a-f]{16})"')


def ids_by_session(path: str) -> dict[str, set[bytes]]:
    """Return the ids in all journals and counter files below ``path``, by session."""
    found: dict[str, set[bytes]] = {}
    for directory, _, names in os.walk(path):
        for name in names:
            if name.endswith(".jsonl") and "journal-" in directory:
                session, ids = name.removesuffix(".jsonl"), _of_journal(_content(directory, name))
            elif name.startswith("counters-"):
                session, ids = _of_counter_file(_content(directory, name))
            else:
                continue
            found.setdefault(session, set()).update(ids)
    return {session: ids for session, ids in found.items() if ids}


def _content(directory: str, name: str) -> bytes:
    with open(os.path.join(directory, name), "rb") as file:
        return file.read()


def _of_journal(content: bytes) -> list[bytes]:
    """Return the ids in the frames of producers. Other records hold the digest of a destination, which is not one."""
    frames = [line for line in content.splitlines() if b'"frame":' in line]
    return _OPAQUE_ID.findall(b"\n".join(frames))


def _of_counter_file(content: bytes) -> tuple[str, list[bytes]]:
    cells = array("Q", content)
    session = uuid.UUID(bytes=content[counter_layout.ID * counter_layout.CELL :][:16])
    rows = cells[counter_layout.row_cell(1) :: counter_layout.ROW]  # row 0 has none
    return str(session), [b"%016x" % opaque_id for opaque_id in rows if opaque_id]


def shared(ids: dict[str, set[bytes]]) -> int:
    """Return the number of ids that two sessions have in common. Their key is then not the session's id."""
    return len({opaque_id for one, other in combinations(ids.values(), 2) for opaque_id in one & other})
