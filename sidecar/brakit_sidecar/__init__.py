"""brakit's telemetry sidecar: count in any number of worker processes, and one daemon reports the session.

>>> import brakit_sidecar
>>> t = brakit_sidecar.connect()
>>> requests = t.counter("request_count")
>>> requests.inc()
"""

from __future__ import annotations

import os

from .client.telemetry import Counter, Telemetry
from .core.version import __version__
from .host.debug import debug

__all__ = ["Counter", "Telemetry", "__version__", "connect"]


def connect(sdk: str = "python", *, start: bool = False) -> Telemetry:
    """Return this process as a producer of its session. Returns a stand-in that does nothing if telemetry is off.

    Never raises and never blocks. ``start`` starts a daemon if none runs, without waiting for it.
    """
    try:
        from .client import joining  # noqa: PLC0415 (an application that only imports this package loads nothing)

        return joining.join(os.environ, sdk, start=start)
    except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
        debug("telemetry does not work here", error)
        return Telemetry()
