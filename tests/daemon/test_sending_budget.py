"""The count of sent events: it outlasts a daemon, holds for all daemons of a user, and needs no disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from brakit_sidecar.core.budget import HOUR_S, MAX_EVENTS
from brakit_sidecar.daemon import sending_budget
from brakit_sidecar.daemon.sending_budget import SendingBudget

from tests.harness import Place, Wire, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Endpoint

NOW = 1_800_000_000.0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the file, whose directory does not exist yet. The clock stands still."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sending_budget, "time", lambda: NOW)
    return tmp_path / "state" / "brakit" / "sent-by-hour.json"


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def hour(hours_ago: int = 0) -> str:
    return str(int(NOW // HOUR_S) - hours_ago)


def test_the_first_event_makes_a_private_file(file: Path) -> None:
    assert SendingBudget().take()
    assert json.loads(file.read_text()) == {hour(): 1}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == [file.name]


def test_daemons_that_take_turns_share_one_budget(file: Path) -> None:
    write(file, {hour(3): MAX_EVENTS - 4})
    one, other = SendingBudget(), SendingBudget()
    assert [daemon.take() for daemon in (one, other, one, other, one, other)] == [True] * 4 + [False] * 2
    assert not SendingBudget().take()
    assert json.loads(file.read_text()) == {hour(3): MAX_EVENTS - 4, hour(): 4}


def test_a_removed_file_does_not_renew_a_running_daemons_budget(file: Path) -> None:
    write(file, {hour(): MAX_EVENTS - 1})
    daemon = SendingBudget()
    assert daemon.take()
    file.unlink()
    assert not daemon.take()


@pytest.mark.parametrize("content", ["", "[", "[" * 100_000, "7", "\0" * 5000])
def test_a_file_that_does_not_parse_is_replaced(file: Path, content: str) -> None:
    write(file, None)
    file.write_text(content)
    assert SendingBudget().take()
    assert json.loads(file.read_text()) == {hour(): 1}


def test_a_daemon_counts_in_memory_if_the_disk_is_full(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, {hour(): MAX_EVENTS - 2})

    def is_full(*_arguments: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sending_budget, "_write", is_full)
    daemon = SendingBudget()
    assert [daemon.take() for _ in range(3)] == [True, True, False]


def test_a_daemon_counts_in_memory_if_the_directory_is_not_its_own(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.parent.mkdir(parents=True)
    file.parent.write_text("in the way")
    monkeypatch.setattr("brakit_sidecar.core.budget.Budget.take.__defaults__", (2,))
    daemon = SendingBudget()
    assert [daemon.take() for _ in range(3)] == [True, True, False]


def test_a_daemon_counts_in_memory_if_another_process_keeps_the_lock(file: Path) -> None:
    write(file, {})
    directory = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    daemon = SendingBudget()
    assert daemon.take()
    assert json.loads(file.read_text()) == {}
    os.close(directory)
    assert daemon.take()
    assert json.loads(file.read_text()) == {hour(): 2}


# --- in a daemon ----------------------------------------------------------------------------------------------------


def spend(place: Place, left: int) -> None:
    """Let all but so many events of the budget be sent, an hour ago."""
    import time  # noqa: PLC0415

    directory = os.path.join(place.home, ".local", "state", "brakit")
    os.makedirs(directory, mode=0o700)
    with open(os.path.join(directory, "sent-by-hour.json"), "w", encoding="ascii") as file:
        json.dump({str(int(time.time() // HOUR_S) - 1): MAX_EVENTS - left}, file)


def report(place: Place, events: int) -> list[tuple[str, str]]:
    """Report so many events. Returns the outcome and the reason of each."""
    with Wire(place.socket_path).hello() as wire:
        for _ in range(events):
            wire.send(event={"name": "cli_invoked"})
        wire.sync()
        wait_until(lambda: wire.ask()[0]["delivery"]["queued"] == 0, "an empty queue")
    return [(receipt["outcome"], receipt["reason"]) for receipt in place.receipts()]


def test_events_beyond_the_budget_are_dropped_by_each_daemon(place: Place, endpoint: Endpoint) -> None:
    spend(place, left=2)
    place.start()
    assert sorted(report(place, 4)) == [("dropped", "too_many")] * 2 + [("sent", "")] * 2
    place.run("stop")
    place.start()
    assert report(place, 1)[-1] == ("dropped", "too_many")
    assert len(endpoint.requests) == 2


def test_the_budget_is_not_used_in_local_mode() -> None:
    with Place() as place:
        spend(place, left=0)
        place.start()
        assert report(place, 2) == [("local", "no_key")] * 2
