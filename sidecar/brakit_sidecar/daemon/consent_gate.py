"""The daemon's consent: whether telemetry is on now, under which anonymous id, and as of which config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.counter_layout import NO_CONFIG
from ..host import config_file, consent

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping


@dataclass(eq=False)
class ConsentGate:
    """Reads the config at every call, because any program may change it."""

    environ: MutableMapping[str, str]
    last_anonymous_id: str | None = None  # as of the last call that could read the config
    last_stamp: int = NO_CONFIG  # the config's stamp, as of the same call
    _when_readable: Callable[[bool], None] | None = None

    def when_readable(self, call: Callable[[bool], None]) -> None:
        """Call ``call(is_on)`` once, as soon as the config can be read. ``is_on`` is True if telemetry is on."""
        self._when_readable = call
        self.allows()

    def allows(self) -> bool | None:
        """Return True if telemetry is on. Returns None if the config cannot be read now, so that clients try again."""
        decision = self._note(consent.current(self.environ))
        if decision.unreadable:
            return None
        if self._when_readable is not None:
            call, self._when_readable = self._when_readable, None
            call(decision.on)
        return decision.on

    def allows_id(self, anonymous_id: str | None) -> bool:
        """Return True if an event of this anonymous id may be sent now.

        A withdrawal of consent replaces the id, and nothing is sent under an old id.
        """
        decision = self._note(consent.current(self.environ))
        return decision.on and anonymous_id is not None and decision.anonymous_id == anonymous_id

    def allows_event(self, anonymous_id: str | None) -> bool:
        """Return True if an event of this anonymous id may be made. Writes an opt-out by environment to the config."""
        decision = self._note(config_file.settled(self.environ))
        return decision.on and anonymous_id is not None and decision.anonymous_id == anonymous_id

    def settled_id(self) -> str | None:
        """Return the anonymous id for an event without a session. Returns None if telemetry is off."""
        decision = self._note(config_file.settled(self.environ))
        return decision.anonymous_id if decision.on else None

    def has_stood_since(self, stamp: int) -> bool:
        """Return True if the config has not changed since it had that stamp.

        If it has changed, it may have said no meanwhile. A process that found no config has counted
        under the same consent if this package has made the config from nothing, and nothing has changed it since.
        """
        return stamp == self.last_stamp or (stamp == NO_CONFIG and config_file.was_missing_until(self.last_stamp))

    def status(self) -> dict[str, object]:
        """Return the decision and its reason, for ``status``."""
        self.allows()  # the config may have become readable
        decision = consent.current(self.environ)
        return {"on": decision.on, "why": decision.why}

    def _note(self, decision: consent.Consent) -> consent.Consent:
        if decision.on or not decision.unreadable:
            self.last_anonymous_id = decision.anonymous_id or self.last_anonymous_id
            self.last_stamp = decision.stamp
        return decision
