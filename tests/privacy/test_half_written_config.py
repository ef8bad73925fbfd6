"""The config cannot be read for a moment. Workers and the daemon send nothing until they can read it again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from brakit_sidecar.client import counter_file
from brakit_sidecar.core import counter_layout

from tests.harness import Place, Wire, new_id, wait_until
from tests.privacy.worker import half_written_config

if TYPE_CHECKING:
    from tests.harness import Endpoint


def test_a_daemon_closes_new_workers_connections_until_it_can_read_the_config(place: Place) -> None:
    place.serve()
    session, producer, counted = new_id(), new_id(), counter_file.shared("/tmp")
    assert counted is not None
    assert counted.fd is not None
    with half_written_config(place):
        with Wire(place.socket_path) as worker:
            assert list(worker.hello(session, producer=producer, counter_file=counted.fd).lines()) == []
        with Wire(place.socket_path).hello() as command:
            assert list(command.send(ask={"open": {"session": session}}).lines()) == []
        assert place.status()["sessions"] == []
    with Wire(place.socket_path) as worker:
        worker.hello(session, producer=producer, counter_file=counted.fd)
        assert next(worker.lines()) == {"counter_file": counter_layout.VERSION}


def test_a_daemon_that_cannot_read_the_config_continues_open_sessions_and_sends_none_of_them(
    endpoint: Endpoint, place: Place
) -> None:
    """The program that wrote the config may have written a no for a moment."""
    place.serve(grace_s=0.5)
    session = new_id()
    with Wire(place.socket_path).hello(session) as wire:
        wire.send(incr={"request_count": 1}).sync()
        with half_written_config(place), Wire(place.socket_path).hello() as command:
            assert command.ask("consent")[0]["on"] is False
        wire.send(incr={"request_count": 1}, end={"exit_reason": "clean"}).sync()
    wait_until(place.receipts, "the receipt")
    (receipt,) = place.receipts()
    assert (receipt["outcome"], receipt["reason"]) == ("local", "config_changed")
    assert json.loads(receipt["body"])["properties"]["request_count"] == 2
    assert endpoint.bodies == []
