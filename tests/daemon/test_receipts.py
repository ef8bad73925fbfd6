"""The receipts are bounded in size, private, in whole lines, and read oldest first."""

from __future__ import annotations

import errno
import json
import os
import stat
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.core.outbox import SENT, QueuedEvent, Reason, Verdict
from brakit_sidecar.daemon import receipts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_BYTES = 4 * 1024 * 1024


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the state directory, which does not exist yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "state" / "brakit"


def write(number: int, verdict: Verdict = SENT, padding: int = 0) -> None:
    body = json.dumps({"number": number, "padding": "x" * padding}).encode()
    receipts.write(QueuedEvent("cli_invoked", f"uuid-{number}", "an-anonymous-id", body), verdict, "nowhere")


def numbers() -> list[int]:
    return [json.loads(receipt["body"])["number"] for receipt in receipts.read()]


def size_of(state: Path) -> int:
    return sum(file.stat().st_size for file in state.iterdir())


def test_a_receipt_holds_the_event_its_time_its_outcome_its_destination_and_its_body(state: Path) -> None:
    write(7, Verdict.dropped(Reason.TIMEOUT))
    (receipt,) = receipts.read()
    assert receipt.pop("at").endswith("Z")
    assert receipt == {
        "event": "cli_invoked",
        "uuid": "uuid-7",
        "outcome": "dropped",
        "reason": "timeout",
        "destination": "nowhere",
        "body": '{"number": 7, "padding": ""}',
    }


def test_reading_before_the_first_write_finds_no_receipt_and_makes_no_directory(state: Path) -> None:
    assert list(receipts.read()) == []
    assert not state.exists()


def test_receipts_are_read_in_the_order_in_which_they_were_written(state: Path) -> None:
    for number in range(20):
        write(number)
    assert numbers() == list(range(20))


def test_files_have_mode_0600_in_a_directory_of_mode_0700(state: Path) -> None:
    before = os.umask(0)
    try:
        write(1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in state.iterdir()} == {0o600}


def test_receipts_never_take_more_than_4_mib_and_the_oldest_are_removed_first(state: Path) -> None:
    for number in range(4000):
        write(number, padding=1900)
        assert size_of(state) <= MAX_BYTES
    kept = numbers()
    assert kept == list(range(kept[0], 4000))
    assert kept[0] > 0
    assert size_of(state) > MAX_BYTES // 2 - 4096  # at most half of the receipts are removed at once


def test_a_symbolic_link_in_place_of_the_file_is_not_followed(state: Path, tmp_path: Path) -> None:
    write(1)
    target = tmp_path / "target"
    target.write_text("mine")
    (state / "receipts.jsonl").unlink()
    (state / "receipts.jsonl").symlink_to(target)
    with pytest.raises(OSError, match="link"):
        write(2)
    assert target.read_text() == "mine"


