"""Every way in which a network fails, met by the real daemon under the real command: the event is dropped and counted
by its reason, its receipt says so, and nobody notices anything.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from brakit_sidecar import __version__
from brakit_sidecar.core.outbox import AT_ONCE, BREAKER_FAILURES, BREAKER_REST_S

from tests import faults
from tests.faults import CASES, HEALTHY, NO_SERVER, UNKNOWN_HOST, FaultyEndpoint, network_case
from tests.harness import PATIENCE_S, Endpoint, Place, Wire, end_process, receipt_of_one_event, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_GROWTH_KIB = 4 * 1024
AT_A_TIME = 4  # as many as a small machine can serve; most of them only wait


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The private authority's certificate, in a file."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    faults.authority().cert_pem.write_to_path(str(path))
    return str(path)


# --- each of them, once -------------------------------------------------------------------------------


class Outcome(NamedTuple):
    run: subprocess.CompletedProcess[str]
    receipts: list[dict[str, Any]]
    delivery: dict[str, Any]
    arrived: list[bytes]
    connections: int
    followed_a_redirect: bool
    peak_kib: int
    said: bytes  # by the daemon, on stderr
    exit_code: int


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    with ThreadPoolExecutor(AT_A_TIME) as several:
        return dict(zip(CASES, several.map(_outcome, CASES), strict=True))


def _outcome(what: str) -> Outcome:
    """One session, of the real command, and its one event."""
    with network_case(what) as (faulty, place), open(os.path.join(place.root, "said"), "w+b") as said:
        daemon = subprocess.Popen([sys.executable, "-m", "brakit_sidecar", "serve"], env=place.environ, stderr=said)
        try:
            wait_until(place.accepts, "a daemon that accepts")
            done = place.run("run", "--", "true")
            delivery = settled(place, 1)
            peak_kib = _peak_kib(daemon.pid)
        finally:
            exit_code = end_process(daemon)
        said.seek(0)
        return Outcome(
            done,
            place.receipts(),
            delivery,
            [body for body in faulty.bodies if body],
            len(faulty.callers),
            faulty.followed_a_redirect(),
            peak_kib,
            said.read(),
            exit_code,
        )


def settled(place: Place, count: int) -> dict[str, Any]:
    """The daemon's account of its delivery, once it knows what became of that many events."""
    delivery: dict[str, Any] = {}

    def is_settled() -> bool:
        delivery.update(wire.ask()[0]["delivery"])
        return bool(delivery["sent"] + sum(delivery["dropped"].values()) == count)

    with Wire(place.socket_path).hello() as wire:
        wait_until(is_settled, "the receipt_of_one_event of all events")
    return delivery


