"""The daemon's consent: whether telemetry is on now, under which anonymous id, and as of which config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.counter_layout import NOT_BELIEVED
from ..host import config_file, consent

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from ..core.session.terms import Terms


@dataclass(eq=False)
class ConsentGate:
    """Reads the config at every call, because any program may change it."""

    environ: MutableMapping[str, str]
    last_anonymous_id: str | None = None  # as of the last call that could read the config
    last_stamp: int = NOT_BELIEVED  # the config's stamp, as of the last call that could find it out
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

    def allows_sending(self, anonymous_id: str, stamp: int) -> bool | None:
        """Return True if an event that was made under this id and stamp may be sent now.

        Returns False if it has to stay on this machine, because the config has changed, and None if it is dropped.
        """
        return self.has_stood_since(stamp) if self.allows_id(anonymous_id) else None

    def allows_event(self, terms: Terms) -> bool | None:
        """Return True if an event of a session with these terms may be sent, as far as the config is concerned.

        Returns False if it may be made, but has to stay on this machine, because the config has changed. Returns None
        if it may not be made. Writes an opt-out by environment to the config.
        """
        decision = self._note(config_file.decided(self.environ))
        if not decision.on or terms.anonymous_id is None or decision.anonymous_id != terms.anonymous_id:
            return None
        return self.has_stood_since(terms.stamp)

    def current_id(self) -> str | None:
        """Return the anonymous id for an event without a session. Returns None if telemetry is off."""
        decision = self._note(config_file.decided(self.environ))
        return decision.anonymous_id if decision.on else None

    def has_stood_since(self, stamp: int) -> bool:
        """Return True if the config has not changed since it had that stamp.

        If it has changed, it may have said no meanwhile, unless this package has made the change and kept the consent.
        """
        if NOT_BELIEVED in (stamp, self.last_stamp):
            return False
        return stamp == self.last_stamp or config_file.is_continued(self.environ, stamp, self.last_stamp)

    def status(self) -> dict[str, object]:
        """Return the decision and its reason, for ``status``."""
        self.allows()  # the config may have become readable
        decision = consent.current(self.environ)
        return {"on": decision.on, "why": decision.why}

    def _note(self, decision: consent.Consent) -> consent.Consent:
        if decision.on or not decision.unreadable:
            self.last_anonymous_id = decision.anonymous_id or self.last_anonymous_id
        if decision.stamp is not None:
            self.last_stamp = decision.stamp
        return decision
