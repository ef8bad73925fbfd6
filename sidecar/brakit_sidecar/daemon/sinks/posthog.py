"""PostHog's capture API: one POST and one attempt for each event. Only this file uses aiohttp.

Each event has a connection of its own. The body of an answer is never read, and a connection with an unread answer
cannot carry another request. As no connection is ever idle, an attempt never fails because the endpoint has closed an
idle connection. So an attempt never has to be repeated.
"""

from __future__ import annotations

import ssl
from functools import partial
from socket import (
    AF_INET,
    AI_ADDRCONFIG,
    SO_RCVBUF,
    SOCK_STREAM,
    SOL_SOCKET,
    AddressFamily,
    gaierror,
    getaddrinfo,
    socket,
)
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver
from anyio import to_thread

from ...core.outbox import SENT, Reason, Verdict
from ...core.version import __version__

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult
    from aiohttp.connector import AddrInfoType

RECEIVE_BYTES = 16 * 1024  # far more than a usual response head; bounds how much of a flood is parsed at once
PATH = "/i/v0/e/"
# All headers that this file chooses. HTTP itself needs Host and Content-Length.
HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "Content-Type": "application/json",
    "User-Agent": f"brakit-sidecar/{__version__}",
}

# All headers that a proxy gets. Without them aiohttp would send its default User-Agent, which names the Python version.
PROXY_HEADERS = {name: HEADERS[name] for name in ("Accept", "Accept-Encoding", "User-Agent")}


class PostHogSink:
    def __init__(self, endpoint: str, proxy: str | None) -> None:
        """Make a sink for one endpoint. Blocks while the certificates are read, if the endpoint's URL is https."""
        self._url = endpoint.rstrip("/") + PATH
        self._proxy = proxy
        self._tls = _tls() if endpoint.startswith("https:") else True

    async def send(self, body: bytes) -> Verdict:
        connector = aiohttp.TCPConnector(
            resolver=_Resolver(), ssl=self._tls, socket_factory=_socket, force_close=True, ttl_dns_cache=None
        )
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=set(HEADERS),
                timeout=aiohttp.ClientTimeout(),  # the caller sets the deadline, which covers name resolution
                trust_env=False,  # if True, aiohttp would also read .netrc
            ) as session:
                answer = await session.post(
                    self._url,
                    data=body,
                    headers=HEADERS,
                    proxy=self._proxy,
                    proxy_headers=PROXY_HEADERS,
                    allow_redirects=False,
                )
                answer.close()  # without reading its body
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Verdict.dropped(_reason_of(error))
        return _verdict_of(answer.status)


def _tls() -> ssl.SSLContext:
    """Return a context that trusts the system's certificates, or the certificates of SSL_CERT_FILE if that is set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it checks the certificate and the host name
    context.load_default_certs()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _socket(address: AddrInfoType) -> socket:
    family, kind, protocol, _name, _address = address
    made = socket(family, kind, protocol)
    made.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)
    return made


class _Resolver(AbstractResolver):
    """A resolver that calls getaddrinfo in a thread.

    The daemon's exit does not wait for this thread. It would wait for the thread of asyncio's own resolver.
    """

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        lookup = partial(getaddrinfo, host, port, family, SOCK_STREAM, 0, AI_ADDRCONFIG)
        found = await to_thread.run_sync(lookup, abandon_on_cancel=True)
        return [
            {
                "hostname": host,
                "host": str(address[0]),
                "port": int(address[1]),
                "family": found_family,
                "proto": proto,
                "flags": 0,
            }
            for found_family, _kind, proto, _name, address in found
        ]

    async def close(self) -> None:
        pass


def _verdict_of(status: int) -> Verdict:
    if 200 <= status < 300:
        return SENT
    if 300 <= status < 400:
        return Verdict.dropped(Reason.REDIRECT)
    if status == 429:
        return Verdict.dropped(Reason.TOO_MANY_REQUESTS)
    if 400 <= status < 500:
        return Verdict.dropped(Reason.CLIENT_ERROR)
    if 500 <= status < 600:
        return Verdict.dropped(Reason.SERVER_ERROR)
    return Verdict.dropped(Reason.BAD_ANSWER)


# The first match counts, because an aiohttp error belongs to several of these classes.
_REASONS: tuple[tuple[Any, Reason], ...] = (
    ((aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError), Reason.PROXY),
    ((aiohttp.ClientSSLError, ssl.SSLError), Reason.TLS),
    # UnicodeError: the text is not a host name.
    ((aiohttp.ClientConnectorDNSError, gaierror, UnicodeError), Reason.NAME_RESOLUTION),
    (ConnectionRefusedError, Reason.REFUSED),
    ((aiohttp.ServerDisconnectedError, ConnectionError), Reason.RESET),
    (aiohttp.ClientResponseError, Reason.BAD_ANSWER),
    ((aiohttp.ClientOSError, OSError), Reason.UNREACHABLE),
)


def _reason_of(error: BaseException) -> Reason:
    causes = [error, getattr(error, "os_error", None), error.__cause__]
    for kind, reason in _REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    return Reason.UNEXPECTED
