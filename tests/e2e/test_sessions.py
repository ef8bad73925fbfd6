from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.harness import Endpoint, Place, new_id

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

WORKER = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 3)"


class Ran(NamedTuple):
    sessions: int
    bodies: list[dict[str, Any]]
    config: dict[str, Any]

    def each(self, name: str) -> list[Any]:
        """Return one property of each session."""
        return [body["properties"][name] for body in self.bodies]


def run_one(place: Place) -> None:
    ran = place.run("run", "--", sys.executable, "-c", WORKER)
    assert (ran.returncode, ran.stderr) == (0, "")


def in_a_row(place: Place, sessions: int) -> None:
    for _ in range(sessions):
        run_one(place)


def at_once(place: Place, sessions: int) -> None:
    with ThreadPoolExecutor(sessions) as shells:
        list(shells.map(run_one, [place] * sessions))


def run(how: Callable[[Place, int], None], sessions: int, config: dict[str, Any] | None = None) -> Ran:
    """Run the sessions in a new place. ``config`` is the user's config before the first session, if there is one."""
    endpoint = Endpoint()
    with Place(endpoint.url) as place:
        if config is not None:
            os.mkdir(os.path.dirname(place.config_path), 0o700)
            with open(place.config_path, "w", encoding="utf-8") as file:
                json.dump(config, file)
        how(place, sessions)
        endpoint.wait_for("session", sessions)
        assert place.run("stop").returncode == 0  # the daemon sends the queued events
        ran = Ran(sessions, endpoint.bodies, place.config)
    endpoint.close()
    return ran


@pytest.fixture(scope="module", params=[(in_a_row, 30), (at_once, 10)], ids=["thirty in a row", "ten at once"])
def ran(request: pytest.FixtureRequest) -> Ran:
    return run(*request.param)


def test_each_session_makes_one_event(ran: Ran) -> None:
    assert [body["event"] for body in ran.bodies] == ["session"] * ran.sessions


def test_no_two_sessions_have_the_same_uuid(ran: Ran) -> None:
    assert len({body["uuid"] for body in ran.bodies}) == ran.sessions


def test_each_session_has_the_counts_of_its_own_worker_only(ran: Ran) -> None:
    assert ran.each("request_count") == [3] * ran.sessions


def test_each_session_ends_clean(ran: Ran) -> None:
    assert ran.each("exit_reason") == ["clean"] * ran.sessions


def test_exactly_one_session_is_the_first_session(ran: Ran) -> None:
    assert ran.each("first_session").count(True) == 1


def test_all_sessions_have_the_anonymous_id_of_the_config(ran: Ran) -> None:
    assert {body["distinct_id"] for body in ran.bodies} == {ran.config["anonymousId"]}


@pytest.mark.parametrize("how", [in_a_row, at_once])
def test_no_session_is_the_first_session_if_the_config_existed_before(how: Callable[[Place, int], None]) -> None:
    config = {"telemetry": True, "anonymousId": new_id()}
    ran = run(how, 3, config)
    assert ran.each("first_session") == [False] * 3
    assert ran.config == config
