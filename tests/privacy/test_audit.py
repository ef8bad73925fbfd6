"""The audit passes on this build, and fails on a build that leaks."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from brakit_sidecar.core.schema import EVENTS, SESSION_FIELDS
from brakit_sidecar.selftest.audit_texts import MARK, TEXTS, traces

from tests.harness import Place, run_to_end
from tests.privacy.leaks import LEAKS, Leak, build

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


REFUSED = Leak("client/place.py", "        return known", "        return text", "without a route or a mark")
HANGS_UP = Leak(
    "core/frames.py",
    "frame.refused.append(Refusal.UNKNOWN_KEY)",
    "raise ValueError",
    "the audit could not be completed",
)


def audit(place: Place, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the audit of the package in the directory."""
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from brakit_sidecar.cli import main; sys.exit(main())"
    return run_to_end([sys.executable, "-I", "-c", code, str(directory), "audit"], place.environ)


@pytest.mark.slow
def test_no_secret_arrives_anywhere() -> None:
    with Place() as place:
        audited = place.run("audit", CI="1", DO_NOT_TRACK="1")
        assert audited.returncode == 0, audited.stdout + audited.stderr
        for place_name in ("the network", "receipts", "journal", "counter files", "log", "status"):
            assert place_name in audited.stdout
        calls = 25 * (len(SESSION_FIELDS) + 1) + 3 + 2 * (len(EVENTS) + 1)  # one producer's calls with one text
        counted = re.search(r"calls of the client, by five producers +(\d+)", audited.stdout)
        assert counted is not None
        hashed = 2 * len(TEXTS)  # by the fifth producer, whose hashes are compared with those of the others
        assert int(counted[1]) == 4 * len(TEXTS) * calls + 2 + hashed  # plus two calls of close()
        assert f"PASS: none of the {len(TEXTS)} secrets was found anywhere" in audited.stdout


@pytest.mark.slow
def test_the_audit_says_that_the_hashes_on_disk_are_pseudonyms() -> None:
    with Place() as place:
        audited = place.run("audit")
    counted = re.search(r"keyed with their session's id: (\d+)\n +They are pseudonyms", audited.stdout)
    assert counted is not None
    assert int(counted[1]) >= 2 * len(TEXTS)


@pytest.mark.slow
def test_the_audit_passes_on_a_copy_of_the_build(tmp_path: Path) -> None:
    """Show that the copies below fail because of their leaks."""
    build(tmp_path)
    with Place() as place:
        assert audit(place, tmp_path).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAKS)
def test_the_audit_fails_on_a_build_that_leaks(name: str, tmp_path: Path) -> None:
    leak = LEAKS[name]
    build(tmp_path, leak)
    with Place() as place:
        audited = audit(place, tmp_path)
    assert audited.returncode == 1
    assert "FAIL: " in audited.stderr
    assert re.search(leak.found, audited.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [REFUSED, HANGS_UP], ids=["refuses all routes", "closes each connection"])
def test_the_audit_fails_on_a_build_whose_daemon_does_not_work(fault: Leak, tmp_path: Path) -> None:
    build(tmp_path, fault)
    with Place() as place:
        audited = audit(place, tmp_path)
    assert audited.returncode == 1
    assert fault.found in audited.stderr


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


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha3_256", "blake2b", "blake2s"])
def test_a_hash_without_a_key_is_recognised_in_each_form(algorithm: str) -> None:
    for text in TEXTS.values():
        digest = hashlib.new(algorithm, text.encode()).digest()
        for form in (digest.hex(), digest.hex()[:16], digest.hex().upper(), base64.b64encode(digest).decode()):
            assert traces(f'{{"id":"{form}"}}'.encode()) == ["hashed without a key"]
        for raw in (digest, digest[:8], digest[:8][::-1]):
            assert traces(b"before" + raw + b"after") == ["hashed without a key"]


@pytest.mark.parametrize("size", [8, 16, 32])
def test_a_short_hash_is_recognised(size: int) -> None:
    for text in TEXTS.values():
        assert traces(hashlib.blake2b(text.encode(), digest_size=size).hexdigest().encode())


def test_a_checksum_is_recognised_as_a_number_by_itself_only() -> None:
    for text in TEXTS.values():
        checksum = crc32(text.encode())
        assert traces(b"[%d]" % checksum) == traces(b'"%08x"' % checksum) == ["as a checksum"]
        assert not traces(b"7%08x7" % checksum)
