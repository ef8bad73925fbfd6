"""The wire, spoken by hand to a real daemon: what counts, what is refused, and what ends a session."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import PATIENCE_S, Endpoint, Place, Wire, new_id, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE = 65_536
ROUTE, OTHER_ROUTE = "9f3a61c2d4e5b607", "00000000000000aa"


class Daemon:
    """The daemon that this file's tests share: each test has sessions of its own, and counts what it added."""

    def __init__(self, endpoint: Endpoint, place: Place) -> None:
        self.endpoint = endpoint
        self.place = place
        self.pid = place.serve().pid
        self.wires: list[Wire] = []  # all are closed in the end, whatever a test left open

    def wire(self) -> Wire:
        self.wires.append(Wire(self.place.socket_path))
        return self.wires[-1]

    def worker(self, session: str, **more: Any) -> Wire:
        return self.wire().hello(session, **more)

    def owner(self, session: str) -> Wire:
        """The owner of the session, which is open when this returns."""
        owner = self.wire().hello(session, role="owner")
        owner.sync()
        return owner

    def refused(self) -> Counter[str]:
        with self.wire().hello() as wire:
            return Counter(wire.ask()[0]["refused"])

    def sessions(self) -> dict[str, Any]:
        """The open sessions by id, as ``status`` has them."""
        with self.wire().hello() as wire:
            return {session["id"]: session for session in wire.ask()[0]["sessions"]}

    def events_of(self, session: str, name: str = "session") -> list[dict[str, Any]]:
        """What arrived of what a session sends once: known by its uuid."""
        expected = str(uuid.uuid5(uuid.UUID(session), name))
        return [body["properties"] for body in self.endpoint.bodies if body["uuid"] == expected]

    def session_of(self, session: str) -> dict[str, Any]:
        """The properties of the session's one event, once it has arrived."""
        wait_until(lambda: self.events_of(session), "the arrival of the session event")
        (properties,) = self.events_of(session)
        return properties

    def finish(self, session: str, exit_reason: str = "clean") -> dict[str, Any]:
        """Ends the session as an owner does."""
        with self.owner(session) as owner:
            owner.send(end={"exit_reason": exit_reason})
            return self.session_of(session)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    endpoint = Endpoint()
    with Place(endpoint.url) as place:
        daemon = Daemon(endpoint, place)
        yield daemon
        for wire in daemon.wires:
            wire.close()
    endpoint.close()


def reads_to_the_end(wire: Wire) -> list[dict[str, Any]]:
    """What the daemon still says before it hangs up."""
    return [said["refused"] for said in wire.lines()]


# --- what is wrong is refused, and costs nothing else -------------------------------------------------

BAD_LINES: dict[bytes, list[str]] = {
    b"{": ["bad_json"],
    b"\xff\xfe": ["bad_json"],
    b"": ["bad_json"],
    b'{"incr":{"request_count":NaN}}': ["bad_json"],
    b"[1]": ["not_an_object"],
    b'"request_count"': ["not_an_object"],
    b'{"secret":"/home/ada"}': ["unknown_key"],
    b'{"incr":{"password":1}}': ["unknown_field"],
    b'{"incr":{"avg_duration_ms":1}}': ["wrong_key"],
    b'{"set":{"exit_reason":"clean"}}': ["wrong_key"],
    b'{"incr":{"request_count":true}}': ["bad_value"],
    b'{"incr":{"request_count":-1,"query_count":0,"error_count":1.0}}': ["bad_value"] * 3,
    b'{"total":{"request_count":9007199254740992}}': ["bad_value"],
    b'{"set":{"framework":["flask"]}}': ["bad_value"],
    b'{"observe":{"9f3a61c2d4e5b607":[-1,86400001,"1"]}}': ["bad_value"] * 3,
    b'{"observe":{"GET /users":[1]}}': ["bad_id"],
    b'{"mark":{"insight_count":["the text itself","9F3A61C2D4E5B607"]}}': ["bad_id"] * 2,
    b'{"event":{"name":"session"}}': ["unknown_event"],
    b'{"event":{"name":"first_request","port":8000,"path":"/home"}}': ["unknown_field"],
    b'{"ask":"the time"}': ["unknown_ask"],
    b'{"hello":{"protocol":1}}': ["repeated_hello"],
}


