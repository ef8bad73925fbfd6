"""The file in which a worker counts: how it is made, and which row a route has."""

from __future__ import annotations

import errno
import gc
import os
import stat
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.client import counter_file
from brakit_sidecar.core import counter_layout, limits
from brakit_sidecar.core.counter_layout import COUNTER_CELLS, MAX_ROUTES, SIZE
from brakit_sidecar.core.counter_snapshot import CounterSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brakit_sidecar.client.counter_file import CounterFile

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this call")


def descriptors() -> list[str]:
    gc.collect()  # closes what other tests left open
    return sorted(os.listdir("/dev/fd"))


def seen_by(fd: int) -> CounterSnapshot | None:
    """Return the snapshot that a process with a duplicate of the descriptor reads."""
    return CounterSnapshot.of(os.pread(fd, SIZE, 0))


def shared(directory: Path) -> CounterFile:
    found = counter_file.shared(str(directory))
    assert found is not None
    return found


def fd_of(found: CounterFile) -> int:
    assert found.fd is not None
    return found.fd


# --- how it is made --------------------------------------------------------------------------------------

ABSENT = {
    "any restriction": (),
    "nameless files": ("O_TMPFILE",),
    "nameless files and memfds": ("O_TMPFILE", "memfd_create"),
    "nameless files, memfds and a fallocate": ("O_TMPFILE", "memfd_create", "posix_fallocate"),
}


