"""Every way in which a network fails, with the real daemon and the real command.

The event is dropped and counted under its reason, its receipt holds the reason, and the command prints nothing.
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
from tests.daemon.processes import peak_kib
from tests.faults import CASES, HEALTHY, NO_SERVER, UNKNOWN_HOST, FaultyEndpoint, network_case
from tests.harness import JOINS, PATIENCE_S, Endpoint, Place, Wire, end_process, receipt_of_one_event, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_GROWTH_KIB = 4 * 1024
AT_A_TIME = 4  # faults at once: more than the cores of a small machine, because most of them only wait


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the certificate of the private authority to a file. Returns its path."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    faults.authority().cert_pem.write_to_path(str(path))
    return str(path)


# --- each fault once ----------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """The result of one session at an endpoint with a fault."""

    run: subprocess.CompletedProcess[str]
    receipts: list[dict[str, Any]]
    delivery: dict[str, Any]
    arrived: list[bytes]
    connections: int
    followed_a_redirect: bool
    peak_kib: int
    daemon_stderr: bytes
    exit_code: int  # of the daemon


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    with ThreadPoolExecutor(AT_A_TIME) as several:
        return dict(zip(CASES, several.map(_outcome, CASES), strict=True))


def _outcome(fault: str) -> Outcome:
    """Run the real command for one session at an endpoint with this fault. The session makes one event."""
    with network_case(fault) as (faulty, place), open(os.path.join(place.root, "stderr"), "w+b") as stderr:
        daemon = subprocess.Popen([sys.executable, "-m", "brakit_sidecar", "serve"], env=place.environ, stderr=stderr)
        try:
            wait_until(place.accepts, "a daemon that accepts")
            ran = place.run("run", "--", *JOINS)
            delivery = settled(place, 1)
            peak = peak_kib(daemon.pid)
        finally:
            exit_code = end_process(daemon)
        stderr.seek(0)
        return Outcome(
            ran,
            place.receipts(),
            delivery,
            [body for body in faulty.bodies if body],
            len(faulty.callers),
            faulty.followed_a_redirect(),
            peak,
            stderr.read(),
            exit_code,
        )


def settled(place: Place, count: int) -> dict[str, Any]:
    """Wait until ``count`` events are sent or dropped. Returns the delivery part of the daemon's status."""
    delivery: dict[str, Any] = {}

    def is_settled() -> bool:
        delivery.update(wire.ask()[0]["delivery"])
        return bool(delivery["sent"] + sum(delivery["dropped"].values()) == count)

    with Wire(place.socket_path).hello() as wire:
        wait_until(is_settled, "the outcome of all events")
    return delivery


each = pytest.mark.parametrize("fault", CASES)
# In these faults, the connection ends before the request.
BEFORE_THE_REQUEST = re.compile("at once|handshake|without TLS|certificate|^a proxy|^no server")


@pytest.mark.slow
@each
def test_the_event_has_its_receipt_and_is_counted_under_its_reason(outcomes: dict[str, Outcome], fault: str) -> None:
    reason = CASES[fault].reason
    (receipt,) = outcomes[fault].receipts
    assert (receipt["outcome"], receipt["reason"]) == ("dropped" if reason else "sent", reason)
    delivery = outcomes[fault].delivery
    assert (delivery["sent"], delivery["dropped"]) == ((0, {reason: 1}) if reason else (1, {}))


@pytest.mark.slow
@each
def test_a_fault_costs_one_connection_and_the_receipt_holds_the_body_that_arrived(
    outcomes: dict[str, Outcome], fault: str
) -> None:
    assert outcomes[fault].connections == (CASES[fault].server != NO_SERVER)
    (receipt,) = outcomes[fault].receipts
    assert outcomes[fault].arrived == ([] if BEFORE_THE_REQUEST.search(fault) else [receipt["body"].encode()])


@pytest.mark.slow
@each
def test_the_command_and_the_daemon_exit_with_0_and_print_nothing(outcomes: dict[str, Outcome], fault: str) -> None:
    run = outcomes[fault].run
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (outcomes[fault].exit_code, outcomes[fault].daemon_stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in CASES if re.search("answers 30", fault)])
def test_the_target_of_a_redirect_gets_no_connection(outcomes: dict[str, Outcome], fault: str) -> None:
    assert not outcomes[fault].followed_a_redirect


