"""The protocol of one connection without I/O: bytes of a client on one side, a book that notes calls on the other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import protocol as module
from brakit_sidecar.core.protocol import Ended, Joined, LineProtocol, TryLater
from brakit_sidecar.core.refusal import CLOSING, Refusal
from brakit_sidecar.core.session.member import Member
from brakit_sidecar.core.session.totals import ProducerTotals
from brakit_sidecar.core.wire import MAX_LINE

if TYPE_CHECKING:
    from brakit_sidecar.core.frames import Frame, Hello

SESSION = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01"
PRODUCER = "5d0e8a11-0000-4000-8000-000000000001"
HELLO: dict[str, Any] = {"protocol": 1, "session": SESSION, "producer": PRODUCER, "sdk": "python"}


class Book:
    """Answers as it was told, and notes every call."""

    def __init__(self) -> None:
        self.member = Member(SESSION, PRODUCER, ProducerTotals(PRODUCER), None)
        self.outcome: Joined | Ended | TryLater = Joined(self.member)
        self.answer: Any = {"fine": True}
        self.refuses: list[Refusal] = []
        self.takes_increments = False
        self.calls: list[Any] = []
        self.hellos: list[tuple[Hello, int | None, int]] = []

    def hello(self, hello: Hello, descriptor: int | None, pid: int) -> Joined | Ended | TryLater:
        self.hellos.append((hello, descriptor, pid))
        return self.outcome

    def receive_without_session(self, frame: Frame, destination: str | None) -> list[Refusal]:
        self.calls.append((destination, [event.event.name for event in frame.events]))
        return self.refuses

    def receive(self, member: Member, frame: Frame) -> list[Refusal]:
        assert member is self.member
        self.calls.append(dict(frame.totals) | {event.event.name: event.fields for event in frame.events})
        return self.refuses

    def receive_increments(self, member: Member, lines: list[bytes]) -> bool:
        if self.takes_increments:
            self.calls.append(len(lines))
        return self.takes_increments

    def ask(self, member: Member | None, question: Any) -> Any:
        self.calls.append(question)
        return self.answer

    def refused(self, reason: Refusal) -> None:
        self.calls.append(reason)

    def closed(self, member: Member, *, is_evicted: bool) -> None:
        raise AssertionError("the protocol does not close connections")


class Client:
    """The other side of a protocol."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.protocol = LineProtocol(book, pid=4711)

    def send(self, *lines: dict[str, Any], most: int | None = 100) -> Client:
        """Send lines, and let at most ``most`` be applied."""
        return self.send_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines), most)

    def send_bytes(self, data: bytes, most: int | None = 100) -> Client:
        self.protocol.receive_data(data)
        self.protocol.apply_pending(most)
        return self

    def received(self) -> list[dict[str, Any]]:
        """Read what is to be sent."""
        data = bytes(self.protocol.data_to_send())
        self.protocol.sent(len(data))
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def client(book: Book) -> Client:
    return Client(book)


# --- the hello ----------------------------------------------------------------------------------------


def test_a_hello_is_given_to_the_book_with_descriptor_and_pid(client: Client, book: Book) -> None:
    client.protocol.descriptor = 7
    client.send({"hello": {**HELLO, "counter_file": 1}})
    ((hello, descriptor, pid),) = book.hellos
    assert (hello.session, hello.producer, descriptor, pid) == (SESSION, PRODUCER, 7, 4711)
    assert client.protocol.descriptor is None
    assert client.protocol.member is book.member


def test_a_descriptor_without_the_key_stays_with_the_connection_to_be_closed(client: Client, book: Book) -> None:
    client.protocol.descriptor = 7
    client.send({"hello": HELLO})
    assert book.hellos[0][1] is None
    assert client.protocol.descriptor == 7


def test_a_hello_with_the_key_and_without_a_descriptor_is_given_to_the_book(client: Client, book: Book) -> None:
    client.send({"hello": {**HELLO, "counter_file": 1}})
    ((hello, descriptor, _pid),) = book.hellos
    assert (hello.counter_file, descriptor) == (1, None)


def test_an_accepted_counter_file_is_acknowledged() -> None:
    book = Book()
    book.outcome = Joined(book.member, takes_counter_file=True)
    assert Client(book).send({"hello": HELLO}).received() == [{"counter_file": 1}]


