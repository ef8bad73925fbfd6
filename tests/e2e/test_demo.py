from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.core import page
from tests.harness import Place

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

NO_TELEMETRY = {"CI": "1", "BRAKIT_TELEMETRY": "false", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Place() as place:
        yield place


@pytest.fixture(scope="module", params=[{}, NO_TELEMETRY], ids=["by default", "in CI, opted out"])
def demo(request: pytest.FixtureRequest, place: Place) -> subprocess.CompletedProcess[str]:
    return place.run("demo", **request.param)


def rows(demo: subprocess.CompletedProcess[str]) -> dict[str, list[int]]:
    """Return the printed table: three counts by the name of their row."""
    found = re.findall(r"^ +(\S.*?) +(\d+) +(\d+) +(\d+)$", demo.stdout, re.MULTILINE)
    return {name: [int(count) for count in counts] for name, *counts in found}


def bodies(demo: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in demo.stdout.splitlines() if line.startswith("{")]


def test_the_demo_succeeds(demo: subprocess.CompletedProcess[str]) -> None:
    assert (demo.returncode, demo.stderr) == (0, "")


def test_the_workers_counts_add_up_to_the_counts_that_arrived(demo: subprocess.CompletedProcess[str]) -> None:
    table = rows(demo)
    arrived, in_all = table.pop("in the session event"), table.pop("all workers")
    assert len(table) >= 3
    assert arrived == in_all == [sum(column) for column in zip(*table.values(), strict=True)]


def test_one_worker_counted_and_was_killed(demo: subprocess.CompletedProcess[str]) -> None:
    (killed,) = (counts for name, counts in rows(demo).items() if "killed" in name)
    assert killed[0] > 0


def test_every_body_is_shown_as_a_json_object(demo: subprocess.CompletedProcess[str]) -> None:
    events = [json.loads(body) for body in bodies(demo)]
    assert sorted(event["event"] for event in events) == ["first_request", "session", "setup_completed"]
    for event in events:
        properties = {name: value for name, value in event["properties"].items() if name not in page.FIXED}
        assert page.broken_promises(event["event"], properties) == {}


def test_the_session_event_that_is_shown_has_the_counts_of_the_table(demo: subprocess.CompletedProcess[str]) -> None:
    (session,) = (event["properties"] for event in map(json.loads, bodies(demo)) if event["event"] == "session")
    counts = [session[name] for name in ("request_count", "query_count", "error_count")]
    assert counts == rows(demo)["in the session event"]


def test_the_demo_leaves_no_file(demo: subprocess.CompletedProcess[str], place: Place) -> None:
    assert demo.returncode == 0
    assert os.listdir(place.home) == os.listdir(place.runtime) == []
