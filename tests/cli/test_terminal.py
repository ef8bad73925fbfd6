"""Escape sequences in receipts, config, environment and arguments do not reach the terminal."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import Place, run_to_end

if TYPE_CHECKING:
    from collections.abc import Iterator

EVIL = "\x1b]0;owned\x07\x9b31m\u202e\r"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202e\r"


@pytest.fixture
def place() -> Iterator[Place]:
    with Place() as place:
        yield place


def output_of(place: Place, *arguments: str, **environ: str) -> str:
    """Return what a command prints, after checking that each character of it is printable or a newline."""
    ran = place.run(*arguments, **environ)
    printed = ran.stdout + ran.stderr
    assert all(letter.isprintable() for letter in printed.replace("\n", "")), printed
    return printed


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_receipt_is_shown_with_its_control_characters_escaped(place: Place, form: tuple[str, ...]) -> None:
    directory = os.path.join(place.home, ".local", "state", "brakit")
    os.makedirs(directory, 0o700)
    receipt = dict.fromkeys(("at", "event", "uuid", "outcome", "reason", "body"), EVIL + "\n2026 forged")
    with open(os.open(os.path.join(directory, "receipts.jsonl"), os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(json.dumps(receipt) + "\n")
    printed = output_of(place, "log", *form)
    assert "owned" in printed
    assert not any(line.startswith("2026 forged") for line in printed.splitlines())


@pytest.mark.parametrize("command", ["telemetry", "status", "start", "serve"])
def test_a_variable_is_shown_with_its_control_characters_escaped(place: Place, command: str) -> None:
    assert f"CI={SHOWN}" in output_of(place, command, CI=EVIL)


def test_an_opt_out_is_shown_with_its_control_characters_escaped(place: Place) -> None:
    assert SHOWN in output_of(place, "telemetry", DO_NOT_TRACK=EVIL, BRAKIT_TELEMETRY=EVIL)


@pytest.mark.parametrize("content", [json.dumps({"telemetry": EVIL}), "{" + EVIL, json.dumps([EVIL])])
def test_a_config_is_shown_with_its_control_characters_escaped(place: Place, content: str) -> None:
    os.mkdir(os.path.dirname(place.config_path), 0o700)
    with open(os.open(place.config_path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
    for command in ("telemetry", "status", "start"):
        assert "off" in output_of(place, command)


def test_a_path_is_shown_with_its_control_characters_escaped(place: Place) -> None:
    home = os.path.join(place.root, EVIL)
    os.mkdir(home, 0o700)
    assert SHOWN in output_of(place, "telemetry", HOME=home)
    with open(os.path.join(home, ".brakit"), "w", encoding="utf-8"):
        pass
    assert SHOWN in output_of(place, "telemetry", "off", HOME=home)


@pytest.mark.parametrize(
    "arguments",
    [
        ("emit", EVIL), ("emit", "cli_invoked", EVIL), ("emit", "cli_invoked", f"{EVIL}=1"), ("session", "end", EVIL),
        ("session", "end", "2f418688-ad97-46a9-88ba-404720359eda", "--reason", EVIL), ("status", EVIL), (EVIL,),
        ("telemetry", EVIL), ("session", "start", "--owner-pid", EVIL), ("run", "--", EVIL), ("run", EVIL),
    ],
)  # fmt: skip
def test_an_argument_is_quoted_with_its_control_characters_escaped(place: Place, arguments: tuple[str, ...]) -> None:
    assert "owned" in output_of(place, *arguments)


def test_an_argument_that_is_not_text_is_quoted(place: Place) -> None:
    ran = run_to_end([sys.executable, "-m", "brakit_sidecar", "emit", os.fsdecode(b"\xff")], place.environ)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert r"there is no event \udcff" in ran.stderr
