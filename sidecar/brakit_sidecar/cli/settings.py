"""Compares the settings of this command's environment with those of the running daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..core.destination import Destination
from .terminal import complain

if TYPE_CHECKING:
    from ..host.launch import Running


def warn_of_others(daemon: Running) -> None:
    """Say on stderr that the daemon has another destination, so that sessions of this environment stay here."""
    own = Destination(os.environ)
    other = daemon.destination
    if other is None or own.digest == other["digest"]:
        return
    from ..core.endpoint import describe  # noqa: PLC0415 (a tenth of the start of `run`, which seldom needs it)

    complain(
        f"the running daemon has other settings (destination {other['name']}; here {describe(own)}), "
        "so events stay on this machine; `brakit-sidecar stop` ends that daemon"
    )
