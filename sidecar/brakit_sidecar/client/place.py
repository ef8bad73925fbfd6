"""The daemon that a producer reports to, the session that it counts for, and the terms under which it counts."""

from __future__ import annotations

from hashlib import blake2b

from ..core import counter_layout

_MAX_HASHES = 4096  # texts remembered with their opaque id; bounds the memory of a worker that marks new texts for ever


class Place:
    """A daemon's socket and a session there. Knows the key under which the session's texts are hashed."""

    __slots__ = ("_opaque_ids", "anonymous_id", "destination", "key", "membership", "socket_path", "stamp")

    def __init__(
        self,
        socket_path: str,
        membership: dict[str, str],
        key: bytes,
        *,
        destination: str,
        stamp: int,
        anonymous_id: str | None = None,
    ) -> None:
        """Describe a place.

        ``membership`` is the part of the hello that names the session or the process group. ``key`` is the same id as
        16 bytes. ``destination`` is the digest of the environment's destination. ``anonymous_id`` is the id under which
        this process counts. ``stamp`` is the config's. The daemon compares it with the stamp at that time, so this
        process need not read the config again: a home directory that does not answer would stall a request.
        """
        self.socket_path = socket_path
        self.membership = membership
        self.key = key
        self.destination = destination
        self.stamp = stamp
        self.anonymous_id = anonymous_id
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
