"""The config cannot be read for a moment. Workers and the daemon send nothing until they can read it again."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.client import counter_file
from brakit_sidecar.core import counter_layout

from tests.harness import Place, Wire, end_process, new_id
from tests.privacy.worker import Worker, half_written_config

if TYPE_CHECKING:
    from tests.harness import Endpoint


def test_a_worker_connects_to_no_daemon_until_it_can_read_the_config(endpoint: Endpoint, place: Place) -> None:
    served, session = place.serve(), new_id()
    with Worker(place, session) as worker:
        endpoint.wait_for("first_request")
        end_process(served, signal.SIGKILL)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as another, half_written_config(place):
            os.unlink(place.socket_path)
            another.bind(place.socket_path)
            another.listen()
            another.setblocking(False)
            worker.count_after_two_polls()
            with pytest.raises(BlockingIOError):
                another.accept()
        place.serve(grace_s=0.5)
        worker.count_after_two_polls()
    assert endpoint.session_of(session)["request_count"] == 2 * 5


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


def test_a_daemon_that_cannot_read_the_config_continues_open_sessions(endpoint: Endpoint, place: Place) -> None:
    place.serve(grace_s=0.5)
    session = new_id()
    with Wire(place.socket_path).hello(session) as wire:
        wire.send(incr={"request_count": 1}).sync()
        with half_written_config(place), Wire(place.socket_path).hello() as command:
            assert command.ask("consent")[0] == {"on": False}
        wire.send(incr={"request_count": 1}, end={"exit_reason": "clean"}).sync()
    assert endpoint.session_of(session)["request_count"] == 2
