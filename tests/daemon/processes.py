"""Facts that the system reports about a process."""

from __future__ import annotations

import sys


def peak_kib(pid: int) -> int:
    """Return the peak memory of a process in KiB, or 0 if the system does not report it."""
    if sys.platform != "linux":
        return 0
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
