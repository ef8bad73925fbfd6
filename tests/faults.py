"""The ways in which a network fails, each a behaviour of a raw socket; and the endpoint that behaves so. Where there
is no endpoint, an address at which nobody is.

Nothing here knows HTTP or TLS but as bytes that it says, so that it can say what no server would.
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

DRIP_S = 0.1  # thirty bytes within the deadline of an attempt
HUGE = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\n"


def _bomb() -> bytes:
    """Return a repeatable piece of a deflate stream: a megabyte of zeros in a thousandth of that size."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(b"\0" * HUGE) + deflate.flush(zlib.Z_FULL_FLUSH)


class Caller:
    """One connection to the endpoint: what it sent, and what is said to it."""

    def __init__(self, stream: socket.socket, server: FaultyEndpoint) -> None:
        self.server = server
        self.received = b""
        self._stream = stream
        self._stream.settimeout(PATIENCE_S)

    def hear_head(self) -> None:
        while b"\r\n\r\n" not in self.received:
            self._hear()

    def hear_request(self) -> None:
        self.hear_head()
        head, _, _ = self.received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(self.received) < len(head) + 4 + int(fields.get(b"content-length", b"0")):
            self._hear()

    def hear_to_the_end(self) -> None:
        while True:
            self._hear()

    def _hear(self) -> None:
        piece = self._stream.recv(65536)
        if not piece:
            raise ConnectionResetError
        self.received += piece

    def say(self, data: bytes) -> None:
        self._stream.sendall(data)

    def say_without_end(self, data: bytes) -> None:
        while True:
            self.say(data)

    def drip(self, data: bytes) -> None:
        for byte in data:
            self.say(bytes([byte]))
            time.sleep(DRIP_S)

    def secure(self, context: ssl.SSLContext) -> None:
        self._stream = secured = context.wrap_socket(self._stream, server_side=True, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
        except ssl.SSLError:
            while socket.socket.recv(secured, 65536):  # left unread, it would turn our alert into a reset
                pass
            raise

    def forget(self) -> None:
        """Discard what it has sent until now, because it is not the request."""
        self.received = b""

    def reset(self) -> None:
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.close()

    def hang_up(self) -> None:
        self._stream.close()


class FaultyEndpoint:
    """Accepts connections, and does to each what it was given to do, in a thread of its own, until the caller goes."""

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

    def was_led_elsewhere(self) -> bool:
        """Whether anybody connected where the redirects lead."""
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
        with suppress(OSError):  # it went, as it may at any time
            self._behave(caller)
        with suppress(OSError):
            caller.hang_up()


# --- behaviours: what is said to a caller ---------------------------------------------------------------------


def is_silent(caller: Caller) -> None:
    caller.hear_to_the_end()


def hangs_up(caller: Caller) -> None:
    caller.hear_request()


def resets_at_once(caller: Caller) -> None:
    caller.reset()


def resets(caller: Caller) -> None:
    caller.hear_request()
    caller.reset()


def resets_within_its_head(caller: Caller) -> None:
    caller.hear_request()
    caller.say(OK)
    time.sleep(DRIP_S)  # a reset takes back what was not read yet
    caller.reset()


def says(*pieces: bytes) -> Behaviour:
    """And then nothing more."""

    def behave(caller: Caller) -> None:
        caller.hear_request()
        caller.say(b"".join(pieces))
        caller.hear_to_the_end()

    return behave


def says_and_hangs_up(*pieces: bytes) -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.hear_request()
        caller.say(b"".join(pieces))

    return behave


def drips(data: bytes) -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.hear_request()
        caller.drip(data)

    return behave


def says_without_end(*pieces: bytes, after: bytes = b"") -> Behaviour:
    block = b"".join(pieces)

    def behave(caller: Caller) -> None:
        caller.hear_request()
        caller.say(after)
        caller.say_without_end(block * (65536 // len(block) or 1))

    return behave


def answers(status: int, *headers: bytes) -> Behaviour:
    head = b"".join(header + b"\r\n" for header in (*headers, b"Content-Length: 0"))
    return says(f"HTTP/1.1 {status} So\r\n".encode() + head + b"\r\n")


def redirects(status: int) -> Behaviour:
    def behave(caller: Caller) -> None:
        answers(status, b"Location: " + caller.server.elsewhere.encode())(caller)

    return behave


def waits_and(behave: Behaviour, until: threading.Event) -> Behaviour:
    def wait(caller: Caller) -> None:
        until.wait(PATIENCE_S)
        behave(caller)

    return wait


def refuses_before_it_reads(caller: Caller) -> None:
    caller.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    caller.hear_to_the_end()


# --- behaviours under TLS, and of a proxy ---------------------------------------------------------------------


@functools.cache
def authority() -> trustme.CA:
    """Return the private authority that signs the good certificates."""
    return trustme.CA()


class Certificate(NamedTuple):
    host: str = "localhost"
    by_us: bool = True
    until: datetime | None = None


RIGHT = Certificate()
LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)


@functools.cache
def _context(certificate: Certificate, *, asks_for_the_callers: bool) -> ssl.SSLContext:
    issuer = authority() if certificate.by_us else trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(certificate.host, not_after=certificate.until).configure_cert(context)
    if asks_for_the_callers:
        authority().configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def under_tls(behave: Behaviour, certificate: Certificate = RIGHT, *, asks_for_the_callers: bool = False) -> Behaviour:
    def secured(caller: Caller) -> None:
        caller.secure(_context(certificate, asks_for_the_callers=asks_for_the_callers))
        behave(caller)

    return secured


def hangs_up_in_the_handshake(caller: Caller) -> None:
    caller._hear()


def speaks_no_tls(caller: Caller) -> None:
    caller._hear()
    caller.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    caller.hear_to_the_end()


def resets_the_tunnel(caller: Caller) -> None:
    caller.hear_head()
    caller.reset()


def as_a_proxy_says(*pieces: bytes) -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.hear_head()
        caller.say(b"".join(pieces))
        caller.hear_to_the_end()

    return behave


def as_a_proxy_says_without_end(*pieces: bytes, after: bytes = b"") -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.hear_head()
        caller.say(after)
        caller.say_without_end(b"".join(pieces) * 1000)

    return behave


def tunnels_to(behave: Behaviour) -> Behaviour:
    """Return the behaviour of a proxy behind which the endpoint behaves so."""

    def tunnel(caller: Caller) -> None:
        caller.hear_head()
        caller.forget()
        caller.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
        behave(caller)

    return tunnel


# --- the registry ---------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """What an endpoint does, and the reason under which the event is dropped; none: it was sent."""

    behave: Behaviour
    reason: str


BAD, SENT = "bad_answer", ""
HTTP_FAULTS = {
    "answers": Fault(answers(200), SENT),  # no fault: what the others are held against
    "is silent": Fault(is_silent, "timeout"),
    "drips its head": Fault(drips(OK + b"A: b\r\n" * 100), "timeout"),
    "resets at once": Fault(resets_at_once, "reset"),
    "resets": Fault(resets, "reset"),
    "resets within its head": Fault(resets_within_its_head, "reset"),
    "hangs up": Fault(hangs_up, "reset"),
    "hangs up within its head": Fault(says_and_hangs_up(OK), "reset"),
    "answers 400": Fault(answers(400), "client_error"),
    "answers 401": Fault(answers(401, b"WWW-Authenticate: Basic realm=x"), "client_error"),
    "answers 407": Fault(answers(407, b"Proxy-Authenticate: Basic realm=x"), "client_error"),
    "answers 413 before it reads": Fault(refuses_before_it_reads, "client_error"),
    "answers 429, retry in an age": Fault(answers(429, b"Retry-After: " + b"9" * 400), "too_many_requests"),
    "answers 500": Fault(answers(500), "server_error"),
    "answers 503, retry in the past": Fault(answers(503, b"Retry-After: -1"), "server_error"),
    "answers 301": Fault(redirects(301), "redirect"),
    "answers 302": Fault(redirects(302), "redirect"),
    "answers 303": Fault(redirects(303), "redirect"),
    "answers 307": Fault(redirects(307), "redirect"),
    "answers 308": Fault(redirects(308), "redirect"),
    "answers 304 with a Location of nonsense": Fault(answers(304, b"Location: http://[::"), "redirect"),
    "answers 101": Fault(answers(101, b"Upgrade: h2c", b"Connection: Upgrade"), BAD),
    "answers 999": Fault(answers(999), BAD),
    "answers 100 without end": Fault(says_without_end(b"HTTP/1.1 100 Continue\r\n\r\n"), "timeout"),
    "answers 103 and then nothing": Fault(says(b"HTTP/1.1 103 Early Hints\r\n\r\n"), "timeout"),
    "speaks SMTP": Fault(says(b"220 mail.example.org ESMTP\r\n\r\n"), BAD),
    "speaks HTTP/2": Fault(says(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x10\0\0"), BAD),
    "speaks HTML": Fault(says_and_hangs_up(b"<html><title>Log in to this hotel</title></html>\r\n\r\n"), BAD),
    "says nothing but zeros, without end": Fault(says_without_end(b"\0"), BAD),
    "contradicts itself": Fault(says(OK, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), BAD),
    "says a header of a megabyte": Fault(says(OK, b"A: ", b"b" * HUGE, b"\r\n\r\n"), BAD),
    "says a header without end": Fault(says_without_end(b"b", after=OK + b"A: "), BAD),
    "says headers without end": Fault(says_without_end(b"A: b\r\n", after=OK), BAD),
    "says a reason without end": Fault(says_without_end(b"O", after=b"HTTP/1.1 200 "), BAD),
    "says a body without end": Fault(says_without_end(b"x", after=OK + b"\r\n"), SENT),
    "says a body of fewer bytes": Fault(says_and_hangs_up(OK, b"Content-Length: 99\r\n\r\nx"), SENT),
    "says a compressed body without end": Fault(
        says_without_end(_bomb(), after=OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08" + b"\0" * 7), SENT
    ),
    "says a body in an unknown coding": Fault(says(OK, b"Content-Encoding: nonsense\r\n\r\nx"), SENT),
    "sets cookies": Fault(answers(200, b"Set-Cookie: a=b; Path=/", b"Set-Cookie: c=d"), SENT),
}  # fmt: skip

TLS_FAULTS = {
    "answers": Fault(under_tls(answers(200)), SENT),
    "hangs in the handshake": Fault(is_silent, "timeout"),
    "hangs up in the handshake": Fault(hangs_up_in_the_handshake, "reset"),
    "resets at once": Fault(resets_at_once, "reset"),
    "speaks no TLS": Fault(speaks_no_tls, "tls"),
    "has a certificate of nobody's": Fault(under_tls(answers(200), Certificate(by_us=False)), "tls"),
    "has another's certificate": Fault(under_tls(answers(200), Certificate("example.org")), "tls"),
    "has a certificate that has expired": Fault(under_tls(answers(200), Certificate(until=LONG_AGO)), "tls"),
    "wants a certificate of ours": Fault(under_tls(answers(200), asks_for_the_callers=True), "tls"),
    "is silent": Fault(under_tls(is_silent), "timeout"),
    "drips its head": Fault(under_tls(drips(OK + b"A: b\r\n" * 100)), "timeout"),
    "hangs up": Fault(under_tls(hangs_up), "reset"),
    "resets": Fault(under_tls(resets), "reset"),
    "answers 307": Fault(under_tls(redirects(307)), "redirect"),
    "says headers without end": Fault(under_tls(says_without_end(b"A: b\r\n", after=OK)), BAD),
    "says a body without end": Fault(under_tls(says_without_end(b"x", after=OK + b"\r\n")), SENT),
}  # fmt: skip

PROXY_FAULTS = {
    "is silent": Fault(is_silent, "timeout"),
    "resets": Fault(resets_the_tunnel, "reset"),
    "hangs up": Fault(Caller.hear_head, "reset"),
    "wants a password": Fault(as_a_proxy_says(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n"), "proxy"),
    "answers 502": Fault(as_a_proxy_says(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), "proxy"),
    "answers without end": Fault(
        as_a_proxy_says_without_end(b"x", after=b"HTTP/1.1 403 Forbidden\r\n\r\n"), "proxy"
    ),
    "says headers without end": Fault(as_a_proxy_says_without_end(b"A: b\r\n", after=OK), BAD),
    "speaks SMTP": Fault(as_a_proxy_says(b"220 mail.example.org ESMTP\r\n\r\n"), BAD),
    "leads to silence": Fault(tunnels_to(is_silent), "timeout"),
    "leads to no TLS": Fault(tunnels_to(speaks_no_tls), "tls"),
    "leads to a reset": Fault(tunnels_to(resets_at_once), "reset"),
    "leads to a certificate of nobody's": Fault(tunnels_to(under_tls(answers(200), Certificate(by_us=False))), "tls"),
}  # fmt: skip

ELSEWHERE = "https://telemetry.invalid"  # a name that nobody can know


class Absence(NamedTuple):
    """Where nobody answers. ``{closed}`` is a port that refuses, ``{full}`` one that never accepts."""

    url: str
    reason: str
    proxy: str = ""


ABSENCES = {
    "a port that refuses": Absence("http://127.0.0.1:{closed}", "refused"),
    "under TLS a port that refuses": Absence("https://localhost:{closed}", "refused"),
    "a port that never accepts": Absence("http://127.0.0.1:{full}", "timeout"),
    "an address to which nothing leads": Absence("https://224.0.0.1", "unreachable"),  # many hosts at once
    "a name that nobody knows": Absence(ELSEWHERE, "name_resolution"),
    "a name that is too long": Absence(f"https://{'a' * 64}.invalid", "name_resolution"),
    "a name that is none": Absence("https://a..b", "name_resolution"),
    "a proxy that refuses": Absence(ELSEWHERE, "proxy", proxy="http://127.0.0.1:{closed}"),
    "a proxy that never accepts": Absence(ELSEWHERE, "timeout", proxy="http://127.0.0.1:{full}"),
}

PLAIN, TLS, PROXY, NOBODY = "an endpoint that", "under TLS one that", "a proxy that", "nobody at"


class Meeting(NamedTuple):
    """What is met, where, and the reason under which the event is dropped; none: it was sent."""

    where: str
    met: Fault | Absence

    @property
    def reason(self) -> str:
        return self.met.reason


MEETINGS = {
    f"{where} {name}": Meeting(where, met)
    for where, registry in ((PLAIN, HTTP_FAULTS), (TLS, TLS_FAULTS), (PROXY, PROXY_FAULTS), (NOBODY, ABSENCES))
    for name, met in registry.items()
}
# What each is held against.
HEALTHY = {PLAIN: f"{PLAIN} answers", TLS: f"{TLS} answers", PROXY: f"{TLS} answers", NOBODY: f"{TLS} answers"}


@contextmanager
def met(what: str) -> Iterator[tuple[FaultyEndpoint, Place]]:
    """One of the meetings, and a place whose daemon will have it. Where nobody is, nobody comes to the endpoint."""
    where, it = MEETINGS[what]
    behave = it.behave if isinstance(it, Fault) else answers(200)
    with FaultyEndpoint(behave) as faulty, closed_port() as closed, full_port() as full:
        if isinstance(it, Absence):
            url, proxy = (address.format(closed=closed, full=full) for address in (it.url, it.proxy))
        else:
            schemes = {PLAIN: f"http://127.0.0.1:{faulty.port}", TLS: f"https://localhost:{faulty.port}"}
            url, proxy = schemes.get(where, ELSEWHERE), f"http://127.0.0.1:{faulty.port}" if where == PROXY else ""
        with Place(url, **({"HTTPS_PROXY": proxy} if proxy else {})) as place:
            place.environ["SSL_CERT_FILE"] = os.path.join(place.root, "authority.pem")
            authority().cert_pem.write_to_path(place.environ["SSL_CERT_FILE"])
            yield faulty, place


@contextmanager
def closed_port() -> Iterator[int]:
    """One that is nobody else's, either."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def full_port() -> Iterator[int]:
    """Its queue is full: the kernel does not answer who comes."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        yield listener.getsockname()[1]


# To add a fault: a behaviour above, unless one fits, and an entry in the registry that its caller meets; to add a
# place where nobody is, an entry in ABSENCES.
