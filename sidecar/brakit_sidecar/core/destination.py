"""Where a session's events go: endpoint and project key together.

Producers and the daemon compare destinations by their digests, so no key is sent over the socket or journaled for that.
A worker loads this file. The file therefore imports the standard library only, and runs on Python 3.9.
"""

from __future__ import annotations

from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ENDPOINT = "https://us.i.posthog.com"
NOWHERE = "none"  # the digest of every destination without a project key


class Destination:
    """An endpoint and a project key, as the environment names them."""

    __slots__ = ("endpoint", "key")

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.endpoint = environ.get("BRAKIT_TELEMETRY_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT
        self.key = environ.get("BRAKIT_TELEMETRY_KEY", "")

    @property
    def digest(self) -> str:
        """Return 16 hex digits, which are equal for equal destinations. Returns NOWHERE without a project key."""
        if not self.key:
            return NOWHERE
        named = f"{self.endpoint}\n{self.key}".encode("utf-8", "surrogateescape")
        return sha256(named).hexdigest()[:16]
