"""A foreign file, link, pipe, socket or directory is at the path of one of our files. It stays unchanged, links are not
followed, and the application and its session work as usual.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.host import paths

from tests.harness import Endpoint, Place, new_id

if TYPE_CHECKING:
    from collections.abc import Callable

WORKER = "import brakit_sidecar; brakit_sidecar.connect(start=True).incr('request_count', 3)"
PRECIOUS = "the user's own text\n"


def a_link(path: str, target: str) -> None:
    os.symlink(target, path)


def a_hard_link(path: str, target: str) -> None:
    os.link(target, path)


def a_dangling_link(path: str, target: str) -> None:
    os.symlink(target + "-missing", path)


def a_pipe(path: str, _target: str) -> None:
    os.mkfifo(path)


def a_directory(path: str, _target: str) -> None:
    os.mkdir(path)


def a_socket(path: str, _target: str) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(path)


def another_users_file(path: str, _target: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(PRECIOUS)
    os.chmod(path, 0o666)
    os.chown(path, 54321, 54321)


def another_users_directory(path: str, _target: str) -> None:
    os.mkdir(path)
    os.chmod(path, 0o777)
    os.chown(path, 54321, 54321)


def a_file(path: str, _target: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(PRECIOUS)


only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")


def state_of(place: Place) -> str:
    return os.path.join(place.home, ".local", "state", "brakit")


def journal_of(place: Place) -> str:
    return os.path.join(state_of(place), os.path.basename(paths.journal_dir(place.socket_path)))


class Obstacles:
    """Foreign files of one kind at some paths. If they are links, they point to the target."""

    def __init__(self, make: Callable[[str, str], None], at: list[str], target: str) -> None:
        self._at = at
        for path in at:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            make(path, target)
        self._target = target
        self._before = self._state()

    def are_unchanged(self) -> bool:
        return self._state() == self._before

    def _state(self) -> list[object]:
        found: list[object] = [os.path.lexists(self._target + "-missing")]
        for path in [*self._at, self._target]:
            info = os.lstat(path)
            found.append((info.st_ino, info.st_mode, info.st_uid, info.st_mtime_ns, info.st_size))
        return found


@pytest.mark.parametrize(
    "make",
    [
        a_link,
        a_hard_link,
        a_dangling_link,
        a_pipe,
        a_directory,
        a_socket,
        pytest.param(another_users_file, marks=only_root),
    ],
)
def test_an_obstacle_at_a_files_path_stays_and_the_session_arrives(
    place: Place, endpoint: Endpoint, make: Callable[[str, str], None]
) -> None:
    target = os.path.join(place.root, "target")
    a_file(target, "")
    names = ["receipts.jsonl", "receipts.old.jsonl", "notice-shown", "first-session", "sent-by-hour.json"]
    if make is a_hard_link:
        names.remove("first-session")  # it is only removed, which changes no other file
    at = [os.path.join(state_of(place), name) for name in names]
    at += [os.path.join(journal_of(place), f"{name}.jsonl") for name in ("events", new_id())]
    at += [paths.counter_file_path(place.socket_path, new_id())]
    obstacles = Obstacles(make, at, target)
    ran = place.run("run", "--", sys.executable, "-c", WORKER)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert endpoint.only_session()["request_count"] == 3
    assert place.run("emit", "cli_invoked").returncode == 0
    endpoint.wait_for("cli_invoked")
    log = place.run("log")
    if make is not a_dangling_link:
        assert (log.returncode, log.stdout, log.stderr.count("\n")) == (1, "", 1)
        assert "remove it" in log.stderr
    assert place.run("telemetry", "off").returncode == 0
    assert place.run("stop").returncode == 0
    assert obstacles.are_unchanged()


@pytest.mark.parametrize("make", [a_link, a_file, pytest.param(another_users_directory, marks=only_root)])
@pytest.mark.parametrize("where", [state_of, journal_of])
def test_an_obstacle_at_a_directorys_path_stays_and_the_session_arrives(
    place: Place, endpoint: Endpoint, where: Callable[[Place], str], make: Callable[[str, str], None]
) -> None:
    target = os.path.join(place.root, "target")
    os.mkdir(target)
    a_file(os.path.join(target, f"{new_id()}.jsonl"), "")  # has the name of a journal's file, but must not be removed
    obstacles = Obstacles(make, [where(place)], target)
    ran = place.run("run", "--", sys.executable, "-c", WORKER)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert endpoint.only_session()["request_count"] == 3
    assert place.run("stop").returncode == 0
    assert obstacles.are_unchanged()


@pytest.mark.parametrize("where", ["brakit", "brakit/sidecar-1.sock", "brakit/sidecar-1.lock"])
@pytest.mark.parametrize("make", [a_link, a_pipe, pytest.param(another_users_file, marks=only_root)])
def test_run_and_workers_work_and_the_obstacle_stays_if_it_prevents_the_daemon_from_starting(
    place: Place, where: str, make: Callable[[str, str], None]
) -> None:
    target = os.path.join(place.root, "target")
    os.mkdir(target)
    obstacles = Obstacles(make, [os.path.join(place.runtime, where)], target)
    for ran in (place.run("run", "--", sys.executable, "-c", WORKER), place.run_python(WORKER)):
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert place.run("telemetry", "off").returncode == 0
    assert obstacles.are_unchanged()
