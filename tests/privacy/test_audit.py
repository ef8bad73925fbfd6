"""The audit passes on this build, and would not pass on one that leaks."""

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

# What a build may get wrong, as a change to it that each of its processes makes when it starts.
PASSED_ON = """
from brakit_sidecar.core import domains
domains.Word.admit = lambda self, raw: raw if isinstance(raw, str) else None
"""
TOLD = """
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
DEAF = """
from brakit_sidecar.client import joining
joining.Place.opaque = lambda self, text: text
"""
LEAKS = {
    "a word that is passed on": (PASSED_ON, "the network", "as it is"),
    "a line in the producer's words": (TOLD, "BRAKIT_DEBUG", "as it is"),
    "a route that can be read in a counter file": (READABLE, "counter files", "reversed"),  # the low byte comes first
}


@pytest.mark.slow
def test_nothing_of_what_is_never_collected_arrives_anywhere() -> None:
    with Place() as place:
        audited = place.run("audit", CI="1", DO_NOT_TRACK="1")
        assert audited.returncode == 0, audited.stdout + audited.stderr
        for looked_at in ("the network", "receipts", "journal", "counter files", "log", "status"):
            assert looked_at in audited.stdout
        calls = 25 * (len(SESSION_FIELDS) + 1) + 3 + 2 * (len(EVENTS) + 1)  # of one producer, with one text
        said = re.search(r"calls of the client, by four producers +(\d+)", audited.stdout)
        assert said is not None
        assert int(said[1]) == 4 * len(TEXTS) * calls + 2  # and two goodbyes
        assert f"PASS: none of the {len(TEXTS)} secrets was found anywhere" in audited.stdout


@pytest.mark.slow
@pytest.mark.parametrize("leak", LEAKS)
def test_a_build_that_leaks_does_not_pass(leak: str, tmp_path: Path) -> None:
    change, where, form = LEAKS[leak]
    (tmp_path / "sitecustomize.py").write_text(change)
    with Place() as place:
        audited = place.run("audit", PYTHONPATH=str(tmp_path))
    assert audited.returncode == 1
    assert where in audited.stderr
    assert form in audited.stderr


@pytest.mark.slow
def test_a_build_that_takes_no_route_does_not_pass_for_one_that_hides_them(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEAF)
    with Place() as place:
        audited = place.run("audit", PYTHONPATH=str(tmp_path))
    assert audited.returncode == 1
    assert "without a route or a mark" in audited.stderr


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_is_recognised_in_each_of_its_forms(text: str) -> None:
    raw = text.encode()
    escaped = "".join(f"\\u{ord(letter):04X}" for letter in text if ord(letter) < 0x10000)
    for form in (
        raw, raw.upper(), raw[::-1], raw.hex().encode(), base64.b64encode(raw), base64.urlsafe_b64encode(b"x" + raw),
        "".join(f"%{byte:02X}" for byte in raw).encode(), escaped.encode(), text.encode("utf-16"),
    ):  # fmt: skip
        assert traces(b"before" + form + b"after")


def test_a_piece_of_a_text_is_recognised_and_what_has_none_of_it_is_not() -> None:
    assert traces(MARK[3:9].encode())
    assert not traces(b"request_count other unknown 9007199254740991")
