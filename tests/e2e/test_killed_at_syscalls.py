"""strace kills the daemon at one system call of a small session, and the session's owner starts another daemon. The
session's event is the same as without the kill.

With ``BRAKIT_EVERY_SYSCALL=1``, the tests kill the daemon at each system call of the session. This takes some minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from functools import cache

import pytest

from tests.harness import PATIENCE_S, Endpoint, Place, attached_strace, wait_until

# The system calls with an effect outside the daemon: on files, names and sockets.
KINDS = (
    "openat", "write", "pwrite64", "rename", "unlink", "rmdir", "mkdir", "linkat", "ftruncate", "accept4", "recvfrom",
    "recvmsg", "sendto", "connect", "shutdown", "getsockopt", "pidfd_open", "epoll_ctl",
)  # fmt: skip
SAMPLE = 7

# This worker reports and counts. It exits when the first daemon or its successor has journaled the worker's last line
# or has ended the session.
WORKER = """
import glob, os, time
import brakit_sidecar

def is_written(text, where):
    for path in glob.glob(os.environ["HOME"] + "/.local/state/brakit/" + where):
        try:
            with open(path) as file:
                if text in file.read():
                    return True
        except FileNotFoundError:  # the daemon removes a journal with its last session
            pass
    return False

t = brakit_sidecar.connect()
t.set(framework="flask")
t.event("first_request", port=8000)
for number in range(6):
    t.request(f"GET /{number % 2}", 7)
t.incr("query_count", 3)
t.mark("insight_count", "one")
while not (is_written("insight_count", "journal*/*.jsonl") or is_written('"session"', "receipts*")):
    time.sleep(0.05)
    t.set(framework="flask")  # such a call reconnects, at most once a second
"""


def session_under_strace(place: Place, *options: str) -> str:
    """Trace the daemon of one session of ``run``, and return strace's log after the last daemon has exited."""
    daemon = place.start()["pid"]
    assert place.status()["running"]  # so that no module is loaded later, and the calls' numbers are repeatable
    log = os.path.join(place.root, "strace")
    with attached_strace(daemon, log, *options) as tracing:
        ran = place.run("run", "--", sys.executable, "-c", WORKER)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")

        def has_receipt() -> bool:
            place.start()  # replaces a daemon that was killed after the owner had exited
            return any(receipt["event"] == "session" for receipt in place.receipts())

        wait_until(has_receipt, "the session's receipt")
        assert place.run("stop").returncode == 0
        tracing.wait(PATIENCE_S)
    with open(log, encoding="utf-8") as file:
        traced = file.read()
    if "killed by SIGKILL" in traced and os.path.lexists(place.socket_path):  # the daemon was killed while it stopped
        place.start()
        assert place.run("stop").returncode == 0
    return traced


def assert_exact(endpoint: Endpoint, place: Place) -> None:
    found = endpoint.wait_for("session")[0]["properties"]
    assert (found["request_count"], found["query_count"], found["insight_count"]) == (6, 3, 1)
    assert (found["endpoint_count"], found["avg_duration_ms"]) == (2, 7)
    assert (found["framework"], found["exit_reason"]) == ("flask", "clean")
    assert len({str(body) for body in endpoint.bodies_of("session")}) == 1
    first_requests = endpoint.bodies_of("first_request")
    assert len({str(body) for body in first_requests}) == 1
    assert first_requests[0]["properties"]["port"] == 8000
    assert os.listdir(os.path.dirname(place.socket_path)) == ["sidecar-1.lock"]
    state = os.listdir(os.path.join(place.home, ".local", "state", "brakit"))
    assert [name for name in state if name.startswith("journal")] == []


@cache
def calls() -> list[tuple[str, int]]:
    """Return the system calls in KINDS that the daemon makes for one session, each as its kind and number."""
    endpoint = Endpoint()
    with Place(endpoint.url) as place:
        traced = session_under_strace(place, "-e", "trace=" + ",".join(KINDS))
        assert_exact(endpoint, place)
    endpoint.close()
    made: Counter[str] = Counter()
    found = []
    for kind, rest in re.findall(r"^\d+ +(\w+)(\(.*)$", traced, re.MULTILINE):
        made[kind] += 1
        if kind != "openat" or "O_CREAT" in rest or "brakit" in rest:  # other calls load modules
            found.append((kind, made[kind]))
    return found


def chosen(part: int, parts: int) -> list[tuple[str, int]]:
    """Return the calls of this part. Returns only the first of these calls unless every system call is to be tested."""
    of_part = calls()[part * len(calls()) // parts : (part + 1) * len(calls()) // parts]
    return of_part if os.environ.get("BRAKIT_EVERY_SYSCALL") else of_part[:1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("part", range(SAMPLE))
def test_the_event_is_exact_if_the_daemon_is_killed_at_a_system_call(part: int) -> None:
    for kind, number in chosen(part, SAMPLE):
        endpoint = Endpoint()
        with Place(endpoint.url) as place:
            traced = session_under_strace(
                place, "-e", f"trace={kind}", "-e", f"inject={kind}:signal=KILL:when={number}"
            )
            print(kind, number, "killed" if "killed by SIGKILL" in traced else "not reached")
            assert_exact(endpoint, place)
        endpoint.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(("part", "name"), [(0, "TERM"), (1, "INT"), (2, "HUP"), (3, "TERM")])
def test_a_daemon_that_gets_a_signal_at_a_system_call_sends_each_session_once(part: int, name: str) -> None:
    for kind, number in chosen(part, 4):
        endpoint = Endpoint()
        with Place(endpoint.url) as place:
            session_under_strace(place, "-e", f"trace={kind}", "-e", f"inject={kind}:signal={name}:when={number}")
            (receipt,) = [receipt for receipt in place.receipts() if receipt["event"] == "session"]
            # Strace slows the import of aiohttp, and the signal may come before the worker connects.
            is_late = receipt["reason"] in ("shutdown", "nobody_joined")
            sent = endpoint.bodies_of("session")
            assert len(sent) == 1 or (is_late and not sent)
            assert not os.path.lexists(place.socket_path)
        endpoint.close()