@pytest.mark.parametrize("destination", [None, "none", "0123456789abcdef"])
def test_events_without_a_session_are_given_to_the_book_with_the_hellos_destination(
    book: Book, client: Client, destination: str | None
) -> None:
    book.outcome = Joined(None)
    client.send({"hello": {"protocol": 1, "destination": destination}}, {"event": {"name": "cli_invoked"}})
    assert book.calls[-1] == (destination, ["cli_invoked"])


def test_a_refused_part_of_the_hello_is_answered(book: Book, client: Client) -> None:
    book.outcome = Joined(book.member, refused=Refusal.BAD_COUNTER_FILE)
    assert client.send({"hello": HELLO}).received() == [{"refused": {"reason": "bad_counter_file", "line": 1}}]
    assert not client.protocol.is_closing


def test_the_answer_about_the_counter_file_comes_before_the_other_refusals(book: Book, client: Client) -> None:
    book.outcome = Joined(book.member, takes_counter_file=True)
    lines = client.send({"hello": {**HELLO, "sdk": 1, "counter_file": 1}}, {"nonsense": 1}).received()
    assert lines == [
        {"counter_file": 1},
        {"refused": {"reason": "bad_value", "line": 1}},
        {"refused": {"reason": "unknown_key", "line": 2}},
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"incr": {"request_count": 1}}, Refusal.NO_HELLO),
        ({"hello": {"protocol": 9}}, Refusal.BAD_HELLO),
    ],
)
def test_a_first_line_without_a_good_hello_closes_the_connection(
    client: Client, book: Book, line: dict[str, Any], reason: Refusal
) -> None:
    client.send(line, {"hello": HELLO})
    assert client.protocol.is_closing
    assert client.protocol.outcome is None
    assert book.calls == [reason]
    assert client.received() == [{"refused": {"reason": reason.value, "line": 1}}]


def test_a_client_that_is_to_try_later_gets_no_answer(book: Book, client: Client) -> None:
    book.outcome = TryLater()
    assert client.send({"hello": HELLO}, {"ask": "status"}).received() == []
    assert client.protocol.is_closing
    assert book.calls == []


def test_a_second_hello_is_refused_and_the_rest_of_its_line_applies(client: Client, book: Book) -> None:
    client.send({"hello": HELLO}, {"hello": HELLO, "total": {"request_count": 3}}, {"hello": {"protocol": 9}})
    assert book.calls == [{}, Refusal.REPEATED_HELLO, {"request_count": 3}, Refusal.REPEATED_HELLO, {}]
    assert len(book.hellos) == 1


# --- lines --------------------------------------------------------------------------------------------


def test_lines_are_applied_in_order_however_the_bytes_are_split(client: Client, book: Book) -> None:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in ({"hello": HELLO}, *TOTALS))
    for position in range(len(data)):
        client.send_bytes(data[position : position + 1])
    assert book.calls == [{}, {"request_count": 1}, {"request_count": 2}, {"request_count": 3}]


TOTALS = [{"total": {"request_count": number}} for number in (1, 2, 3)]


def test_lines_beyond_the_turns_bound_wait_for_the_next_turn(client: Client, book: Book) -> None:
    client.send({"hello": HELLO}).send(*TOTALS, most=2)
    assert book.calls == [{}, {"request_count": 1}, {"request_count": 2}]
    assert client.protocol.has_pending
    client.protocol.apply_pending(2)
    assert book.calls[-1] == {"request_count": 3}
    assert not client.protocol.has_pending


def test_increments_behind_the_hello_are_counted_at_once(client: Client, book: Book) -> None:
    book.takes_increments = True
    client.send({"hello": HELLO}, *[{"incr": {"request_count": 1}}] * 3)
    assert book.calls == [{}, 3]


def test_lines_that_the_book_does_not_count_at_once_are_applied_one_by_one(client: Client, book: Book) -> None:
    client.send({"hello": HELLO}, *TOTALS)
    assert book.calls == [{}, *({"request_count": number} for number in (1, 2, 3))]


def test_a_refusal_of_the_book_is_answered_with_its_line(client: Client, book: Book) -> None:
    client.send({"hello": HELLO})
    book.refuses = [Refusal.NO_SESSION]
    assert client.send({}).received() == [{"refused": {"reason": "no_session", "line": 2}}]


def test_the_lines_that_were_counted_at_once_have_their_numbers(client: Client, book: Book) -> None:
    book.takes_increments = True
    client.send({"hello": HELLO}, {}, {})
    book.takes_increments = False
    assert client.send_bytes(b"[]\n").received() == [{"refused": {"reason": "not_an_object", "line": 4}}]


