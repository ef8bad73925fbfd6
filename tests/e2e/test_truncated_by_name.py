"""A program of the user that truncates a counter file by its name does not kill the worker, and costs no count."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import PATIENCE_S, Wire, new_id, wait_until
from tests.truncating import truncate_by_name

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Endpoint, Place

WORKER = """
import brakit_sidecar, os, sys
requests = brakit_sidecar.connect().counter("request_count")
requests.inc(2)
print(flush=True)
sys.stdin.read()
requests.inc()
os._exit(0)
"""


def test_a_file_that_its_user_may_write_is_truncated(tmp_path: Path) -> None:
    """Otherwise the other test would show nothing."""
    (tmp_path / "file").write_text("content")
    assert truncate_by_name(str(tmp_path / "file"))


@pytest.mark.skipif(sys.platform != "linux", reason="counter files have names on Linux only")
def test_a_python_worker_outlives_the_truncation_of_its_counter_file(remote: Endpoint, home: Place) -> None:
    session = new_id()
    with Wire(home.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        environ = {**home.environ, "BRAKIT_SESSION_ID": session, "BRAKIT_SIDECAR_SOCKET": home.socket_path}
        command = [sys.executable, "-c", WORKER]
        with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"\n"
            wait_until(lambda: _named(home), "the counter file's name")
            assert not truncate_by_name(_named(home)[0])
            worker.communicate(timeout=PATIENCE_S)
        assert worker.returncode == 0
        owner.send(end={"exit_reason": "clean"}).sync()
    assert remote.session_of(session)["request_count"] == 3


def _named(home: Place) -> list[str]:
    return glob.glob(os.path.join(os.path.dirname(home.socket_path), "counters-1-*"))
