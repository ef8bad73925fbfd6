"""The daemon that a producer reports to, the session that it counts for, and the consent under which it counts."""

from __future__ import annotations

from hashlib import blake2b

from ..core import counter_layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_HASHES = 4096  # texts remembered with their opaque id; bounds the memory of a worker that marks new texts for ever


class Place:
    """A daemon's socket and a session there. Knows the key under which the session's texts are hashed."""

    __slots__ = ("_opaque_ids", "anonymous_id_cell", "key", "may_report", "membership", "socket_path")

    def __init__(
        self,
        socket_path: str,
        membership: dict[str, str],
        key: bytes,
        may_report: Callable[[], bool | None] = lambda: True,
        anonymous_id: str | None = None,
    ) -> None:
        """Describe a place.

        ``membership`` is the part of the hello that names the session or the process group. ``key`` is the same id as
        16 bytes. ``may_report`` returns whether a daemon may still be given what is counted here, and None while that
        cannot be known. ``anonymous_id`` is the id under which this producer counts.
        """
        self.socket_path = socket_path
        self.membership = membership
        self.key = key
        self.may_report = may_report
        self.anonymous_id_cell = counter_layout.anonymous_id_cell(anonymous_id)
        self._opaque_ids: dict[str, str] = {}

    @property
    def kind(self) -> int:
        """Return what ``key`` is the id of, in the counter file's terms: OF_SESSION or OF_GROUP."""
        return counter_layout.OF_SESSION if "session" in self.membership else counter_layout.OF_GROUP

    def opaque(self, text: str) -> str:
        """Return the text's opaque id: 16 hex digits, hashed with the session as key.

        The same text has different ids in different sessions.
        """
        known = self._opaque_ids.get(text)
        if known is None:
            known = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=self.key).hexdigest()
            if len(self._opaque_ids) < _MAX_HASHES:
                self._opaque_ids[text] = known
        return known
