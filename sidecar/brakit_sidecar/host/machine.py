"""What an event says of the machine: platform and architecture, cut to the schema's values by their domains."""

from __future__ import annotations

import platform
import sys

from ..core.schema import SESSION_FIELDS

_NODE_SPELLING = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "i386": "ia32", "i686": "ia32"}


def facts() -> dict[str, str]:
    machine = platform.machine().lower()
    arch = _NODE_SPELLING.get(machine, "arm" if machine.startswith("armv") else machine)
    return {
        "os": SESSION_FIELDS["os"].domain.admit(f"{sys.platform}-{platform.release()}"),
        "arch": SESSION_FIELDS["arch"].domain.admit(arch),
    }
