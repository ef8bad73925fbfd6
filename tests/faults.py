"""The ways in which a network fails. Each way is either a behaviour of a raw socket, for an endpoint or a proxy, or an
address at which no server answers.

Behaviours write raw bytes and use no HTTP library, so that they can write what no real server would write.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl
import struct
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

import trustme

from tests.harness import PATIENCE_S, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Behaviour = Callable[["Caller"], None]

DRIP_S = 0.1  # the pause between two bytes; thirty bytes fit into the 3 s of one attempt
HUGE = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\n"


def _bomb() -> bytes:
    """Return a repeatable piece of a deflate stream: about a kilobyte that decompresses to a megabyte of zeros."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(b"\0" * HUGE) + deflate.flush(zlib.Z_FULL_FLUSH)


class Caller:
    """One accepted connection: the bytes received from the client so far, and the calls that write to it."""

    def __init__(self, stream: socket.socket, server: FaultyEndpoint) -> None:
        self.server = server
        self.received = b""
        self._stream = stream
        self._stream.settimeout(PATIENCE_S)

    def read_head(self) -> None:
        while b"\r\n\r\n" not in self.received:
            self.read_some()

    def read_request(self) -> None:
        self.read_head()
        head, _, _ = self.received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(self.received) < len(head) + 4 + int(fields.get(b"content-length", b"0")):
            self.read_some()

    def read_to_eof(self) -> None:
        while True:
            self.read_some()

    def read_some(self) -> None:
        piece = self._stream.recv(65536)
        if not piece:
            raise ConnectionResetError
        self.received += piece

    def write(self, data: bytes) -> None:
        self._stream.sendall(data)

    def write_without_end(self, data: bytes) -> None:
        while True:
            self.write(data)

    def drip(self, data: bytes) -> None:
        for byte in data:
            self.write(bytes([byte]))
            time.sleep(DRIP_S)

    def secure(self, context: ssl.SSLContext) -> None:
        self._stream = secured = context.wrap_socket(self._stream, server_side=True, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
        except ssl.SSLError:
            while socket.socket.recv(secured, 65536):  # otherwise close() would reset before our alert is read
                pass
            raise

    def discard_received(self) -> None:
        """Drop the bytes received so far. They were the request to a proxy and not to the endpoint."""
        self.received = b""

    def reset(self) -> None:
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.close()

    def close(self) -> None:
        self._stream.close()


class FaultyEndpoint:
    """A server that applies one behaviour to each connection, in a thread of its own, until the client disconnects."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._elsewhere = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._elsewhere.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.elsewhere = f"http://127.0.0.1:{self._elsewhere.getsockname()[1]}/i/v0/e/"
        self.callers: list[Caller] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FaultyEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        for listener in (self._listener, self._elsewhere):
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    @property
    def bodies(self) -> list[bytes]:
        return [caller.received.partition(b"\r\n\r\n")[2] for caller in self.callers]

    def followed_a_redirect(self) -> bool:
        """Return whether a client has connected to the target of the redirects."""
        try:
            self._elsewhere.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                stream, _ = self._listener.accept()
                caller = Caller(stream, self)
                self.callers.append(caller)
                threading.Thread(target=self._treat, args=(caller,), daemon=True).start()

    def _treat(self, caller: Caller) -> None:
        with suppress(OSError):  # the client may disconnect at any time
            self._behave(caller)
        with suppress(OSError):
            caller.close()


# --- behaviours: what the endpoint writes to a client ---------------------------------------------------------


def is_silent(caller: Caller) -> None:
    caller.read_to_eof()


def closes(caller: Caller) -> None:
    caller.read_request()


def resets_at_once(caller: Caller) -> None:
    caller.reset()


def resets(caller: Caller) -> None:
    caller.read_request()
    caller.reset()


def resets_within_its_head(caller: Caller) -> None:
    caller.read_request()
    caller.write(OK)
    time.sleep(DRIP_S)  # let the client read the bytes first, because a reset discards unread bytes
    caller.reset()


def writes(*pieces: bytes) -> Behaviour:
    """Write the bytes, then keep the connection open and silent."""

    def behave(caller: Caller) -> None:
        caller.read_request()
        caller.write(b"".join(pieces))
        caller.read_to_eof()

    return behave


def writes_and_closes(*pieces: bytes) -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.read_request()
        caller.write(b"".join(pieces))

    return behave


def drips(data: bytes) -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.read_request()
        caller.drip(data)

    return behave


def writes_without_end(*pieces: bytes, after: bytes = b"") -> Behaviour:
    block = b"".join(pieces)

    def behave(caller: Caller) -> None:
        caller.read_request()
        caller.write(after)
        caller.write_without_end(block * (65536 // len(block) or 1))

    return behave


def answers(status: int, *headers: bytes) -> Behaviour:
    head = b"".join(header + b"\r\n" for header in (*headers, b"Content-Length: 0"))
    return writes(f"HTTP/1.1 {status} So\r\n".encode() + head + b"\r\n")


def redirects(status: int) -> Behaviour:
    def behave(caller: Caller) -> None:
        answers(status, b"Location: " + caller.server.elsewhere.encode())(caller)

    return behave


def waits_then(behave: Behaviour, until: threading.Event) -> Behaviour:
    def wait(caller: Caller) -> None:
        until.wait(PATIENCE_S)
        behave(caller)

    return wait


def refuses_before_it_reads(caller: Caller) -> None:
    caller.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    caller.read_to_eof()


# --- behaviours under TLS, and of a proxy ---------------------------------------------------------------------


@functools.cache
def authority() -> trustme.CA:
    """Return the private certificate authority that the daemons under test trust."""
    return trustme.CA()


class Certificate(NamedTuple):
    host: str = "localhost"
    by_us: bool = True
    until: datetime | None = None


RIGHT = Certificate()
LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)


@functools.cache
def _context(certificate: Certificate, *, wants_client_certificate: bool) -> ssl.SSLContext:
    issuer = authority() if certificate.by_us else trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(certificate.host, not_after=certificate.until).configure_cert(context)
    if wants_client_certificate:
        authority().configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def under_tls(
    behave: Behaviour, certificate: Certificate = RIGHT, *, wants_client_certificate: bool = False
) -> Behaviour:
    def secured(caller: Caller) -> None:
        caller.secure(_context(certificate, wants_client_certificate=wants_client_certificate))
        behave(caller)

    return secured


def closes_in_the_handshake(caller: Caller) -> None:
    caller.read_some()


def answers_without_tls(caller: Caller) -> None:
    caller.read_some()
    caller.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    caller.read_to_eof()


def resets_the_tunnel(caller: Caller) -> None:
    caller.read_head()
    caller.reset()


def proxy_writes(*pieces: bytes) -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.read_head()
        caller.write(b"".join(pieces))
        caller.read_to_eof()

    return behave


def proxy_writes_without_end(*pieces: bytes, after: bytes = b"") -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.read_head()
        caller.write(after)
        caller.write_without_end(b"".join(pieces) * 1000)

    return behave


def tunnels_to(behave: Behaviour) -> Behaviour:
    """Tunnel as a proxy, then behave as the endpoint behind it."""

    def tunnel(caller: Caller) -> None:
        caller.read_head()
        caller.discard_received()
        caller.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        behave(caller)

    return tunnel


# --- the registry ---------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """A behaviour, and the reason under which the event is dropped. The reason is empty if the event is sent."""

    behave: Behaviour
    reason: str


BAD, SENT = "bad_answer", ""
HTTP_FAULTS = {
    "answers": Fault(answers(200), SENT),  # no fault; the other cases are compared with this one
    "is silent": Fault(is_silent, "timeout"),
    "drips its head": Fault(drips(OK + b"A: b\r\n" * 100), "timeout"),
    "resets at once": Fault(resets_at_once, "reset"),
    "resets": Fault(resets, "reset"),
    "resets within its head": Fault(resets_within_its_head, "reset"),
    "closes": Fault(closes, "reset"),
    "closes within its head": Fault(writes_and_closes(OK), "reset"),
    "answers 400": Fault(answers(400), "client_error"),
    "answers 401": Fault(answers(401, b"WWW-Authenticate: Basic realm=x"), "client_error"),
    "answers 407": Fault(answers(407, b"Proxy-Authenticate: Basic realm=x"), "client_error"),
    "answers 413 before it reads": Fault(refuses_before_it_reads, "client_error"),
    "answers 429, retry in ages": Fault(answers(429, b"Retry-After: " + b"9" * 400), "too_many_requests"),
    "answers 500": Fault(answers(500), "server_error"),
    "answers 503, retry in the past": Fault(answers(503, b"Retry-After: -1"), "server_error"),
    "answers 301": Fault(redirects(301), "redirect"),
    "answers 302": Fault(redirects(302), "redirect"),
    "answers 303": Fault(redirects(303), "redirect"),
    "answers 307": Fault(redirects(307), "redirect"),
    "answers 308": Fault(redirects(308), "redirect"),
    "answers 304 with an invalid Location": Fault(answers(304, b"Location: http://[::"), "redirect"),
    "answers 101": Fault(answers(101, b"Upgrade: h2c", b"Connection: Upgrade"), BAD),
    "answers 999": Fault(answers(999), BAD),
    "answers 100 without end": Fault(writes_without_end(b"HTTP/1.1 100 Continue\r\n\r\n"), "timeout"),
    "answers 103 and then nothing": Fault(writes(b"HTTP/1.1 103 Early Hints\r\n\r\n"), "timeout"),
    "answers in SMTP": Fault(writes(b"220 mail.example.org ESMTP\r\n\r\n"), BAD),
    "answers in HTTP/2": Fault(writes(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x10\0\0"), BAD),
    "answers in bare HTML": Fault(writes_and_closes(b"<html><title>Log in to this hotel</title></html>\r\n\r\n"), BAD),
    "writes zeros without end": Fault(writes_without_end(b"\0"), BAD),
    "gives two lengths": Fault(writes(OK, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), BAD),
    "writes a header of a megabyte": Fault(writes(OK, b"A: ", b"b" * HUGE, b"\r\n\r\n"), BAD),
    "writes a header without end": Fault(writes_without_end(b"b", after=OK + b"A: "), BAD),
    "writes headers without end": Fault(writes_without_end(b"A: b\r\n", after=OK), BAD),
    "writes a reason without end": Fault(writes_without_end(b"O", after=b"HTTP/1.1 200 "), BAD),
    "writes a body without end": Fault(writes_without_end(b"x", after=OK + b"\r\n"), SENT),
    "writes fewer bytes than its length": Fault(writes_and_closes(OK, b"Content-Length: 99\r\n\r\nx"), SENT),
    "writes a compressed body without end": Fault(
        writes_without_end(_bomb(), after=OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08" + b"\0" * 7), SENT
    ),
    "writes a body in an unknown coding": Fault(writes(OK, b"Content-Encoding: nonsense\r\n\r\nx"), SENT),
    "sets cookies": Fault(answers(200, b"Set-Cookie: a=b; Path=/", b"Set-Cookie: c=d"), SENT),
}  # fmt: skip

TLS_FAULTS = {
    "answers": Fault(under_tls(answers(200)), SENT),
    "is silent in the handshake": Fault(is_silent, "timeout"),
    "closes in the handshake": Fault(closes_in_the_handshake, "reset"),
    "resets at once": Fault(resets_at_once, "reset"),
    "answers without TLS": Fault(answers_without_tls, "tls"),
    "has a certificate of an unknown authority": Fault(under_tls(answers(200), Certificate(by_us=False)), "tls"),
    "has a certificate for another host": Fault(under_tls(answers(200), Certificate("example.org")), "tls"),
    "has an expired certificate": Fault(under_tls(answers(200), Certificate(until=LONG_AGO)), "tls"),
    "wants a client certificate": Fault(under_tls(answers(200), wants_client_certificate=True), "tls"),
    "is silent": Fault(under_tls(is_silent), "timeout"),
    "drips its head": Fault(under_tls(drips(OK + b"A: b\r\n" * 100)), "timeout"),
    "closes": Fault(under_tls(closes), "reset"),
    "resets": Fault(under_tls(resets), "reset"),
    "answers 307": Fault(under_tls(redirects(307)), "redirect"),
    "writes headers without end": Fault(under_tls(writes_without_end(b"A: b\r\n", after=OK)), BAD),
    "writes a body without end": Fault(under_tls(writes_without_end(b"x", after=OK + b"\r\n")), SENT),
}  # fmt: skip

PROXY_FAULTS = {
    "is silent": Fault(is_silent, "timeout"),
    "resets": Fault(resets_the_tunnel, "reset"),
    "closes": Fault(Caller.read_head, "reset"),
    "wants a password": Fault(proxy_writes(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n"), "proxy"),
    "answers 502": Fault(proxy_writes(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), "proxy"),
    "answers without end": Fault(
        proxy_writes_without_end(b"x", after=b"HTTP/1.1 403 Forbidden\r\n\r\n"), "proxy"
    ),
    "writes headers without end": Fault(proxy_writes_without_end(b"A: b\r\n", after=OK), BAD),
    "answers in SMTP": Fault(proxy_writes(b"220 mail.example.org ESMTP\r\n\r\n"), BAD),
    "leads to a silent endpoint": Fault(tunnels_to(is_silent), "timeout"),
    "leads to an endpoint without TLS": Fault(tunnels_to(answers_without_tls), "tls"),
    "leads to a reset": Fault(tunnels_to(resets_at_once), "reset"),
    "leads to a certificate of an unknown authority": Fault(
        tunnels_to(under_tls(answers(200), Certificate(by_us=False))), "tls"
    ),
}  # fmt: skip

UNKNOWN_HOST = "https://telemetry.invalid"  # no resolver may know a name below .invalid


class NoServer(NamedTuple):
    """An address at which no server answers, and the reason under which the event is dropped.

    ``{closed}`` is replaced by a port that refuses connections. ``{full}`` is replaced by a port that never accepts.
    """

    url: str
    reason: str
    proxy: str = ""


NO_SERVERS = {
    "a port that refuses": NoServer("http://127.0.0.1:{closed}", "refused"),
    "under TLS a port that refuses": NoServer("https://localhost:{closed}", "refused"),
    "a port that never accepts": NoServer("http://127.0.0.1:{full}", "timeout"),
    "an address without a route": NoServer(
        "https://224.0.0.1", "unreachable"
    ),  # a multicast address, to which TCP cannot connect
    "an unknown name": NoServer(UNKNOWN_HOST, "name_resolution"),
    "a name that is too long": NoServer(f"https://{'a' * 64}.invalid", "name_resolution"),
    "an invalid name": NoServer("https://a..b", "name_resolution"),
    "a proxy that refuses": NoServer(UNKNOWN_HOST, "proxy", proxy="http://127.0.0.1:{closed}"),
    "a proxy that never accepts": NoServer(UNKNOWN_HOST, "timeout", proxy="http://127.0.0.1:{full}"),
}

PLAIN, TLS, PROXY, NO_SERVER = "an endpoint that", "an endpoint under TLS that", "a proxy that", "no server at"


class NetworkCase(NamedTuple):
    """A fault and the server that has it: an endpoint, an endpoint under TLS, a proxy, or no server at all."""

    server: str
    fault: Fault | NoServer

    @property
    def reason(self) -> str:
        return self.fault.reason


CASES = {
    f"{server} {name}": NetworkCase(server, fault)
    for server, registry in ((PLAIN, HTTP_FAULTS), (TLS, TLS_FAULTS), (PROXY, PROXY_FAULTS), (NO_SERVER, NO_SERVERS))
    for name, fault in registry.items()
}
# The cases without a fault, by server. Every other case of that server is compared with it.
HEALTHY = {PLAIN: f"{PLAIN} answers", TLS: f"{TLS} answers", PROXY: f"{TLS} answers", NO_SERVER: f"{TLS} answers"}


@contextmanager
def network_case(name: str) -> Iterator[tuple[FaultyEndpoint, Place]]:
    """Set up one of CASES: its server, and a place whose daemon sends to it.

    In a case without a server, the endpoint that is returned gets no connection.
    """
    server, fault = CASES[name]
    behave = fault.behave if isinstance(fault, Fault) else answers(200)
    with FaultyEndpoint(behave) as faulty, closed_port() as closed, full_port() as full:
        if isinstance(fault, NoServer):
            url, proxy = (address.format(closed=closed, full=full) for address in (fault.url, fault.proxy))
        else:
            schemes = {PLAIN: f"http://127.0.0.1:{faulty.port}", TLS: f"https://localhost:{faulty.port}"}
            url = schemes.get(server, UNKNOWN_HOST)
            proxy = f"http://127.0.0.1:{faulty.port}" if server == PROXY else ""
        with Place(url, **({"HTTPS_PROXY": proxy} if proxy else {})) as place:
            place.environ["SSL_CERT_FILE"] = os.path.join(place.root, "authority.pem")
            authority().cert_pem.write_to_path(place.environ["SSL_CERT_FILE"])
            yield faulty, place


@contextmanager
def closed_port() -> Iterator[int]:
    """Return a port that refuses connections. It stays bound, so that no other process can listen at it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def full_port() -> Iterator[int]:
    """Return a port with a full backlog, at which the kernel answers no new connection."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        yield listener.getsockname()[1]


# To add a fault: add a behaviour above, unless an existing behaviour fits. Then add an entry to the registry of the
# server that has the fault. To add an address without a server: add an entry to NO_SERVERS.
