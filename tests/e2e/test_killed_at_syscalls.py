"""The daemon is killed at a system call of a small session, by strace, and brought back by the session's owner: the
event is what it would have been. With ``BRAKIT_EVERY_SYSCALL=1`` at each of them in turn, which takes some minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from tests.harness import PATIENCE_S, Endpoint, Place, wait_until

# What changes something that somebody else can see: files, names, sockets.
KINDS = (
    "openat", "write", "pwrite64", "rename", "unlink", "rmdir", "mkdir", "linkat", "ftruncate", "accept4", "recvfrom",
    "recvmsg", "sendto", "connect", "shutdown", "getsockopt", "pidfd_open", "epoll_ctl",
)  # fmt: skip
SAMPLE = 7

# Says and counts; goes when a daemon has taken in its last word, the first one or the one that follows, or has ended
# the session.
WORKER = """
import glob, os, time
import brakit_sidecar

def is_written(word, where):
    for path in glob.glob(os.environ["HOME"] + "/.local/state/brakit/" + where):
        try:
            with open(path) as file:
                if word in file.read():
                    return True
        except FileNotFoundError:  # the last of a journal goes
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
    t.set(framework="flask")  # looks after the daemon, once a second
"""


def session_under_strace(place: Place, *how: str) -> str:
    """A session of ``run`` whose daemon is traced in that way; what strace wrote, once the last daemon is gone."""
    daemon = place.start()["pid"]
    assert place.status()["running"]  # has loaded all that it answers with: from here on calls have their numbers
    log = os.path.join(place.root, "strace")
    tracing = subprocess.Popen(["strace", "-f", "-o", log, "-p", str(daemon), *how], stderr=subprocess.PIPE, text=True)
    assert tracing.stderr is not None
    said = tracing.stderr.readline()
    if "attached" not in said:
        tracing.wait(PATIENCE_S)
        pytest.skip(f"strace may not attach here: {said.strip()}")
    ran = place.run("run", "--", sys.executable, "-c", WORKER)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")

    def has_receipt() -> bool:
        place.start()  # where it was killed when the owner had gone
        return any(receipt["event"] == "session" for receipt in place.receipts())

    wait_until(has_receipt, "the session's receipt")
    assert place.run("stop").returncode == 0
    tracing.wait(PATIENCE_S)
    tracing.stderr.close()
    with open(log, encoding="utf-8") as file:
        traced = file.read()
    if "killed by SIGKILL" in traced and os.path.lexists(place.socket_path):  # killed while it was told to stop
        place.start()
        assert place.run("stop").returncode == 0
    return traced


def assert_exact(endpoint: Endpoint, place: Place) -> None:
    found = endpoint.wait_for("session")[0]["properties"]
    assert (found["request_count"], found["query_count"], found["insight_count"]) == (6, 3, 1)
    assert (found["endpoint_count"], found["avg_duration_ms"]) == (2, 7)
    assert (found["framework"], found["exit_reason"]) == ("flask", "clean")
    assert len({str(body) for body in endpoint.named("session")}) == 1
    first_requests = endpoint.named("first_request")
    assert len({str(body) for body in first_requests}) == 1
    assert first_requests[0]["properties"]["port"] == 8000
    assert os.listdir(os.path.dirname(place.socket_path)) == ["sidecar-1.lock"]
    state = os.listdir(os.path.join(place.home, ".local", "state", "brakit"))
    assert [name for name in state if name.startswith("journal")] == []


@cache
def calls() -> list[tuple[str, int]]:
    """Each call of those kinds that the daemon makes for one session, by kind and number."""
    endpoint = Endpoint()
    with Place(endpoint.url) as place:
        traced = session_under_strace(place, "-e", "trace=" + ",".join(KINDS))
        assert_exact(endpoint, place)
    endpoint.close()
    made: Counter[str] = Counter()
    found = []
    for kind, rest in re.findall(r"^\d+ +(\w+)(\(.*)$", traced, re.MULTILINE):
        made[kind] += 1
        if kind != "openat" or "O_CREAT" in rest or "brakit" in rest:  # most are of modules that are loaded
            found.append((kind, made[kind]))
    return found


def chosen(part: int, parts: int) -> list[tuple[str, int]]:
    """All calls of that part, or its first."""
    of_part = calls()[part * len(calls()) // parts : (part + 1) * len(calls()) // parts]
    return of_part if os.environ.get("BRAKIT_EVERY_SYSCALL") else of_part[:1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("part", range(SAMPLE))
def test_a_daemon_killed_at_a_system_call_costs_nothing(part: int) -> None:
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
def test_a_daemon_told_to_end_at_a_system_call_sends_each_session_once(part: int, name: str) -> None:
    for kind, number in chosen(part, 4):
        endpoint = Endpoint()
        with Place(endpoint.url) as place:
            session_under_strace(place, "-e", f"trace={kind}", "-e", f"inject={kind}:signal={name}:when={number}")
            (receipt,) = [receipt for receipt in place.receipts() if receipt["event"] == "session"]
            is_late = receipt["reason"] == "shutdown"  # what sends is still to be loaded, and strace slows that down
            sent = endpoint.named("session")
            assert len(sent) == 1 or (is_late and not sent)
            assert not os.path.lexists(place.socket_path)
        endpoint.close()