@pytest.mark.slow
@each
def test_a_fault_costs_at_most_4_mib_of_memory(outcomes: dict[str, Outcome], fault: str) -> None:
    healthy = outcomes[HEALTHY[CASES[fault].server]]
    assert outcomes[fault].peak_kib - healthy.peak_kib <= MAX_GROWTH_KIB


# --- several faults at once, and daemons that exit ------------------------------------------------------


@pytest.mark.slow
def test_no_fault_keeps_the_daemon_from_exiting() -> None:
    """Each daemon has more events than it sends at once. It exits before it has tried all its events."""
    hanging = [
        "an endpoint that is silent",
        "an endpoint that drips its head",
        "an endpoint under TLS that is silent in the handshake",
        "a proxy that is silent",
        "no server at a port that never accepts",
    ]
    reasons: list[str] = []
    with ExitStack() as stack:
        meetings = [stack.enter_context(network_case(fault)) for fault in hanging]
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
    """The event is still queued when the command exits. The test retries, because the attempt may time out first."""
    endpoint.may_answer.clear()
    place.serve()

    def exits_before_the_outcome() -> bool:
        assert place.run("run", "--", *JOINS).returncode == 0
        return bool(place.status()["delivery"]["queued"])

    assert any(exits_before_the_outcome() for _ in range(4))


def emitting(count: int) -> list[str]:
    """Return a command that reports ``count`` events."""
    events = "".join("t.event('cli_invoked', command='run');" for _ in range(count))
    return [sys.executable, "-c", f"import brakit_sidecar; t = brakit_sidecar.connect(); {events} t.close()"]


@pytest.mark.parametrize("reason", ["reset", "server_error"])
def test_the_breaker_drops_events_without_an_attempt_after_repeated_failures(reason: str) -> None:
    behave = {"reset": faults.resets, "server_error": faults.answers(500)}[reason]
    with FaultyEndpoint(behave) as faulty, Place(f"http://127.0.0.1:{faulty.port}") as place:
        place.serve()
        with Wire(place.socket_path).hello() as wire:
            for _ in range(20):
                wire.send(event={"name": "cli_invoked"})
            wire.sync()
        dropped = settled(place, 20)["dropped"]
        assert set(dropped) == {reason, "breaker"}
        # Attempts that had begun before the breaker opened are not stopped, so they fail for the same reason.
        assert BREAKER_FAILURES <= dropped[reason] < BREAKER_FAILURES + AT_ONCE
        assert len(faulty.callers) == dropped[reason]
        assert {receipt["reason"] for receipt in place.receipts()} == {reason, "breaker"}


# Makes the delivery read its clock from a file.
CLOCK = """
from pathlib import Path
from brakit_sidecar.daemon import delivery
delivery.monotonic = lambda: float(Path({path!r}).read_text())
"""


def test_the_breaker_allows_attempts_again_after_its_rest(endpoint: Endpoint, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(path=str(clock)))

    def set_clock(now: float) -> None:
        (tmp_path / "next").write_text(str(now))
        (tmp_path / "next").rename(clock)

    set_clock(1000)
    endpoint.status = 500
    with Place(endpoint.url, PYTHONPATH=str(tmp_path)) as place:
        place.serve()
        with Wire(place.socket_path).hello() as wire:
            for count in range(1, BREAKER_FAILURES + 1):
                wire.send(event={"name": "cli_invoked"})
                settled(place, count)
            endpoint.status = 200
            set_clock(1000 + BREAKER_REST_S - 0.1)
            wire.send(event={"name": "cli_invoked"})
            assert settled(place, BREAKER_FAILURES + 1)["dropped"] == {"server_error": BREAKER_FAILURES, "breaker": 1}
            assert len(endpoint.requests) == BREAKER_FAILURES
            set_clock(1000 + BREAKER_REST_S)
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
            pytest.skip(f"cannot bind the address of a resolver: {error.strerror}")
        place = stack.enter_context(Place(UNKNOWN_HOST))
        settings = os.path.join(place.root, "resolv.conf")
        with open(settings, "w", encoding="ascii") as file:
            file.write("nameserver 127.53.0.1\noptions timeout:30 attempts:5\n")  # longer than the daemon waits
        with_settings = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        in_namespace = ["unshare", "--mount", "sh", "-c", with_settings, settings]
        if subprocess.run([*in_namespace, "true"], capture_output=True, check=False).returncode:
            pytest.skip("cannot replace resolv.conf in a mount namespace")
        ran = subprocess.run(
            [*in_namespace, sys.executable, "-m", "brakit_sidecar", "run", "--", *JOINS],
            env=place.environ,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, b"")
        wait_until(place.daemon_has_exited, "the daemon's end")
        (receipt,) = place.receipts()
        assert receipt["reason"] in ("timeout", "shutdown")
        assert b"telemetry" in resolver.recv(512)


