"""The consent, as each command that could report something asks for it. The command says on stderr what goes wrong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..host import config_file, consent
from .terminal import complain

if TYPE_CHECKING:
    from ..host.consent import Consent

_NO_EFFECT = "is not understood and has no effect; to opt out, set it to false"


def decided() -> Consent:
    """Return the decision, after writing it to the config. Says once if an opt-out is not kept, or not understood."""
    written = config_file.decide_and_write(os.environ)
    decision = written.decision
    if not decision.dormant and not consent.is_understood(os.environ):
        complain(f"BRAKIT_TELEMETRY={os.environ['BRAKIT_TELEMETRY']} {_NO_EFFECT}")
    if decision.by_environment and written.problem is not None:
        complain(f"telemetry is off here, but the opt-out was not written: the config {written.problem}")
    return decision
