"""The decision about consent, in words for a person."""

from __future__ import annotations

from ..host import consent


def in_words(decision: consent.Consent) -> str:
    """Return the decision as a clause, for example "telemetry is off here: NODE_ENV=production".

    The word "here" shows that the environment of this process decided, and not the user's config.
    """
    if decision.on:
        return f"telemetry is on: {decision.why}"
    return f"telemetry is {'off' if decision.by == consent.CONFIG else 'off here'}: {decision.why}"