# --- proxies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_https_goes_through_the_proxy(variable: str, scheme: str) -> None:
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
def test_the_variable_no_proxy_is_honoured(variable: str) -> None:
    with FaultyEndpoint(faults.is_silent) as proxy:
        with Place(UNKNOWN_HOST, HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}", **{variable: ".invalid"}) as place:
            assert receipt_of_one_event(place)["reason"] == "name_resolution"
        assert not proxy.callers


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://", "http://[", "http://127.0.0.1:99999"])
def test_an_unusable_proxy_is_not_bypassed(trusted: str, proxy: str) -> None:
    with FaultyEndpoint(faults.under_tls(faults.answers(200))) as endpoint:
        url = f"https://localhost:{endpoint.port}"
        with Place(url, HTTPS_PROXY=proxy, SSL_CERT_FILE=trusted) as place:
            assert receipt_of_one_event(place)["reason"] == "proxy"
        assert not endpoint.callers


def test_no_certificate_is_trusted_if_the_authoritys_file_is_missing() -> None:
    with FaultyEndpoint(faults.under_tls(faults.answers(200))) as endpoint:
        with Place(f"https://localhost:{endpoint.port}", SSL_CERT_FILE="/nowhere") as place:
            assert receipt_of_one_event(place)["reason"] == "tls"
        assert endpoint.bodies == [b""]


@pytest.mark.slow
def test_the_request_through_a_real_proxy_has_the_same_bytes_as_without_a_proxy(trusted: str, tmp_path: Path) -> None:
    port_file, log = tmp_path / "port", tmp_path / "log"
    received: dict[str, bytes] = {}
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
            received[bypassed] = without_ids(endpoint.callers[number].received)
        wait_until(lambda: "CONNECT" in log.read_text(), "the proxy's log")
    assert received[""] == received["localhost"]
    assert log.read_text().count(f"CONNECT localhost:{endpoint.port}") == 1


# --- the request does not depend on the environment -----------------------------------------------------

NOWHERE = "http://127.0.0.1:9"
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "no variables": {},
    "proxies": dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"), NOWHERE),
    "a user": {"HOSTNAME": "a-host", "HOST": "a-host", "USER": "somebody", "LOGNAME": "somebody", "EMAIL": "a@b"},
    "a language": {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr", "TZ": "Asia/Kathmandu"},
    "Python": {"PYTHONHTTPSVERIFY": "0", "PYTHONHASHSEED": "7", "PYTHONDEVMODE": "1", "PYTHONOPTIMIZE": "2"},
    "aiohttp": {"AIOHTTP_NO_EXTENSIONS": "1"},
    "TLS": {"SSL_CERT_FILE": "/nowhere", "SSL_CERT_DIR": "/nowhere", "REQUESTS_CA_BUNDLE": "/nowhere"},
    "a CGI gateway": {"REQUEST_METHOD": "POST", "HTTP_HOST": "elsewhere", "HTTP_COOKIE": "a=b", "HTTP_USER_AGENT": "c"},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_request_has_the_same_bytes_in_every_environment(endpoints: FaultyEndpoint, name: str) -> None:
    """Two events are sent.

    The second request holds nothing that the answer to the first request has set or asked for.
    """
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
    """Serve one endpoint for all environments, with response headers that could make a client send more next time."""
    headers = (b"Set-Cookie: a=b; Path=/", b"WWW-Authenticate: Basic realm=x", b"Accept-CH: Sec-CH-UA", b'ETag: "a"')
    with FaultyEndpoint(faults.answers(200, *headers)) as endpoint:
        yield endpoint


def without_ids(request: bytes) -> bytes:
    """Return the request without the values that differ in each event: uuid, timestamp and anonymous id."""
    return re.sub(rb'("(?:uuid|timestamp|distinct_id)"):"[^"]*"', rb"\1", request)