def test_each_refusal_is_counted_and_the_first_of_its_reason_answered(client: Client, book: Book) -> None:
    client.send({"hello": HELLO}).send_bytes(b"[]\n{\n[]\n")
    refused = [call for call in book.calls if isinstance(call, Refusal)]
    assert refused == [Refusal.NOT_AN_OBJECT, Refusal.BAD_JSON, Refusal.NOT_AN_OBJECT]
    assert [line["refused"]["line"] for line in client.received()] == [2, 3]


def test_a_line_that_is_too_long_closes_the_connection_after_the_lines_before_it(client: Client, book: Book) -> None:
    client.send({"hello": HELLO}).send_bytes(b'{"total":{"request_count":1}}\n' + b" " * MAX_LINE + b"\n{}\n")
    assert book.calls == [{}, {"request_count": 1}, Refusal.OVERSIZE]
    assert client.protocol.is_closing


def test_an_unfinished_line_that_is_too_long_closes_the_connection(client: Client, book: Book) -> None:
    client.send({"hello": HELLO}).send_bytes(b" " * MAX_LINE)
    assert book.calls == [{}, Refusal.OVERSIZE]
    assert client.received() == [{"refused": {"reason": "oversize", "line": 2}}]


@pytest.mark.parametrize("reason", Refusal)
def test_only_a_few_reasons_close_the_connection(client: Client, reason: Refusal) -> None:
    client.protocol.refuse(reason)
    assert client.protocol.is_closing == (reason in CLOSING)


# --- after the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [{"incr": {"request_count": 1}}, {"event": {"name": "first_request"}}, {"end": {}}], ids=str
)
def test_every_line_for_a_session_that_is_over_is_refused(book: Book, client: Client, line: dict[str, Any]) -> None:
    book.outcome = Ended()
    client.send({"hello": HELLO}, line)
    assert book.calls == [Refusal.SESSION_ENDED]
    assert client.protocol.member is None


def test_a_question_is_answered_even_if_the_session_is_over(book: Book, client: Client) -> None:
    book.outcome = Ended(Refusal.BAD_COUNTER_FILE)
    client.send({"hello": HELLO}, {"ask": "status"})
    assert client.received() == [{"refused": {"reason": "bad_counter_file", "line": 1}}, {"answer": {"fine": True}}]


# --- questions ----------------------------------------------------------------------------------------


def test_lines_behind_a_question_wait_until_its_answer_is_sent(client: Client, book: Book) -> None:
    client.send({"hello": HELLO}).send({"ask": "status"}, *TOTALS)
    assert book.calls == [{}, {}, "status"]
    assert client.protocol.owes_answer
    assert client.received() == [{"answer": {"fine": True}}]
    assert not client.protocol.owes_answer
    client.protocol.apply_pending(100)
    assert book.calls[3:] == [{"request_count": number} for number in (1, 2, 3)]


def test_lines_behind_a_question_in_the_first_line_wait_too(client: Client, book: Book) -> None:
    client.send({"hello": HELLO, "ask": "status"}, *TOTALS)
    assert book.calls == [{}, "status"]


def test_an_answer_that_is_sent_in_part_is_still_owed(client: Client) -> None:
    client.send({"hello": HELLO}, {"ask": "status"})
    client.protocol.sent(3)
    assert client.protocol.owes_answer
    assert bytes(client.protocol.data_to_send()).startswith(b"nswer")


def test_draining_applies_lines_behind_unanswered_questions(client: Client, book: Book) -> None:
    client.send({"hello": HELLO, "ask": "status"}, {"ask": "status"}, *TOTALS, most=None)
    assert book.calls[-1] == {"request_count": 3}
    assert client.received() == [{"answer": {"fine": True}}] * 2


def test_a_client_that_never_reads_gets_a_bounded_number_of_answers(
    client: Client, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 100)
    client.send({"hello": HELLO}, *[{"ask": "status"}] * 50, most=None)
    assert len(client.protocol.data_to_send()) < 200


def test_an_unknown_question_is_refused_and_answered_with_null(client: Client, book: Book) -> None:
    book.answer = Refusal.UNKNOWN_ASK
    assert client.send({"hello": HELLO}, {"ask": "what"}).received() == [
        {"refused": {"reason": "unknown_ask", "line": 2}},
        {"answer": None},
    ]


def test_a_question_that_a_stopping_daemon_cannot_answer_closes_the_connection(client: Client, book: Book) -> None:
    book.answer = TryLater()
    assert client.send({"hello": HELLO}, {"ask": {"open": {}}}, {}).received() == []
    assert client.protocol.is_closing