def test_the_files_hold_only_whole_lines_after_the_disk_was_full(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(1)
    really_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: really_write(fd, data[: len(data) // 2]))
    write(2)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(state.parent))
    write(3)
    assert numbers() == [1, 3]


def test_a_full_disk_loses_only_one_receipt_when_the_newer_file_replaces_the_older_file(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    os.truncate(state / "receipts.jsonl", receipts.MAX_BYTES // 2)
    really_open = os.open

    def open_on_a_full_disk(path: str, flags: int, *mode: int, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and not os.path.exists(state / path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return really_open(path, flags, *mode, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_on_a_full_disk)
        with pytest.raises(OSError, match="No space"):  # not EBADF from a descriptor that is closed twice
            write(2)
    write(3)
    assert numbers() == [1, 3]


def test_half_a_line_from_a_power_cut_does_not_spoil_another_line(state: Path) -> None:
    write(1)
    with (state / "receipts.jsonl").open("ab") as file:
        file.write(b'{"at": "2026-\0\0\xff')
    write(2)
    assert numbers() == [1, 2]


def test_a_slow_reader_misses_no_receipt_that_existed_when_it_began(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "MAX_BYTES", 4000)
    for number in range(30):
        write(number)
    reading = receipts.read()
    found = _numbers(reading, 1)
    for number in range(30, 45):  # meanwhile the newer file replaces the older file
        write(number)
    assert numbers()[0] > found[0]
    found += [json.loads(receipt["body"])["number"] for receipt in reading]
    assert found == list(range(found[0], found[-1] + 1))
    assert found[-1] >= 29


def test_following_waits_for_the_rest_of_half_a_line(state: Path) -> None:
    write(1)
    following = receipts.follow()
    assert _numbers(following, 1) == [1]
    write(2)
    whole = (state / "receipts.jsonl").read_bytes()
    os.truncate(state / "receipts.jsonl", len(whole) - 20)
    assert next(following) is None
    (state / "receipts.jsonl").write_bytes(whole)
    assert _numbers(following, 1) == [2]


def test_following_yields_existing_receipts_and_then_new_receipts(state: Path) -> None:
    write(1)
    following = receipts.follow()
    assert _numbers(following, 1) == [1]
    assert next(following) is None
    assert next(following) is None
    write(2)
    write(3)
    assert _numbers(following, 2) == [2, 3]
    assert next(following) is None


def test_following_may_begin_before_the_file_exists(state: Path) -> None:
    following = receipts.follow()
    assert next(following) is None
    write(1)
    assert _numbers(following, 1) == [1]


def test_following_misses_no_receipt_when_the_oldest_are_removed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_BYTES", 4000)
    write(0)
    following = receipts.follow()
    assert _numbers(following, 1) == [0]
    assert next(following) is None
    for number in range(1, 60, 3):
        for more in range(3):
            write(number + more)
        assert _numbers(following, 3) == [number, number + 1, number + 2]
        assert next(following) is None
    assert size_of(state) <= 4000


def _numbers(following: object, count: int) -> list[int]:
    assert hasattr(following, "__next__")
    found = []
    for _ in range(count):
        receipt = next(following)
        assert receipt is not None
        found.append(json.loads(receipt["body"])["number"])
    return found


# --- files that another program has made too large ------------------------------------------------------------------

LARGE = 256 * 1024 * 1024  # sparse, so it takes no disk; the tests need 16 times as much memory if they read it whole


def peak_of(call: Callable[[], object]) -> int:
    """Return the peak of the memory that the call allocates, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("read", [lambda: list(receipts.read()), receipts.written])
def test_a_line_that_never_ends_takes_no_memory(state: Path, read: Callable[[], object]) -> None:
    write(1)
    os.truncate(state / "receipts.jsonl", LARGE)
    assert peak_of(read) < MAX_BYTES


def test_receipts_behind_a_line_that_is_too_long_are_read(state: Path) -> None:
    write(1)
    with open(state / "receipts.jsonl", "ab") as file:
        file.write(b"x" * 100_000 + b"\n")
    write(2)
    assert numbers() == [1, 2]


def test_a_receipt_at_the_end_of_a_line_that_is_too_long_is_not_read(state: Path) -> None:
    write(1)
    receipt = (state / "receipts.jsonl").read_bytes()
    (state / "receipts.jsonl").write_bytes(b"x" * receipts.MAX_LINE + receipt)
    assert numbers() == []


def test_only_the_newest_receipts_of_a_file_that_is_too_large_are_kept_in_memory(state: Path) -> None:
    uuid = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e0"
    for last in "12":
        receipts.write(QueuedEvent("cli_invoked", uuid + last, "an-anonymous-id", b"{}"), SENT, "nowhere")
    lines = (state / "receipts.jsonl").read_bytes().splitlines(keepends=True)
    (state / "receipts.jsonl").write_bytes(lines[0] + b"\n" * MAX_BYTES + lines[1])
    assert list(receipts.written()) == [uuid + "2"]
