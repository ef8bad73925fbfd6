"""The platform and the architecture, as an event reports them. The domains of the schema limit both to known values."""

from __future__ import annotations

import platform
import sys

from ..core.schema import SESSION_FIELDS

_NODE_SPELLING = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "i386": "ia32", "i686": "ia32"}


def facts() -> dict[str, str]:
    """Return the values of the fields ``os`` and ``arch``, spelled as Node spells them."""
    machine = platform.machine().lower()
    arch = _NODE_SPELLING.get(machine, "arm" if machine.startswith("armv") else machine)
    return {
        "os": SESSION_FIELDS["os"].domain.admit(f"{sys.platform}-{platform.release()}"),
        "arch": SESSION_FIELDS["arch"].domain.admit(arch),
    }
