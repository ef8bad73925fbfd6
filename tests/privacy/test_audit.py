"""The audit passes on this build, and fails on a build that leaks."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.core.schema import EVENTS, SESSION_FIELDS
from brakit_sidecar.selftest.audit_texts import MARK, TEXTS, traces

from tests.harness import Place

if TYPE_CHECKING:
    from pathlib import Path

# These are faulty builds. Each of them is a change that every process makes to this build at its start.
PASSED_ON = """
from brakit_sidecar.core import domains
domains.Word.admit = lambda self, raw: raw if isinstance(raw, str) else None
"""
LOGGED = """
from brakit_sidecar.core import frames
from brakit_sidecar.host.debug import debug
parse = frames.parse
def loud(line):
    debug(str(line))
    return parse(line)
frames.parse = loud
"""
READABLE = """
from brakit_sidecar.selftest.audit_texts import MARK
from brakit_sidecar.client import joining
joining.Place.opaque = lambda self, text: MARK[:8].encode().hex() if MARK in text else "0" * 16
"""
UNHASHED = """
from brakit_sidecar.client import joining
joining.Place.opaque = lambda self, text: text
"""
LEAKS = {
    "a text that is passed on": (PASSED_ON, "the network", "as it is"),
    "a line in the debug output": (LOGGED, "BRAKIT_DEBUG", "as it is"),
    "a route in a counter file": (READABLE, "counter files", "reversed"),  # reversed, because the low byte comes first
}


@pytest.mark.slow
def test_no_secret_arrives_anywhere() -> None:
    with Place() as place:
        audited = place.run("audit", CI="1", DO_NOT_TRACK="1")
        assert audited.returncode == 0, audited.stdout + audited.stderr
        for place_name in ("the network", "receipts", "journal", "counter files", "log", "status"):
            assert place_name in audited.stdout
        calls = 25 * (len(SESSION_FIELDS) + 1) + 3 + 2 * (len(EVENTS) + 1)  # one producer's calls with one text
        counted = re.search(r"calls of the client, by four producers +(\d+)", audited.stdout)
        assert counted is not None
        assert int(counted[1]) == 4 * len(TEXTS) * calls + 2  # plus two calls of close()
        assert f"PASS: none of the {len(TEXTS)} secrets was found anywhere" in audited.stdout


@pytest.mark.slow
@pytest.mark.parametrize("leak", LEAKS)
def test_the_audit_fails_on_a_build_that_leaks(leak: str, tmp_path: Path) -> None:
    change, where, form = LEAKS[leak]
    (tmp_path / "sitecustomize.py").write_text(change)
    with Place() as place:
        audited = place.run("audit", PYTHONPATH=str(tmp_path))
    assert audited.returncode == 1
    assert where in audited.stderr
    assert form in audited.stderr


@pytest.mark.slow
def test_the_audit_fails_on_a_build_whose_daemon_refuses_all_routes(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNHASHED)
    with Place() as place:
        audited = place.run("audit", PYTHONPATH=str(tmp_path))
    assert audited.returncode == 1
    assert "without a route or a mark" in audited.stderr


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_is_recognised_in_each_form(text: str) -> None:
    raw = text.encode()
    escaped = "".join(f"\\u{ord(letter):04X}" for letter in text if ord(letter) < 0x10000)
    for form in (
        raw, raw.upper(), raw[::-1], raw.hex().encode(), base64.b64encode(raw), base64.urlsafe_b64encode(b"x" + raw),
        "".join(f"%{byte:02X}" for byte in raw).encode(), escaped.encode(), text.encode("utf-16"),
    ):  # fmt: skip
        assert traces(b"before" + form + b"after")


def test_a_piece_of_a_text_is_recognised_and_other_text_is_not_recognised() -> None:
    assert traces(MARK[3:9].encode())
    assert not traces(b"request_count other unknown 9007199254740991")
