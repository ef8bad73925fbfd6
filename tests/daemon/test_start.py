"""The modules that the daemon loads before a client can connect, and what it closes to other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.daemon import counter_files, start

from tests.harness import Place

if TYPE_CHECKING:
    from pathlib import Path

LOADED = "import sys, brakit_sidecar.daemon.start; print(*sys.modules)"


def test_nothing_heavy_is_loaded_before_the_socket_listens() -> None:
    loaded = subprocess.run([sys.executable, "-I", "-c", LOADED], check=True, capture_output=True, text=True).stdout
    heavy = {"aiohttp", "anyio", "asyncio", "brakit_sidecar.core.frames", "dataclasses", "orjson", "ssl"}
    assert not heavy & set(loaded.split())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("way", ["start", "serve"])
def test_a_daemon_leaves_no_core_dump(way: str) -> None:
    with Place() as place:
        pid = place.start()["pid"] if way == "start" else place.serve().pid
        with open(f"/proc/{pid}/limits", encoding="ascii") as limits:
            (line,) = [line.split() for line in limits if line.startswith("Max core file size")]
    assert line[4:6] == ["0", "0"]


HARDENED = """
import ctypes, sys
from brakit_sidecar.daemon import start
start._announce_and_harden({})
sys.stderr.write(str(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)))  # PR_GET_DUMPABLE
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
@pytest.mark.parametrize(("debug", "is_dumpable"), [("", "0"), ("1", "1")])
def test_the_memory_of_a_started_daemon_is_closed_except_for_debugging(debug: str, is_dumpable: str) -> None:
    with Place(BRAKIT_DEBUG=debug) as place:
        assert place.run_python(HARDENED).stderr == is_dumpable


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="needs Linux, and root to become another user")
def test_a_daemon_whose_memory_is_closed_can_name_a_workers_file(tmp_path: Path) -> None:
    """As a normal user, to whom the files of such a process in /proc do not belong."""
    os.chown(tmp_path, 12345, 12345)
    file = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.fchown(file, 12345, 12345)
    child = os.fork()
    if child == 0:
        try:
            os.chdir(tmp_path)
            os.setuid(12345)
            start._close_memory()
            assert os.stat("/proc/self/fd").st_uid == 0
            counter_files._link(file, "named")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.path.samestat(os.stat(tmp_path / "named"), os.fstat(file))
    os.close(file)