def test_bad_lines_between_good_ones_cost_nothing_but_themselves(daemon: Daemon) -> None:
    sessions = [new_id(), new_id()]
    producers = [daemon.worker(session) for session in sessions for _ in range(2)]
    before = daemon.refused()
    for round_number, line in enumerate(BAD_LINES, 1):
        for producer in producers:
            producer.write(line + b"\n")
            producer.send(incr={"request_count": 1}, total={"query_count": 3 * round_number})
            producer.send(total={"query_count": 3 * round_number})  # said again
            producer.send(incr={"query_count": 2}, total={"error_count": round_number})
    for producer in producers:
        producer.send(end={"exit_reason": "clean"}).close()
    ended = [daemon.finish(session) for session in sessions]

    # Each round's total is past what the increments had made of the last one, so the last round is the sum.
    rounds = len(BAD_LINES)
    for properties in ended:
        assert properties["request_count"] == 2 * rounds
        assert properties["query_count"] == 2 * (3 * rounds + 2)
        assert properties["error_count"] == 2 * rounds
    expected = Counter(reason for reasons in BAD_LINES.values() for reason in reasons)
    assert daemon.refused() - before == Counter({reason: 4 * count for reason, count in expected.items()})


def test_the_good_part_of_a_line_applies(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker:
        worker.write(b'{"incr":{"request_count":2,"nonsense":1},"set":{"framework":"flask","os":"mine"},"what":0}\n')
        worker.sync()
    ended = daemon.finish(session)
    assert (ended["request_count"], ended["framework"]) == (2, "flask")


def test_each_reason_is_answered_once_a_connection_with_its_line(daemon: Daemon) -> None:
    session = new_id()
    for _ in range(2):  # the second connection is answered as the first one was
        with daemon.worker(session) as worker:  # line 1
            worker.send(incr={"request_count": 1})
            worker.write(b"{\n")  # line 3
            worker.send(incr={"nonsense": 1})  # line 4
            worker.write(b"{\n")
            worker.send(incr={"nonsense": 1, "request_count": 0})  # line 6
            assert worker.sync() == [
                {"reason": "bad_json", "line": 3},
                {"reason": "unknown_field", "line": 4},
                {"reason": "bad_value", "line": 6},
            ]
            assert worker.write(b"{\n").sync() == []


def test_a_bad_word_in_the_hello_is_refused_and_the_connection_goes_on(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session, role="king") as worker:
        assert worker.send(incr={"request_count": 1}).sync() == [{"reason": "bad_value", "line": 1}]
    assert daemon.finish(session)["request_count"] == 1


def test_what_was_refused_is_never_echoed(daemon: Daemon) -> None:
    with daemon.worker(new_id()) as worker:
        worker.write(b'{"incr":{"tell-tale":1},"tell-tale":1}\n{"tell-tale\n').write(b'{"ask":"tell-tale"}\n')
        answer, refused = worker.ask()
        assert "tell-tale" not in json.dumps([answer, refused])


def test_a_word_outside_the_vocabulary_is_no_refusal(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session, sdk="cobol") as worker:
        worker.send(set={"framework": "cobol-on-cogs"}, add={"insight_types": ["n1", "new-kind"]})
        assert worker.sync() == []
    ended = daemon.finish(session, exit_reason="bored")
    assert (ended["framework"], ended["insight_types"]) == ("other", ["n1", "other"])
    assert (ended["sdk"], ended["exit_reason"]) == ("unknown", "unknown")


# --- what closes the connection -----------------------------------------------------------------------

GOOD_HELLO = {"protocol": 1, "session": new_id(), "producer": new_id(), "sdk": "python", "role": "worker"}


def hello_but(**wrong: object) -> bytes:
    return json.dumps({"hello": {**GOOD_HELLO, **wrong}}).encode() + b"\n"


CLOSING: dict[str, tuple[bytes, str]] = {
    "a first line that is no hello": (b'{"incr":{"request_count":1}}\n', "no_hello"),
    "a first line that is no JSON": (b"hello\n", "no_hello"),
    "an empty first line": (b"\n", "no_hello"),
    "a session that is no UUID": (hello_but(session="7"), "bad_hello"),
    "a producer that is no UUID": (hello_but(producer=7), "bad_hello"),
    "a group that is no UUID": (hello_but(group="g"), "bad_hello"),
    "an unknown protocol": (hello_but(protocol=2), "bad_hello"),
    "a protocol that is no number": (hello_but(protocol="1"), "bad_hello"),
    "a hello that is no object": (b'{"hello":1}\n', "bad_hello"),
    "a first line that is too long": (b"x" * MAX_LINE + b"\n", "oversize"),
}


@pytest.mark.parametrize(("said", "reason"), CLOSING.values(), ids=CLOSING)
def test_it_is_answered_counted_and_closed(daemon: Daemon, said: bytes, reason: str) -> None:
    before = daemon.refused()
    with daemon.wire() as wire:
        wire.write(said)
        assert reads_to_the_end(wire) == [{"reason": reason, "line": 1}]
    assert daemon.refused() - before == Counter({reason: 1})


def test_nothing_behind_a_closing_refusal_applies(daemon: Daemon) -> None:
    session = new_id()
    with daemon.wire() as wire:
        good = json.dumps({"hello": {**GOOD_HELLO, "session": session}}).encode() + b'\n{"incr":{"request_count":1}}\n'
        wire.write(b"{}\n" + good)
        assert reads_to_the_end(wire) == [{"reason": "no_hello", "line": 1}]
    assert session not in daemon.sessions()


def padded(length: int) -> bytes:
    """A good line that counts one request, of just so many bytes with its newline."""
    line = b'{"incr":{"request_count":1}'
    return line + b" " * (length - len(line) - 2) + b"}\n"


def test_a_line_of_exactly_65536_bytes_with_its_newline_is_fine(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker:
        assert worker.write(padded(MAX_LINE)).write(padded(MAX_LINE)).sync() == []
    assert daemon.finish(session)["request_count"] == 2


def test_one_byte_more_is_oversize_and_good_lines_before_it_count(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker:
        worker.write(padded(40) + padded(50) + padded(MAX_LINE + 1) + padded(40))
        assert reads_to_the_end(worker) == [{"reason": "oversize", "line": 4}]
    assert daemon.finish(session)["request_count"] == 2


def test_a_line_without_an_end_is_oversize_as_soon_as_it_is_too_long(daemon: Daemon) -> None:
    with daemon.worker(new_id()) as worker:
        worker.write(b"x" * MAX_LINE)
        assert reads_to_the_end(worker) == [{"reason": "oversize", "line": 2}]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_and_closed() -> None:
    """The file's mode keeps others out already; here it is opened for them, as root needs no opening."""
    with Place() as place:
        place.start()
        directories = (place.root, place.runtime, os.path.dirname(place.socket_path))
        for directory in directories:
            os.chmod(directory, 0o755)
        os.chmod(place.socket_path, 0o666)
        foreigner = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@"', "sh", os.path.realpath(sys.executable), "-I", "-S", "-c", _FOREIGNER,
             place.socket_path],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        for directory in directories:
            os.chmod(directory, 0o700)
        assert foreigner.returncode == 0, foreigner.stderr
        (answer,) = map(json.loads, foreigner.stdout.splitlines())
        assert answer["refused"]["reason"] == "foreign_user"
        assert place.status()["refused"] == {"foreign_user": 1}


# Becomes nobody that anybody knows, connects, speaks, and prints what comes until the daemon hangs up.
_FOREIGNER = """
import os, socket, sys
os.setgid(54321); os.setuid(54321)
stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect(sys.argv[1])
try:
    stream.sendall(b'{"hello":{"protocol":1}}\\n{"ask":"stop"}\\n')
except BrokenPipeError:
    pass
said = b""
try:
    while chunk := stream.recv(65536):
        said += chunk
except ConnectionResetError:
    pass
print(said.decode(), end="")
"""


# --- how the bytes come -------------------------------------------------------------------------------


def test_a_frame_may_be_split_anywhere(daemon: Daemon) -> None:
    session = new_id()

    def speech() -> bytes:
        hello = {"protocol": 1, "session": session, "producer": new_id(), "sdk": "python"}
        said = [{"hello": hello}, {"incr": {"request_count": 1}}, {"set": {"framework": "flask"}}]
        return b"".join(json.dumps(frame).encode() + b"\n" for frame in said)

    splits = range(1, len(speech()))
    with daemon.wire().hello() as other:
        for at in splits:
            with daemon.wire() as wire:
                whole = speech()
                wire.write(whole[:at])
                other.sync()  # the daemon had a turn, and most likely read the first piece
                wire.write(whole[at:])
                assert wire.sync() == []
    assert daemon.finish(session)["request_count"] == len(splits)


def test_a_frame_may_drip_in_byte_by_byte(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker, daemon.wire().hello() as other:
        for byte in b'{"incr":{"request_count":7}}\n':
            worker.write(bytes([byte]))
            other.sync()
        assert worker.sync() == []
    assert daemon.finish(session)["request_count"] == 7


def test_the_last_line_needs_its_newline(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker:
        worker.send(incr={"request_count": 1}).write(b'{"incr":{"request_count":1}}')
    assert daemon.finish(session)["request_count"] == 1


def test_an_ask_is_answered_after_all_before_it(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker:
        worker.write(b'{"incr":{"request_count":1}}\n' * 5000)
        status, _ = worker.ask()
        (fields,) = [found["fields"] for found in status["sessions"] if found["id"] == session]
        assert fields["request_count"] == 5000
    daemon.finish(session)


def test_an_ask_in_a_line_is_answered_after_the_rest_of_the_line(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker:
        worker.write(b'{"ask":"status","incr":{"request_count":3}}\n')
        answer = next(worker.lines())["answer"]
        (fields,) = [found["fields"] for found in answer["sessions"] if found["id"] == session]
        assert fields["request_count"] == 3
    daemon.finish(session)


def test_an_unknown_ask_gets_an_empty_answer_and_a_refusal(daemon: Daemon) -> None:
    with daemon.wire().hello() as wire:
        assert wire.ask("the time") == (None, [{"reason": "unknown_ask", "line": 2}])


def test_a_producer_that_never_reads_is_not_waited_for(daemon: Daemon) -> None:
    session = new_id()
    owner = daemon.owner(session)
    with daemon.worker(session) as deaf:
        deaf.write(b'{\n[]\n{"incr":{"nonsense":1}}\n{"incr":{"request_count":5}}\n' * 2000)
        with daemon.worker(session) as other:
            other.send(incr={"request_count": 1}).sync()
        owner.send(end={"exit_reason": "clean"})
        assert daemon.session_of(session)["request_count"] == 10_001
    owner.close()


def test_what_was_written_behind_a_question_counts_though_its_answer_is_never_read(daemon: Daemon) -> None:
    session = new_id()
    owner = daemon.owner(session)
    with daemon.worker(session) as deaf:
        deaf.write(b'{"ask":"status"}\n' * 500)  # more answers than its socket holds
        deaf.write(b'{"incr":{"request_count":5}}\n' * 100)
        owner.send(end={"exit_reason": "clean"})
        assert daemon.session_of(session)["request_count"] == 500
    owner.close()


def test_questions_amid_which_a_session_is_sealed_all_get_their_answers(daemon: Daemon) -> None:
    session = new_id()
    with daemon.owner(session) as owner:
        owner.write(b'{"end":{"exit_reason":"clean"}}\n' + b'{"ask":"identity"}\n' * 5)
        assert daemon.session_of(session)["exit_reason"] == "clean"
        assert [list(said) for said in islice(owner.lines(), 5)] == [["answer"]] * 5


def test_a_producer_that_says_nothing_at_all_holds_up_nobody(daemon: Daemon) -> None:
    session = new_id()
    with daemon.wire():
        assert daemon.finish(session)["request_count"] == 0


# --- sessionless connections --------------------------------------------------------------------------


def test_without_a_session_only_event_and_ask_lines_count(daemon: Daemon) -> None:
    before = daemon.refused()
    with daemon.wire().hello() as wire:
        wire.send(incr={"request_count": 1}).send(set={"framework": "flask"}).send(end={"exit_reason": "clean"})
        assert wire.sync() == [{"reason": "no_session", "line": 2}]
    assert daemon.refused() - before == Counter(no_session=3)


def test_a_journey_event_needs_no_session(daemon: Daemon) -> None:
    already = len(daemon.endpoint.bodies_of("cli_invoked"))
    with daemon.wire().hello() as wire:
        wire.send(event={"name": "cli_invoked", "command": "install", "has_package_json": True})
        wire.send(event={"name": "cli_invoked", "command": "install", "has_package_json": True})
        assert wire.sync() == []
    first, second = daemon.endpoint.wait_for("cli_invoked", already + 2)[already:]
    assert first["properties"]["command"] == "install"
    assert first["uuid"] != second["uuid"]


# --- events of a session ------------------------------------------------------------------------------


def test_an_event_once_a_session_is_sent_once_and_still_teaches(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as first, daemon.worker(session) as second:
        first.send(event={"name": "setup_completed", "framework": "flask", "adapters_detected": ["pg"]}).sync()
        second.send(event={"name": "setup_completed", "adapters_detected": ["prisma"], "setup_duration_ms": 9}).sync()
    ended = daemon.finish(session)
    (event,) = daemon.events_of(session, "setup_completed")
    assert (event["adapters_detected"], event["setup_duration_ms"]) == (["pg"], 0)
    assert (ended["adapters_detected"], ended["setup_duration_ms"]) == (["pg", "prisma"], 9)
    assert ended["framework"] == "flask"


def test_the_dashboards_view_has_the_requests_of_all_workers(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as first, daemon.worker(session) as second:
        first.send(incr={"request_count": 40}).sync()
        second.send(incr={"request_count": 2}, event={"name": "dashboard_viewed"}).sync()
    ended = daemon.finish(session)
    (event,) = daemon.events_of(session, "dashboard_viewed")
    assert event["request_count_at_open"] == 42
    assert ended["dashboard_opened"] is True
    assert ended["time_to_dashboard_ms"] == event["time_to_dashboard_ms"] >= 0


# --- producers ----------------------------------------------------------------------------------------


def test_a_producer_that_reconnects_goes_on(daemon: Daemon) -> None:
    session, producer = new_id(), new_id()
    for total in (5, 5, 9):
        with daemon.worker(session, producer=producer) as worker:
            worker.send(total={"request_count": total}, incr={"query_count": 1}).sync()
    ended = daemon.finish(session)
    assert (ended["request_count"], ended["query_count"]) == (9, 3)


def test_ids_and_routes_count_once_across_workers(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as first, daemon.worker(session) as second:
        for worker in (first, second):
            worker.send(mark={"insight_count": [ROUTE, OTHER_ROUTE]}, observe={ROUTE: [100, 300]}).sync()
        second.send(incr={"insight_count": 2}, observe={OTHER_ROUTE: [5000]}).sync()
    ended = daemon.finish(session)
    assert (ended["insight_count"], ended["endpoint_count"]) == (4, 2)
    assert (ended["avg_duration_ms"], ended["slowest_endpoint_bucket"]) == (1160, ">5000ms")


def test_status_knows_living_producers_and_those_that_are_gone(daemon: Daemon) -> None:
    session = new_id()
    owner = daemon.owner(session)
    with daemon.worker(session) as staying:
        with daemon.worker(session) as leaving:
            leaving.sync()
        staying.sync()
        wait_until(lambda: daemon.sessions()[session]["producers"] == {"live": 1, "gone": 1})
    owner.send(end={"exit_reason": "clean"})
    daemon.session_of(session)
    owner.close()


# --- the end of a session, by its owner ---------------------------------------------------------------


def test_the_owners_word_is_the_exit_reason(daemon: Daemon) -> None:
    assert daemon.finish(new_id(), "sighup")["exit_reason"] == "sighup"


def test_sdk_is_the_workers_never_the_owners(daemon: Daemon) -> None:
    session = new_id()
    owner = daemon.wire().hello(session, role="owner", sdk="node")
    owner.sync()
    with daemon.worker(session, sdk="python") as worker:
        worker.sync()
    owner.send(end={"exit_reason": "clean"})
    assert daemon.session_of(session)["sdk"] == "python"
    owner.close()


def test_what_was_written_before_the_owners_end_counts_also_where_nobody_has_been_accepted(daemon: Daemon) -> None:
    session = new_id()
    owner = daemon.owner(session)
    with suspended(daemon.pid):
        for _ in range(200):
            with daemon.worker(session) as worker:
                worker.send(incr={"request_count": 3})
        owner.send(end={"exit_reason": "clean"})
    assert daemon.session_of(session)["request_count"] == 600
    owner.close()


def test_producers_that_come_and_go_until_the_owner_ends_are_counted(daemon: Daemon) -> None:
    session = new_id()
    owner = daemon.owner(session)
    for _ in range(200):
        with daemon.worker(session) as worker:
            worker.send(incr={"request_count": 3})
    owner.send(end={"exit_reason": "clean"})
    assert daemon.session_of(session)["request_count"] == 600
    owner.close()


def test_a_living_worker_may_say_goodbye_after_the_owners_end(daemon: Daemon) -> None:
    session = new_id()
    owner = daemon.owner(session)
    with daemon.worker(session) as worker:
        worker.send(incr={"request_count": 1}).sync()
        with suspended(daemon.pid):
            owner.send(end={"exit_reason": "clean"}).close()
            worker.send(incr={"request_count": 1}).send(end={"exit_reason": "clean"})
        assert daemon.session_of(session)["request_count"] == 2


def test_a_worker_that_had_not_been_accepted_is_waited_for_too(daemon: Daemon) -> None:
    """Its hello waits when the owner's end is read: the daemon takes it in first, and then hears it out."""
    session = new_id()
    owner = daemon.owner(session)
    with suspended(daemon.pid):
        worker = daemon.worker(session)
        owner.send(end={"exit_reason": "clean"})
    with worker:
        worker.sync()  # it has been accepted by now; half a second is a long time for the next line
        worker.send(incr={"request_count": 1}, end={"exit_reason": "clean"})
        assert daemon.session_of(session)["request_count"] == 1
    owner.close()


def test_a_worker_that_never_says_goodbye_is_not_waited_for_long(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker:
        worker.send(incr={"request_count": 1}).sync()
        assert daemon.finish(session)["request_count"] == 1  # while the worker stays


def test_a_killed_owner_is_a_crash(daemon: Daemon) -> None:
    session = new_id()
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, daemon.place.socket_path, session], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline()
    with daemon.worker(session) as worker:
        worker.send(incr={"request_count": 1}, end={"exit_reason": "clean"}).sync()
        owner.kill()
        owner.communicate(timeout=PATIENCE_S)
        ended = daemon.session_of(session)
        assert (ended["exit_reason"], ended["request_count"]) == ("crash", 1)


_OWNER = """
import json, socket, sys, uuid
stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect(sys.argv[1])
hello = {"protocol": 1, "session": sys.argv[2], "producer": str(uuid.uuid4()), "role": "owner"}
stream.sendall(json.dumps({"hello": hello}).encode() + b'\\n{"ask":"identity"}\\n')
stream.recv(65536)
print("open", flush=True)
sys.stdin.read() or stream.recv(1)
"""


# --- after the end ------------------------------------------------------------------------------------


def test_a_hello_to_an_ended_session_is_accepted_and_its_lines_are_refused(daemon: Daemon) -> None:
    session = new_id()
    daemon.finish(session)
    before = daemon.refused()
    with daemon.worker(session) as late:
        late.send(incr={"request_count": 1}).send(event={"name": "first_request", "port": 80})
        late.send(end={"exit_reason": "crash"})
        assert late.sync() == [{"reason": "session_ended", "line": 2}]
    assert daemon.refused() - before == Counter(session_ended=3)
    assert session not in daemon.sessions()
    assert len(daemon.events_of(session)) == 1
    assert daemon.events_of(session, "first_request") == []


def test_an_owner_cannot_open_an_ended_session_again(daemon: Daemon) -> None:
    session = new_id()
    daemon.finish(session)
    with daemon.owner(session) as owner:
        assert owner.send(end={"exit_reason": "crash"}).sync() == [{"reason": "session_ended", "line": 3}]
    assert daemon.session_of(session)["exit_reason"] == "clean"


def test_a_worker_that_outlives_its_session_is_refused(daemon: Daemon) -> None:
    session = new_id()
    with daemon.worker(session) as worker:
        worker.send(incr={"request_count": 1}).sync()
        assert daemon.finish(session)["request_count"] == 1
        assert worker.send(incr={"request_count": 1}).sync() == [{"reason": "session_ended", "line": 4}]


# --- the ends that wait for the grace time: all of them wait at once ----------------------------------


class Graced(dict[str, dict[str, Any]]):
    """The session events by what happened."""


@pytest.fixture(scope="module")
def graced(daemon: Daemon) -> Graced:
    ids: dict[str, str] = {}

    def session(what: str) -> str:
        ids[what] = new_id()
        return ids[what]

    def group(what: str) -> str:
        """A group, and one worker that stays until all have joined."""
        group = new_id()
        before = daemon.sessions().keys()
        with daemon.wire().hello(group=group) as first:
            first.send(incr={"request_count": 1}).sync()
            (ids[what],) = daemon.sessions().keys() - before
            with daemon.wire().hello(group=group) as second:
                second.send(incr={"request_count": 10}, end={"exit_reason": "clean"}).sync()
        return group

    with daemon.worker(session("the last producer crashes")) as worker:
        with daemon.worker(ids["the last producer crashes"]) as earlier:
            earlier.send(end={"exit_reason": "clean"}).sync()
        worker.send(incr={"request_count": 2}).sync()

    with daemon.worker(session("the last producer says sigterm")) as worker:
        with daemon.worker(ids["the last producer says sigterm"]) as earlier:
            earlier.send(incr={"request_count": 2}).sync()
        worker.send(end={"exit_reason": "sigterm"}).sync()

    with daemon.worker(session("a reload")) as worker:
        worker.send(incr={"request_count": 1}, end={"exit_reason": "clean"}).sync()

    group("a group")
    daemon.owner(session("the owner loses its connection")).close()
    daemon.owner(session("the owner comes back")).close()

    # Within the grace of those above: each of these goes on.
    with daemon.worker(ids["a reload"]) as worker:
        worker.send(incr={"request_count": 1}, end={"exit_reason": "sigint"}).sync()
    with daemon.owner(ids["the owner comes back"]) as owner:
        wait_until(lambda: daemon.events_of(ids["the owner loses its connection"]), "the end of the grace")
        owner.send(end={"exit_reason": "sigint"}).sync()
    return Graced({what: daemon.session_of(session_id) for what, session_id in ids.items()})


@pytest.mark.slow
def test_without_an_owner_the_last_producers_crash_is_the_sessions(graced: Graced) -> None:
    ended = graced["the last producer crashes"]
    assert (ended["exit_reason"], ended["request_count"]) == ("crash", 2)


@pytest.mark.slow
def test_without_an_owner_the_last_producers_word_is_the_sessions(graced: Graced) -> None:
    ended = graced["the last producer says sigterm"]
    assert (ended["exit_reason"], ended["request_count"]) == ("sigterm", 2)


@pytest.mark.slow
def test_a_worker_that_comes_within_the_grace_continues_the_session(graced: Graced) -> None:
    ended = graced["a reload"]
    assert (ended["exit_reason"], ended["request_count"]) == ("sigint", 2)


@pytest.mark.slow
def test_the_workers_of_a_group_are_one_session(graced: Graced) -> None:
    assert graced["a group"]["request_count"] == 11


@pytest.mark.slow
def test_an_owner_that_lost_its_connection_and_stays_away_is_a_crash(graced: Graced) -> None:
    assert graced["the owner loses its connection"]["exit_reason"] == "crash"


@pytest.mark.slow
def test_an_owner_that_comes_back_within_the_grace_goes_on(graced: Graced) -> None:
    assert graced["the owner comes back"]["exit_reason"] == "sigint"


def test_two_groups_are_two_sessions(daemon: Daemon) -> None:
    before = daemon.sessions().keys()
    with daemon.wire().hello(group=new_id()) as one, daemon.wire().hello(group=new_id()) as another:
        one.sync()
        another.sync()
        assert len(daemon.sessions().keys() - before) == 2


def test_many_connections_at_once_are_all_served(daemon: Daemon) -> None:
    session = new_id()
    owner = daemon.owner(session)
    wires = [daemon.worker(session).send(incr={"request_count": 1}) for _ in range(300)]
    for wire in wires:
        wire.send(end={"exit_reason": "clean"})
        wire.stream.shutdown(socket.SHUT_WR)
    owner.send(end={"exit_reason": "clean"})
    assert daemon.session_of(session)["request_count"] == 300
    for wire in (*wires, owner):
        wire.close()
