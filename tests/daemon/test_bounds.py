"""A daemon has a bounded number of sessions at once. What is beyond is refused, and the rest goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.core.session.table import MAX_SESSIONS

from tests.harness import Endpoint, Place, Wire, new_id, wait_until
from tests.node.nodes import newest_node
from tests.node.workers import run_script

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED = {"reason": "too_many", "line": 1}


class Full:
    """A daemon with as many sessions as it has room for, and a connection that opened them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.wire = Wire(place.socket_path).hello()
        self.sessions = [new_id() for _ in range(MAX_SESSIONS)]
        for session in self.sessions:
            assert self.wire.ask({"open": {"session": session}}) == ({"session": session}, [])

    def end_one(self) -> None:
        session = self.sessions.pop()
        self.wire.ask({"end": {"session": session}})
        wait_until(lambda: len(self.wire.ask()[0]["sessions"]) < MAX_SESSIONS, "the seal")


@pytest.fixture
def full(endpoint: Endpoint) -> Iterator[Full]:
    with Place(endpoint.url) as place:
        place.serve()
        full = Full(place)
        yield full
        full.wire.close()


def test_a_hello_that_would_open_one_session_too_many_is_refused_and_its_lines_count_for_nothing(full: Full) -> None:
    with Wire(full.place.socket_path).hello(new_id()) as worker:
        assert worker.sync() == [REFUSED]
        worker.send(incr={"request_count": 1}).send(incr={"request_count": 1})
        assert [refused["reason"] for refused in worker.sync()] == ["session_ended"]
        status = worker.ask()[0]
    assert len(status["sessions"]) == MAX_SESSIONS
    assert status["refused"] == {"session_ended": 2, "too_many": 1}


def test_a_hello_that_names_a_group_is_refused_if_there_is_no_room(full: Full) -> None:
    with Wire(full.place.socket_path).hello(group=new_id()) as worker:
        assert worker.sync() == [REFUSED]


def test_a_question_that_would_open_one_session_too_many_is_refused(full: Full) -> None:
    answer, refused = full.wire.ask({"open": {"session": new_id()}})
    assert answer is None
    assert [refusal["reason"] for refusal in refused] == ["too_many"]


def test_workers_of_open_sessions_go_on(full: Full) -> None:
    with Wire(full.place.socket_path).hello(full.sessions[0]) as worker:
        assert worker.send(incr={"request_count": 1}).sync() == []


def test_a_session_is_opened_again_after_another_has_ended(full: Full) -> None:
    full.end_one()
    with Wire(full.place.socket_path).hello(new_id()) as worker:
        assert worker.send(incr={"request_count": 1}).sync() == []


def test_a_command_runs_without_a_session_if_there_is_no_room(full: Full) -> None:
    ran = full.place.run("run", "--", "echo", "ran")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ran\n", "")


WORKER = """
import brakit_sidecar, socket, time
connects = []
connect = socket.socket.connect
socket.socket.connect = lambda self, path: (connects.append(path), connect(self, path))[1]
t = brakit_sidecar.connect()
for _ in range(25):
    t.incr("request_count")
    t.set(framework="flask")
    time.sleep(0.1)
t.close()
print(len(connects))
"""


def test_a_python_worker_that_is_refused_does_not_connect_again_and_again(full: Full) -> None:
    ran = full.place.run_python(WORKER, BRAKIT_SESSION_ID=new_id())
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1\n", "")


NODE_WORKER = """
const net = require('node:net');
let connects = 0;
const plain = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...args) { connects += 1; return plain.apply(this, args); };
const t = connect();
const counting = setInterval(() => t.incr('request_count'), 50);
setTimeout(() => { clearInterval(counting); t.close(); console.log(connects); }, 2500);
"""


@newest_node
def test_a_node_worker_that_is_refused_does_not_connect_again_and_again(node: str, full: Full) -> None:
    ran = run_script(node, full.place, NODE_WORKER, BRAKIT_SESSION_ID=new_id())
    assert (ran.returncode, ran.stderr) == (0, "")
    assert int(ran.stdout) <= 1
    assert full.wire.ask()[0]["refused"]["session_ended"] <= 2