def _peak_kib(pid: int) -> int:
    """The most memory that it had until now; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


each = pytest.mark.parametrize("what", CASES)
# Where it ends before the request.
UNHEARD = re.compile("at once|handshake|without TLS|certificate|^a proxy|^no server")


@pytest.mark.slow
@each
def test_the_event_has_its_receipt_and_is_counted_by_its_reason(outcomes: dict[str, Outcome], what: str) -> None:
    reason = CASES[what].reason
    (receipt,) = outcomes[what].receipts
    assert (receipt["outcome"], receipt["reason"]) == ("dropped" if reason else "sent", reason)
    delivery = outcomes[what].delivery
    assert (delivery["sent"], delivery["dropped"]) == ((0, {reason: 1}) if reason else (1, {}))


@pytest.mark.slow
@each
def test_there_is_one_connection_and_what_arrived_is_what_the_receipt_says(
    outcomes: dict[str, Outcome], what: str
) -> None:
    assert outcomes[what].connections == (CASES[what].server != NO_SERVER)
    (receipt,) = outcomes[what].receipts
    assert outcomes[what].arrived == ([] if UNHEARD.search(what) else [receipt["body"].encode()])


@pytest.mark.slow
@each
def test_the_command_and_the_daemon_end_well_without_a_word(outcomes: dict[str, Outcome], what: str) -> None:
    run = outcomes[what].run
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (outcomes[what].exit_code, outcomes[what].said) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize("what", [what for what in CASES if re.search("answers 30", what)])
def test_a_redirects_target_sees_no_connection(outcomes: dict[str, Outcome], what: str) -> None:
    assert not outcomes[what].followed_a_redirect


@pytest.mark.slow
@each
def test_it_takes_no_memory_to_speak_of(outcomes: dict[str, Outcome], what: str) -> None:
    healthy = outcomes[HEALTHY[CASES[what].server]]
    assert outcomes[what].peak_kib - healthy.peak_kib <= MAX_GROWTH_KIB


# --- several at once, and daemons that leave ------------------------------------------------------------


@pytest.mark.slow
def test_no_fault_keeps_the_daemon_from_leaving() -> None:
    """Each has more events than are sent at once: when the daemon leaves, it has not waited for all of them."""
    hanging = [
        "an endpoint that is silent",
        "an endpoint that drips its head",
        "an endpoint under TLS that is silent in the handshake",
        "a proxy that is silent",
        "no server at a port that never accepts",
    ]
    reasons: list[str] = []
    with ExitStack() as stack:
        meetings = [stack.enter_context(network_case(what)) for what in hanging]
        for _, place in meetings:
            assert place.run("run", "--", *emitting(11)).returncode == 0
        for faulty, place in meetings:
            wait_until(place.daemon_has_exited, "the daemon's end")
            receipts = place.receipts()
            assert sorted(receipt["event"] for receipt in receipts) == ["cli_invoked"] * 11 + ["session"]
            assert {body for body in faulty.bodies if body} <= {receipt["body"].encode() for receipt in receipts}
            reasons += [receipt["reason"] for receipt in receipts]
    assert set(reasons) <= {"timeout", "breaker", "shutdown"}
    assert "shutdown" in reasons


@pytest.mark.slow
def test_the_command_does_not_wait_for_the_endpoint(endpoint: Endpoint, place: Place) -> None:
    """When it ends nobody knows yet what becomes of its event. A machine that stands still may hide that, once."""
    endpoint.may_answer.clear()
    place.serve()

    def is_first() -> bool:
        assert place.run("run", "--", "true").returncode == 0
        return bool(place.status()["delivery"]["queued"])

    assert any(is_first() for _ in range(4))


def emitting(count: int) -> list[str]:
    """A command that says that many events."""
    events = "".join("t.event('cli_invoked', command='run');" for _ in range(count))
    return [sys.executable, "-c", f"import brakit_sidecar; t = brakit_sidecar.connect(); {events} t.close()"]


@pytest.mark.parametrize("reason", ["reset", "server_error"])
def test_after_repeated_failures_the_breaker_spares_the_attempts(reason: str) -> None:
    behave = {"reset": faults.resets, "server_error": faults.answers(500)}[reason]
    with FaultyEndpoint(behave) as faulty, Place(f"http://127.0.0.1:{faulty.port}") as place:
        place.serve()
        with Wire(place.socket_path).hello() as wire:
            for _ in range(20):
                wire.send(event={"name": "cli_invoked"})
            wire.sync()
        dropped = settled(place, 20)["dropped"]
        assert set(dropped) == {reason, "breaker"}
        assert BREAKER_FAILURES <= dropped[reason] < BREAKER_FAILURES + AT_ONCE  # some were under way with the last
        assert len(faulty.callers) == dropped[reason]
        assert {receipt["reason"] for receipt in place.receipts()} == {reason, "breaker"}


# The clock by which deliveries are made is a file.
CLOCK = """
from pathlib import Path
from brakit_sidecar.daemon import delivery
delivery.monotonic = lambda: float(Path({path!r}).read_text())
"""


def test_after_its_rest_the_breaker_lets_attempts_through_again(endpoint: Endpoint, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(path=str(clock)))

    def it_is(now: float) -> None:
        (tmp_path / "next").write_text(str(now))
        (tmp_path / "next").rename(clock)

    it_is(1000)
    endpoint.status = 500
    with Place(endpoint.url, PYTHONPATH=str(tmp_path)) as place:
        place.serve()
        with Wire(place.socket_path).hello() as wire:
            for count in range(1, BREAKER_FAILURES + 1):
                wire.send(event={"name": "cli_invoked"})
                settled(place, count)
            endpoint.status = 200
            it_is(1000 + BREAKER_REST_S - 0.1)
            wire.send(event={"name": "cli_invoked"})
            assert settled(place, BREAKER_FAILURES + 1)["dropped"] == {"server_error": BREAKER_FAILURES, "breaker": 1}
            assert len(endpoint.requests) == BREAKER_FAILURES
            it_is(1000 + BREAKER_REST_S)
            wire.send(event={"name": "cli_invoked"})
            assert settled(place, BREAKER_FAILURES + 2)["sent"] == 1
            assert len(endpoint.requests) == BREAKER_FAILURES + 1


# --- a resolver that does not answer ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_name_resolution_that_hangs_delays_neither_the_command_nor_the_daemons_end() -> None:
    with ExitStack() as stack:
        resolver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        try:
            resolver.bind(("127.53.0.1", 53))
        except OSError as error:
            pytest.skip(f"cannot stand in for the system's resolver: {error.strerror}")
        place = stack.enter_context(Place(UNKNOWN_HOST))
        settings = os.path.join(place.root, "resolv.conf")
        with open(settings, "w", encoding="ascii") as file:
            file.write("nameserver 127.53.0.1\noptions timeout:30 attempts:5\n")  # longer than anybody here waits
        with_settings = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        in_private = ["unshare", "--mount", "sh", "-c", with_settings, settings]
        if subprocess.run([*in_private, "true"], capture_output=True, check=False).returncode:
            pytest.skip("cannot exchange the resolver's settings in a namespace of mounts")
        done = subprocess.run(
            [*in_private, sys.executable, "-m", "brakit_sidecar", "run", "--", "true"],
            env=place.environ,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        wait_until(place.daemon_has_exited, "the daemon's end")
        (receipt,) = place.receipts()
        assert receipt["reason"] in ("timeout", "shutdown")
        assert b"telemetry" in resolver.recv(512)


# --- proxies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_https_goes_by_the_proxy(variable: str, scheme: str) -> None:
    with FaultyEndpoint(faults.proxy_writes(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")) as proxy:
        with Place(UNKNOWN_HOST, **{variable: f"{scheme}127.0.0.1:{proxy.port}"}) as place:
            assert receipt_of_one_event(place)["reason"] == "proxy"
        (caller,) = proxy.callers
        assert caller.received == (
            b"CONNECT telemetry.invalid:443 HTTP/1.1\r\nHost: telemetry.invalid\r\nAccept: */*\r\n"
            b"Accept-Encoding: identity\r\n"
            + f"User-Agent: brakit-sidecar/{__version__}\r\n".encode()
            + b"Connection: close\r\n\r\n"
        )


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_no_proxy_is_honoured(variable: str) -> None:
    with FaultyEndpoint(faults.is_silent) as proxy:
        with Place(UNKNOWN_HOST, HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}", **{variable: ".invalid"}) as place:
            assert receipt_of_one_event(place)["reason"] == "name_resolution"
        assert not proxy.callers


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://", "http://[", "http://127.0.0.1:99999"])
def test_a_proxy_that_cannot_be_spoken_to_is_not_gone_past(trusted: str, proxy: str) -> None:
    with FaultyEndpoint(faults.under_tls(faults.answers(200))) as endpoint:
        url = f"https://localhost:{endpoint.port}"
        with Place(url, HTTPS_PROXY=proxy, SSL_CERT_FILE=trusted) as place:
            assert receipt_of_one_event(place)["reason"] == "proxy"
        assert not endpoint.callers


def test_an_authority_that_is_not_there_is_no_reason_to_trust_anybody() -> None:
    with FaultyEndpoint(faults.under_tls(faults.answers(200))) as endpoint:
        with Place(f"https://localhost:{endpoint.port}", SSL_CERT_FILE="/nowhere") as place:
            assert receipt_of_one_event(place)["reason"] == "tls"
        assert endpoint.bodies == [b""]


@pytest.mark.slow
def test_by_a_real_proxy_the_request_is_the_same_bytes(trusted: str, tmp_path: Path) -> None:
    port_file, log = tmp_path / "port", tmp_path / "log"
    said: dict[str, bytes] = {}
    with ExitStack() as stack:
        proxy = subprocess.Popen(
            [sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", "0", "--port-file", str(port_file),
             "--num-workers", "1", "--num-acceptors", "1", "--log-file", str(log)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(end_process, proxy)
        wait_until(lambda: port_file.exists() and port_file.read_text().strip(), "a proxy that accepts")
        endpoint = stack.enter_context(FaultyEndpoint(faults.under_tls(faults.answers(200))))
        named = f"http://127.0.0.1:{port_file.read_text().strip()}"
        for number, bypassed in enumerate(("", "localhost")):
            url = f"https://localhost:{endpoint.port}"
            with Place(url, HTTPS_PROXY=named, NO_PROXY=bypassed, SSL_CERT_FILE=trusted) as place:
                assert receipt_of_one_event(place)["reason"] == ""
            said[bypassed] = without_ids(endpoint.callers[number].received)
        wait_until(lambda: "CONNECT" in log.read_text(), "the proxy's own record")
    assert said[""] == said["localhost"]
    assert log.read_text().count(f"CONNECT localhost:{endpoint.port}") == 1


# --- the same bytes, whatever the environment -----------------------------------------------------------

NOWHERE = "http://127.0.0.1:9"
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "proxies": dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"), NOWHERE),
    "somebody": {"HOSTNAME": "a-host", "HOST": "a-host", "USER": "somebody", "LOGNAME": "somebody", "EMAIL": "a@b"},
    "a language": {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr", "TZ": "Asia/Kathmandu"},
    "Python's": {"PYTHONHTTPSVERIFY": "0", "PYTHONHASHSEED": "7", "PYTHONDEVMODE": "1", "PYTHONOPTIMIZE": "2"},
    "aiohttp's": {"AIOHTTP_NO_EXTENSIONS": "1"},
    "TLS's": {"SSL_CERT_FILE": "/nowhere", "SSL_CERT_DIR": "/nowhere", "REQUESTS_CA_BUNDLE": "/nowhere"},
    "a gateway's": {"REQUEST_METHOD": "POST", "HTTP_HOST": "elsewhere", "HTTP_COOKIE": "a=b", "HTTP_USER_AGENT": "c"},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_request_is_the_same_bytes_in_the_environment_of(endpoints: FaultyEndpoint, name: str) -> None:
    """Twice each: what the first answer sets and asks for is not in the second request."""
    already = len(endpoints.callers)
    with Place(f"http://127.0.0.1:{endpoints.port}", **ENVIRONMENTS[name]) as place:
        with open(os.path.join(place.home, ".netrc"), "w", encoding="ascii") as file:
            file.write("machine 127.0.0.1 login somebody password secret\ndefault login somebody password secret\n")
        os.chmod(file.name, 0o600)
        place.start()
        with Wire(place.socket_path).hello() as wire:
            for count in (1, 2):
                wire.send(event={"name": "cli_invoked", "command": "install"}).sync()
                settled(place, count)
    requests = [without_ids(caller.received) for caller in endpoints.callers]
    assert len(requests) == already + 2
    head, _, body = endpoints.callers[0].received.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /i/v0/e/ HTTP/1.1",
        f"Host: 127.0.0.1:{endpoints.port}".encode(),
        b"Accept: */*",
        b"Accept-Encoding: identity",
        b"Connection: close",
        b"Content-Type: application/json",
        f"User-Agent: brakit-sidecar/{__version__}".encode(),
        f"Content-Length: {len(body)}".encode(),
    ]
    assert set(requests) == {requests[0]}


@pytest.fixture(scope="module")
def endpoints() -> Iterator[FaultyEndpoint]:
    """One for all environments; it answers with whatever may make a client say more next time."""
    headers = (b"Set-Cookie: a=b; Path=/", b"WWW-Authenticate: Basic realm=x", b"Accept-CH: Sec-CH-UA", b'ETag: "a"')
    with FaultyEndpoint(faults.answers(200, *headers)) as endpoint:
        yield endpoint


def without_ids(request: bytes) -> bytes:
    """Without what is another in each event: uuid and timestamp, and the anonymous id of each place."""
    return re.sub(rb'("(?:uuid|timestamp|distinct_id)"):"[^"]*"', rb"\1", request)
