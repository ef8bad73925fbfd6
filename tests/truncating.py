"""Truncates a file by its name, as a script of the user does by mistake. The user may be root here, in a container."""

from __future__ import annotations

import ctypes
import subprocess
import sys

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


def _drop_roots_power() -> None:
    """Let the next program respect the modes of files, although its user is root."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)  # fails for other users, who need it not


def truncate_by_name(path: str) -> bool:
    """Truncate it in a shell of this user. Returns whether the shell could."""
    command = ["sh", "-c", ': > "$0"', path]
    ran = subprocess.run(command, stderr=subprocess.DEVNULL, check=False, preexec_fn=_drop_roots_power)
    return ran.returncode == 0