@pytest.fixture(params=ABSENT.values(), ids=[f"without {name}" for name in ABSENT])
def portable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CounterFile]:
    """Return a counter file as it is made on a platform without these calls."""
    for call in request.param:
        monkeypatch.delattr(os, call, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = shared(tmp_path)
    assert os.listdir(tmp_path) == []
    yield found
    found.close()


def test_a_daemon_accepts_the_file(portable: CounterFile) -> None:
    info = os.fstat(fd_of(portable))
    assert stat.S_ISREG(info.st_mode)
    assert (info.st_size, info.st_uid) == (SIZE, os.getuid())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
@pytest.mark.parametrize("portable", [*ABSENT.values()][:3], ids=[*ABSENT][:3], indirect=True)
def test_every_page_is_allocated_before_it_is_written(portable: CounterFile) -> None:
    assert os.fstat(fd_of(portable)).st_blocks * 512 >= SIZE


def test_a_process_with_the_descriptor_sees_the_counts(portable: CounterFile) -> None:
    theirs = os.dup(fd_of(portable))
    portable.close()
    portable.cells[COUNTER_CELLS["query_count"]] += 3
    row = portable.row("9f3a61c2d4e5b607")
    portable.cells[row + 2] += 1
    assert seen_by(theirs) == CounterSnapshot({"query_count": 3}, {"9f3a61c2d4e5b607": (0, 1, 0, 0, 0, 0, 0)})
    os.close(theirs)


def test_a_child_program_does_not_inherit_the_file(portable: CounterFile) -> None:
    assert not os.get_inheritable(fd_of(portable))


@linux_only
def test_the_first_choice_is_a_nameless_file_in_the_daemons_directory(tmp_path: Path) -> None:
    found = shared(tmp_path)
    info = os.fstat(fd_of(found))
    assert (info.st_dev, info.st_nlink, stat.S_IMODE(info.st_mode)) == (os.stat(tmp_path).st_dev, 0, 0o400)
    found.close()


@linux_only
def test_a_process_with_the_descriptor_can_name_a_nameless_file(tmp_path: Path) -> None:
    found = shared(tmp_path)
    here = os.open(tmp_path, os.O_RDONLY)
    os.link(f"/proc/self/fd/{found.fd}", "named", src_dir_fd=here, dst_dir_fd=here)
    found.cells[COUNTER_CELLS["request_count"]] = 7
    found.close()
    os.close(here)
    assert CounterSnapshot.of((tmp_path / "named").read_bytes()) == CounterSnapshot({"request_count": 7}, {})


@linux_only
@pytest.mark.parametrize("missing", ["no/such/directory", "a file"])
def test_the_file_is_a_memfd_if_the_daemons_directory_is_missing(tmp_path: Path, missing: str) -> None:
    (tmp_path / "a file").touch()
    found = shared(tmp_path / missing)
    assert os.readlink(f"/proc/self/fd/{found.fd}").startswith("/memfd:brakit-sidecar")
    assert os.listdir(tmp_path) == ["a file"]
    found.close()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_no_file_is_made_and_no_descriptor_leaks_if_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", is_full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = descriptors()
    assert counter_file.shared(str(tmp_path)) is None
    assert descriptors() == before
    assert os.listdir(tmp_path) == []


def test_a_private_file_has_the_same_cells_and_no_descriptor() -> None:
    found = counter_file.private()
    found.cells[COUNTER_CELLS["request_count"]] = 7
    assert (found.fd, found.cells.nbytes, found.cells.itemsize) == (None, SIZE, counter_layout.CELL)
    assert CounterSnapshot.of(bytes(found.cells)) == CounterSnapshot({"request_count": 7}, {})


# --- how it is closed ----------------------------------------------------------------------------------------------


def test_a_closed_file_that_is_not_referenced_has_no_descriptor(tmp_path: Path) -> None:
    before = descriptors()
    found = shared(tmp_path)
    found.close()
    found.close()
    assert found.fd is None
    del found
    assert descriptors() == before


def test_counting_in_a_closed_file_does_not_fail(tmp_path: Path) -> None:
    found = shared(tmp_path)
    cells = found.cells
    found.close()
    del found
    gc.collect()
    cells[COUNTER_CELLS["request_count"]] += 1
    assert cells[COUNTER_CELLS["request_count"]] == 1


def test_a_file_that_is_garbage_collected_has_no_descriptor(tmp_path: Path) -> None:
    before = descriptors()
    shared(tmp_path)
    assert descriptors() == before


# --- the routes' rows -----------------------------------------------------------------------------------------


def test_a_new_file_is_valid_and_has_no_counts() -> None:
    assert CounterSnapshot.of(bytes(counter_file.private().cells)) == CounterSnapshot({}, {})


def test_the_first_route_has_the_row_after_the_overflow_row_and_later_routes_follow() -> None:
    found = counter_file.private()
    rows = [found.row(f"{number:016x}") for number in (7, 0, 9)]
    assert rows == [counter_layout.row_cell(1), counter_layout.row_cell(2), counter_layout.row_cell(3)]
    assert found.cells[counter_layout.USED_ROWS] == 4


def test_a_route_keeps_its_row() -> None:
    found = counter_file.private()
    first = found.row("9f3a61c2d4e5b607")
    found.row("00000000000000aa")
    assert found.row("9f3a61c2d4e5b607") == first


def test_a_row_holds_the_id_of_its_route_as_a_number() -> None:
    found = counter_file.private()
    assert found.cells[found.row("9f3a61c2d4e5b607")] == 0x9F3A61C2D4E5B607
    assert found.cells[found.row("f" * 16)] == 2**64 - 1


def test_a_row_is_read_back_without_its_id() -> None:
    found = counter_file.private()
    row = found.row("9f3a61c2d4e5b607")
    found.cells[row + 1] = 12_000_000
    found.cells[row + 7] = 1
    assert found.row_of("9f3a61c2d4e5b607") == [12_000_000, 0, 0, 0, 0, 0, 1]


def full_file() -> CounterFile:
    found = counter_file.private()
    for number in range(MAX_ROUTES):
        found.row(f"{number:016x}")
    return found


def test_the_last_row_belongs_to_one_route() -> None:
    assert full_file().row(f"{MAX_ROUTES - 1:016x}") == counter_layout.row_cell(MAX_ROUTES)


def test_routes_without_a_row_share_the_overflow_row() -> None:
    found = full_file()
    assert found.row("f" * 16) == found.row("e" * 16) == counter_layout.row_cell(0)
    assert found.cells[counter_layout.USED_ROWS] == 1 + MAX_ROUTES
    assert "f" * 16 not in found.routes


def test_routes_that_have_a_row_keep_it_when_the_table_is_full() -> None:
    found = full_file()
    found.row("f" * 16)
    assert found.row(f"{0:016x}") == counter_layout.row_cell(1)


def test_a_route_reports_its_durations_under_the_id_of_its_row() -> None:
    found = full_file()
    found.row("f" * 16)
    assert found.route_of(f"{5:016x}") == f"{5:016x}"
    assert found.route_of("f" * 16) == limits.OVERFLOW_ROUTE
    assert found.row_of(limits.OVERFLOW_ROUTE) == [0] * 7
