"""The notice at the first command, and the display of the sources that decide whether telemetry is on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import PATIENCE_S, Place

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_each_source_is_shown_with_its_value_and_an_arrow_marks_the_source_that_decided() -> None:
    with Place() as place:
        assert place.run("telemetry", "on").returncode == 0
        awake, on = "no sign of production, CI or cloud", f"telemetry: true ({place.config_path})"
        cases: tuple[tuple[dict[str, str], str, tuple[str, ...]], ...] = (
            ({}, "config", ("not set", awake, "not set", on)),
            ({"BRAKIT_TELEMETRY": "on"}, "config", ("not set", awake, "on", on)),
            (
                {"BRAKIT_TELEMETRY": "disable"},
                "config",
                ("not set", awake, "disable (not understood, and without effect)", on),
            ),
            ({"BRAKIT_TELEMETRY": "Off"}, "BRAKIT_TELEMETRY", ("not set", awake, "Off", on)),
            ({"CI": "1", "BRAKIT_TELEMETRY": "on"}, "brakit's guards", ("not set", "CI=1", "on", on)),
            ({"CI": "1", "DO_NOT_TRACK": "1"}, "DO_NOT_TRACK", ("1", "CI=1", "not set", on)),
        )
        for environ, decided, values in cases:
            shown = place.run("telemetry", **environ).stdout.splitlines()[-6:-2]
            sources = ("DO_NOT_TRACK", "brakit's guards", "BRAKIT_TELEMETRY", "config")
            for line, source, value in zip(shown, sources, values, strict=True):
                assert line == f"{'->' if source == decided else '  '} {source:18} {value}"
        with open(place.config_path, "w", encoding="utf-8") as file:
            file.write("{")
        shown = place.run("telemetry", BRAKIT_TELEMETRY="on").stdout.splitlines()
        assert shown[0].startswith("telemetry is off")
        assert shown[-3].startswith("-> config ")


# --- the notice ---------------------------------------------------------------------------------------


def at_a_terminal(place: Place, *arguments: str, **environ: str) -> str:
    """Run a command whose stderr is a terminal, and return its stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "brakit_sidecar", *arguments],
        env={**place.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    assert process.wait(PATIENCE_S) == 0
    seen = b""
    os.set_blocking(ours, False)
    with suppress(OSError):  # there is no more output, or the terminal is closed
        while piece := os.read(ours, 4096):
            seen += piece
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


def without_closing_line(seen: str) -> str:
    """Return what a command printed without the line with which ``run`` ends."""
    return "".join(line for line in seen.splitlines(keepends=True) if "nothing was counted" not in line)


@pytest.fixture
def fresh() -> Iterator[Place]:
    with Place() as place:
        yield place


@pytest.mark.parametrize(
    "arguments", [("run", "true"), ("start",), ("emit", "cli_invoked"), ("session", "start")], ids=" ".join
)
def test_a_terminal_gets_the_notice_once(fresh: Place, arguments: tuple[str, ...]) -> None:
    seen = without_closing_line(at_a_terminal(fresh, *arguments))
    assert len(seen.splitlines()) == 4
    texts = ("anonymous usage statistics", "brakit-sidecar log", "telemetry off", "BRAKIT_TELEMETRY=false")
    for text in ("Destination: none: no project key", *texts):
        assert text in seen
    assert without_closing_line(at_a_terminal(fresh, "run", "true")) == at_a_terminal(fresh, "start") == ""


def test_without_a_terminal_the_notice_is_kept_for_the_next_terminal(fresh: Place) -> None:
    assert fresh.run("run", "true").stderr == ""
    assert without_closing_line(at_a_terminal(fresh, "run", "true")) != ""


OFF: tuple[dict[str, str], ...] = ({"BRAKIT_TELEMETRY": "off"}, {"DO_NOT_TRACK": "1"}, {"CI": "1"})


@pytest.mark.parametrize("environ", OFF, ids=str)
def test_while_telemetry_is_off_there_is_no_notice_and_no_file_for_it(fresh: Place, environ: dict[str, Any]) -> None:
    assert "statistics" not in at_a_terminal(fresh, "run", "true", **environ)
    assert os.listdir(fresh.home) == ([] if "CI" in environ else [".brakit"])
    assert "CI" in environ or json.dumps(fresh.config["telemetry"]) == "false"


def test_the_demo_shows_no_notice(fresh: Place) -> None:
    assert "statistics" not in at_a_terminal(fresh, "demo")
