"""The standard descriptors: how commands fill them, and how a worker keeps its own files away from them."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests import closed_fds
from tests.closed_fds import PYTHON_PRELUDE, Closed, each_combination

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

ALL: Closed = (0, 1, 2)


def run(code: str, tmp_path: Path, closed: Closed = ALL) -> dict[str, Any]:
    """Run Python code with these standard descriptors closed. Returns what it reports."""
    environ = {**os.environ, "REPORT": str(tmp_path / "report")}
    prelude = PYTHON_PRELUDE + "from brakit_sidecar.host import standard_fds\n"
    ran = closed_fds.run(closed, [sys.executable, "-c", prelude + code], environ)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    found: dict[str, Any] = json.loads((tmp_path / "report").read_text())
    return found


# --- commands and the daemon ---------------------------------------------------------------------------------------


def test_each_closed_descriptor_is_filled_with_the_null_device(tmp_path: Path) -> None:
    found = run("standard_fds.fill(); report(after=standard(), next=os.open('/', os.O_RDONLY))", tmp_path)
    assert found == {"after": ["/dev/null"] * 3, "next": 3}


def test_each_closed_descriptor_is_filled_in_a_chroot_without_devices(tmp_path: Path) -> None:
    found = run("os.devnull = '/no/such/device'; standard_fds.fill(); report(after=standard())", tmp_path)
    assert found == {"after": ["/"] * 3}


def test_what_is_printed_to_a_missing_stderr_is_not_printed_to_stdout(tmp_path: Path) -> None:
    code = "standard_fds.fill(); print('an error', file=sys.stderr); report(is_terminal=sys.stderr.isatty())"
    assert run(code, tmp_path, (2,)) == {"is_terminal": False}


def test_what_is_printed_to_a_missing_stdout_is_discarded(tmp_path: Path) -> None:
    code = "standard_fds.fill(); print('a line'); sys.stdout.flush(); report(is_terminal=sys.stdout.isatty())"
    assert run(code, tmp_path, (1, 2)) == {"is_terminal": False}


# --- workers -------------------------------------------------------------------------------------------------------


@each_combination
def test_what_is_opened_in_the_block_gets_a_higher_number(tmp_path: Path, closed: Closed) -> None:
    code = """
before = standard()
with standard_fds.Reserved():
    opened = os.open("/dev/zero", os.O_RDWR)
report(opened=opened, is_same=standard() == before, next=os.open("/dev/null", os.O_RDWR))
"""
    found = run(code, tmp_path, closed)
    assert found["opened"] > 2
    assert found["is_same"]
    assert found["next"] == min(closed, default=found["opened"] + 1)


def test_a_write_in_the_block_fails_as_at_a_closed_descriptor(tmp_path: Path) -> None:
    code = """
import errno
def error_of(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
with standard_fds.Reserved():
    errors = [error_of(os.read, 0, 1), error_of(os.write, 1, b"text"), error_of(os.write, 2, b"text")]
report(errors=errors)
"""
    assert run(code, tmp_path) == {"errors": ["EBADF"] * 3}


def test_a_descriptor_that_the_application_opens_in_the_block_stays_open(tmp_path: Path) -> None:
    code = """
with standard_fds.Reserved():
    own = os.open("/dev/zero", os.O_RDWR)
    os.dup2(own, 1)
    os.close(2)
report(after=standard())
"""
    assert run(code, tmp_path) == {"after": [None, "/dev/zero", None]}


def test_a_program_that_is_executed_in_the_block_does_not_inherit_the_placeholders(tmp_path: Path) -> None:
    code = """
with standard_fds.Reserved():
    os.execvp(sys.executable, [sys.executable, "-c", os.environ["THEN"]])
"""
    environ_code = PYTHON_PRELUDE + "report(after=standard())"
    code = f"os.environ['THEN'] = {environ_code!r}\n" + code
    assert run(code, tmp_path) == {"after": [None, None, None]}


def test_a_duplicate_at_a_standard_descriptor_is_found(tmp_path: Path) -> None:
    code = """
fd = os.open("/dev/zero", os.O_RDWR)
above = os.dup2(fd, 7)
os.close(fd)
found = [standard_fds.include(7)]
os.dup2(7, 1)
report(found=[*found, standard_fds.include(7), standard_fds.include(1)])
"""
    assert run(code, tmp_path) == {"found": [False, True, True]}
