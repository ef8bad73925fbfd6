"""The requests that arrive at the remote endpoint, and the outcome of events that must not be sent."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import uuid
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from brakit_sidecar import __version__

from tests import faults
from tests.core import page
from tests.faults import Certificate, FaultyEndpoint
from tests.harness import Endpoint, Place, Wire, new_id, receipt_of_one_event, suspended, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def report_a_session(place: Place, session: str) -> None:
    """Report a whole session over the wire, with each of its events once."""
    with Wire(place.socket_path).hello(session, role="owner") as owner:
        owner.sync()
        with Wire(place.socket_path).hello(session) as worker:
            worker.send(set={"framework": "flask", "brakit_version": "0.1.7", "python_version": "3.12.1"})
            worker.send(event={"name": "setup_completed", "setup_duration_ms": 120})
            worker.send(incr={"request_count": 1}, event={"name": "first_request", "port": 8000})
            worker.send(event={"name": "dashboard_viewed"}, add={"tabs_viewed": ["overview"]})
            worker.send(end={"exit_reason": "clean"}).sync()
        owner.send(end={"exit_reason": "clean"}).sync()


# --- the exact requests -------------------------------------------------------------------------------


class Arrived(NamedTuple):
    """All that arrived at an endpoint, and what it is compared with."""

    session: str
    anonymous_id: str
    requests: list[tuple[str, dict[str, str], bytes]]
    receipts: list[dict[str, Any]]
    began: datetime
    ended: datetime

    def by_event(self) -> dict[str, dict[str, Any]]:
        return {body["event"]: body for body in map(json.loads, (raw for _path, _headers, raw in self.requests))}


@pytest.fixture(scope="module")
def arrived() -> Iterator[Arrived]:
    """Report a session, and the two events that need no session, to a healthy endpoint."""
    endpoint, session = Endpoint(), new_id()
    began = datetime.now(timezone.utc)
    with Place(endpoint.url + "/") as place:  # the slash at the end makes no difference
        place.start()
        report_a_session(place, session)
        with Wire(place.socket_path).hello() as wire:
            for _ in range(2):
                wire.send(event={"name": "cli_invoked", "command": "install", "brakit_version": "0.10.2"})
            wire.send(event={"name": "cli_uninstall", "data_removed": True}).sync()
        wait_until(lambda: len(endpoint.requests) == 7 == len(place.receipts()), "the arrival of all events")
        anonymous_id = place.config["anonymousId"]
        yield Arrived(session, anonymous_id, endpoint.requests, place.receipts(), began, datetime.now(timezone.utc))
    endpoint.close()


def test_each_event_is_sent_by_one_post_to_the_capture_path(arrived: Arrived) -> None:
    assert {path for path, _headers, _raw in arrived.requests} == {"/i/v0/e/"}
    assert set(arrived.by_event()) == set(page.EVENTS)


def test_a_request_has_exactly_these_headers(arrived: Arrived) -> None:
    for _path, headers, raw in arrived.requests:
        assert set(headers) == {
            "host", "content-type", "content-length", "user-agent", "accept", "accept-encoding", "connection",
        }  # fmt: skip
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"] == f"brakit-sidecar/{__version__}"
        assert headers["content-length"] == str(len(raw))


def test_a_body_has_exactly_these_keys(arrived: Arrived) -> None:
    for body in arrived.by_event().values():
        assert list(body) == ["api_key", "event", "distinct_id", "uuid", "timestamp", "properties"]
        assert body["api_key"] == "phc_test"


def test_the_distinct_id_is_the_anonymous_id_of_the_config(arrived: Arrived) -> None:
    assert {body["distinct_id"] for body in arrived.by_event().values()} == {arrived.anonymous_id}
    assert str(uuid.UUID(arrived.anonymous_id)) == arrived.anonymous_id


@pytest.mark.parametrize("event", page.EVENTS)
def test_the_properties_are_the_properties_of_the_telemetry_page(arrived: Arrived, event: str) -> None:
    properties = arrived.by_event()[event]["properties"]
    promised = {name: value for name, value in properties.items() if not name.startswith("$")}
    assert page.broken_promises(event, promised) == {}
    assert {name: value for name, value in properties.items() if name.startswith("$")} == page.FIXED


@pytest.mark.parametrize("event", ["session", "setup_completed", "first_request", "dashboard_viewed"])
def test_the_uuid_of_a_once_only_event_is_derived_from_the_session_and_the_event(arrived: Arrived, event: str) -> None:
    assert arrived.by_event()[event]["uuid"] == str(uuid.uuid5(uuid.UUID(arrived.session), event))


def test_an_event_that_may_be_repeated_has_a_random_uuid_each_time(arrived: Arrived) -> None:
    bodies = [json.loads(raw) for _path, _headers, raw in arrived.requests]
    uuids = [uuid.UUID(body["uuid"]) for body in bodies if body["event"] in ("cli_invoked", "cli_uninstall")]
    assert len(set(uuids)) == 3
    assert {found.version for found in uuids} == {4}


def test_the_timestamp_is_the_utc_time_with_milliseconds(arrived: Arrived) -> None:
    for body in arrived.by_event().values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
        at = datetime.fromisoformat(body["timestamp"].replace("Z", "+00:00"))
        assert arrived.began.replace(microsecond=0) <= at <= arrived.ended


def test_a_value_reported_once_is_in_every_later_event_of_the_session(arrived: Arrived) -> None:
    for event in ("setup_completed", "first_request", "dashboard_viewed", "session"):
        properties = arrived.by_event()[event]["properties"]
        assert (properties["brakit_version"], properties["sdk"]) == ("0.1.7", "python")
    assert arrived.by_event()["session"]["properties"]["setup_duration_ms"] == 120
    assert arrived.by_event()["cli_invoked"]["properties"]["brakit_version"] == "0.10.2"


def test_the_body_of_each_receipt_has_exactly_the_bytes_that_arrived(arrived: Arrived) -> None:
    assert sorted(receipt["body"].encode() for receipt in arrived.receipts) == sorted(r[2] for r in arrived.requests)
    assert {(receipt["outcome"], receipt["reason"]) for receipt in arrived.receipts} == {("sent", "")}


# --- local mode ---------------------------------------------------------------------------------------


def listening(backlog: int = 16) -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{listener.getsockname()[1]}"


def assert_not_connected(listener: socket.socket) -> None:
    """Assert that no client has connected to the listener."""
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_nothing_is_sent_without_a_key() -> None:
    with listening() as listener, Place(BRAKIT_TELEMETRY_ENDPOINT=url_of(listener)) as place:
        receipt = receipt_of_one_event(place)
        assert (receipt["outcome"], receipt["reason"]) == ("local", "no_key")
        assert json.loads(receipt["body"])["event"] == "cli_invoked"
        delivery = place.status()["delivery"]
        assert (delivery["sent"], delivery["local"], delivery["dropped"]) == (0, 1, {})
        assert_not_connected(listener)


@pytest.mark.parametrize("key", ["phx_personal", "k" * 65, "a key\t"])
def test_nothing_is_sent_with_a_key_that_the_endpoint_would_refuse(key: str) -> None:
    with listening() as listener, Place(url_of(listener), BRAKIT_TELEMETRY_KEY=key) as place:
        place.environ["BRAKIT_TELEMETRY_KEY"] = key
        receipt = receipt_of_one_event(place)
        assert (receipt["outcome"], receipt["reason"]) == ("dropped", "bad_key")
        assert_not_connected(listener)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::ffff:0.0.0.0]"])  # these reach this machine, but are not loopback
def test_nothing_is_sent_over_http_except_to_loopback(host: str) -> None:
    with listening() as listener, Place(url_of(listener, host)) as place:
        receipt = receipt_of_one_event(place)
        assert (receipt["outcome"], receipt["reason"]) == ("dropped", "bad_endpoint")
        assert_not_connected(listener)


# --- the queue and the withdrawal of consent ----------------------------------------------------------


def report_numbered(place: Place, count: int) -> None:
    """Report ``count`` events at once, each with its number in the last two numbers of its brakit_version."""
    with Wire(place.socket_path).hello() as wire:
        versions = [f"0.{number // 100}.{number % 100}" for number in range(count)]
        lines = [{"event": {"name": "cli_invoked", "brakit_version": version}} for version in versions]
        wire.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines)).sync()


def number_of(body: dict[str, Any]) -> int:
    _major, hundreds, rest = map(int, body["properties"]["brakit_version"].split("."))
    return 100 * hundreds + rest


def test_the_oldest_events_are_dropped_if_there_are_too_many(endpoint: Endpoint, place: Place) -> None:
    endpoint.may_answer.clear()
    place.start()
    report_numbered(place, 300)
    overflowed: set[int] = set()

    def have_overflowed() -> bool:
        nonlocal overflowed
        receipts = [receipt for receipt in place.receipts() if receipt["reason"] == "overflow"]
        overflowed = {number_of(json.loads(receipt["body"])) for receipt in receipts}
        return len(overflowed) >= 300 - 256 - 4

    wait_until(have_overflowed, "the overflow")
    endpoint.may_answer.set()
    wait_until(lambda: place.status()["delivery"]["queued"] == 0, "an empty queue")
    assert 299 not in overflowed
    assert overflowed <= set(range(44))
    assert len(overflowed) in range(40, 45)  # up to four were being sent before the others were queued
    arrived = {number_of(body) for body in endpoint.bodies}
    assert not arrived & overflowed
    assert len(arrived) == len(endpoint.requests)  # no event arrived twice


def test_no_queued_event_arrives_after_telemetry_off(endpoint: Endpoint, place: Place) -> None:
    endpoint.may_answer.clear()
    place.start()
    report_numbered(place, 12)
    wait_until(lambda: len(endpoint.requests) == 4, "the first four requests")
    switched = place.run("telemetry", "off")
    assert switched.returncode == 0, switched.stderr
    endpoint.may_answer.set()
    with Wire(place.socket_path).hello() as wire:
        wire.send(event={"name": "cli_invoked"}).sync()
    wait_until(lambda: place.status()["delivery"]["queued"] == 0, "an empty queue")
    place.run("stop")
    assert len(endpoint.requests) == 4
    reasons = [receipt["reason"] for receipt in place.receipts() if receipt["outcome"] == "dropped"]
    assert reasons.count("consent") >= 8


def test_consent_is_read_again_right_before_each_request(endpoint: Endpoint, place: Place) -> None:
    """No command notifies the daemon of this opt-out, and the queued events are next to be sent."""
    endpoint.may_answer.clear()
    daemon = place.start()["pid"]
    report_numbered(place, 12)
    wait_until(lambda: len(endpoint.requests) == 4, "the first four requests")
    with suspended(daemon):
        assert place.run("run", "true", BRAKIT_TELEMETRY="off").returncode == 0
        endpoint.may_answer.set()
    wait_until(lambda: place.status()["delivery"]["queued"] == 0, "an empty queue")
    assert len(endpoint.requests) == 4
    place.run("stop")
    assert [receipt["reason"] for receipt in place.receipts()].count("consent") >= 8


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's table of connections")
def test_no_event_arrives_after_telemetry_off_if_its_attempt_was_still_connecting() -> None:
    """The endpoint's backlog is full.

    The kernel retries the connect after a second, and consent is withdrawn before that.
    """
    with (
        listening(0) as listener,
        socket.create_connection(listener.getsockname()),
        Place(url_of(listener)) as place,
    ):
        place.start()
        report_numbered(place, 1)
        port = f":{listener.getsockname()[1]:04X}"

        def is_connecting() -> bool:
            with open("/proc/net/tcp", encoding="ascii") as table:
                return any(line.split()[2].endswith(port) and line.split()[3] == "02" for line in table)

        wait_until(is_connecting, "a connect that hangs")
        place.run("telemetry", "off")
        listener.accept()[0].close()  # makes room in the backlog for the retry
        wait_until(place.daemon_has_exited, "the daemon's end")
        received = b""
        with suppress(BlockingIOError):
            while True:
                with listener.accept()[0] as connection:
                    received += connection.recv(65536)
        assert received == b""
        (receipt,) = place.receipts()
        assert receipt["outcome"] == "dropped"


def report_until_connected(place: Place, endpoint: FaultyEndpoint) -> None:
    """Report events until an attempt connects. One event may not be enough, because a slow attempt may time out."""
    already = len(place.receipts())
    place.start()
    report_numbered(place, 1)
    wait_until(lambda: endpoint.callers or len(place.receipts()) > already, "the connection")
    if not endpoint.callers:
        report_until_connected(place, endpoint)


@pytest.mark.parametrize("slow_step", ["the handshake", "the proxy"])
def test_no_event_arrives_after_telemetry_off_if_the_handshake_or_the_proxy_is_slow(
    slow_step: str, tmp_path: Path
) -> None:
    """The handshake or the proxy continues after the opt-out, early enough for the attempt to succeed."""
    may_go_on = threading.Event()
    by_proxy = slow_step == "the proxy"
    answers = faults.under_tls(faults.answers(200), Certificate("telemetry.invalid" if by_proxy else "localhost"))
    behave = faults.waits_then(faults.tunnels_to(answers) if by_proxy else answers, may_go_on)
    faults.authority().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyEndpoint(behave) as slow:
        url, proxy = f"https://localhost:{slow.port}", ""
        if by_proxy:
            url, proxy = faults.UNKNOWN_HOST, f"http://127.0.0.1:{slow.port}"
        with Place(url, HTTPS_PROXY=proxy, SSL_CERT_FILE=str(tmp_path / "ca.pem")) as place:
            report_until_connected(place, slow)
            assert place.run("telemetry", "off").returncode == 0
            may_go_on.set()
            wait_until(lambda: place.status()["delivery"]["queued"] == 0, "an empty queue")
            place.run("stop")
            receipt = place.receipts()[-1]
            assert receipt["reason"] in ("consent", "timeout")  # an attempt may time out on a slow machine
        assert b"POST" not in slow.callers[0].received


def test_telemetry_off_replaces_the_id_before_anything_is_sent_again(endpoint: Endpoint, place: Place) -> None:
    place.start()
    report_numbered(place, 1)
    endpoint.wait_for("cli_invoked", 1)
    place.run("telemetry", "off")
    place.run("telemetry", "on")
    report_numbered(place, 1)
    first, second = endpoint.wait_for("cli_invoked", 2)
    assert first["distinct_id"] != second["distinct_id"] == place.config["anonymousId"]


# --- a daemon that exits ------------------------------------------------------------------------------


def test_stop_sends_the_events_of_the_sessions_that_it_ends(endpoint: Endpoint, place: Place) -> None:
    place.start()
    with Wire(place.socket_path).hello(new_id()) as worker:
        worker.send(incr={"request_count": 3}).sync()
        assert place.run("stop").returncode == 0
    (body,) = endpoint.bodies_of("session")
    assert body["properties"]["request_count"] == 3
    assert [receipt["outcome"] for receipt in place.receipts()] == ["sent"]


@pytest.mark.slow
def test_an_event_that_cannot_be_sent_before_the_exit_is_dropped_with_a_receipt() -> None:
    with FaultyEndpoint(faults.is_silent) as silent, Place(f"http://127.0.0.1:{silent.port}") as place:
        place.start()
        with Wire(place.socket_path).hello(new_id()) as worker:
            worker.send(incr={"request_count": 3}).sync()
            stopped = place.run("stop")
        assert stopped.returncode == 0
        assert place.daemon_has_exited()
        (receipt,) = place.receipts()
        assert (receipt["event"], receipt["outcome"]) == ("session", "dropped")
        assert receipt["reason"] in ("shutdown", "timeout")
