"""The modules that the daemon loads before a client can connect."""

from __future__ import annotations

import subprocess
import sys

LOADED = "import sys, brakit_sidecar.daemon.start; print(*sys.modules)"


def test_nothing_heavy_is_loaded_before_the_socket_listens() -> None:
    loaded = subprocess.run([sys.executable, "-I", "-c", LOADED], check=True, capture_output=True, text=True).stdout
    heavy = {"aiohttp", "anyio", "asyncio", "brakit_sidecar.core.frames", "dataclasses", "orjson", "ssl"}
    assert not heavy & set(loaded.split())
