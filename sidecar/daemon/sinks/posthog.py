"""PostHog's capture API: one POST for each event, one attempt. aiohttp lives in this file only.

One connection for each event: answers' bodies are never read, and an unread answer cannot be followed by another
request. So no kept connection can prove dead, and one attempt is exactly one.
"""

from __future__ import annotations

import ssl
from functools import partial
from socket import AF_INET, AI_ADDRCONFIG, SOCK_STREAM, AddressFamily, gaierror, getaddrinfo
from typing import TYPE_CHECKING, Any
from urllib import request
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from anyio import to_thread

from sidecar.core.outbox import SENT, Reason, Verdict
from sidecar.core.version import __version__

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

PATH = "/i/v0/e/"
# Everything that a request says of us. Host and Content-Length are the protocol's.
HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "Content-Type": "application/json",
    "User-Agent": f"brakit-sidecar/{__version__}",
}


class PostHogSink:
    def __init__(self, endpoint: str) -> None:
        self._url = endpoint.rstrip("/") + PATH
        self._proxy = _proxy_for(endpoint)

    async def send(self, body: bytes) -> Verdict:
        connector = aiohttp.TCPConnector(resolver=_Resolver(), force_close=True, ttl_dns_cache=None)
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=set(HEADERS),
                timeout=aiohttp.ClientTimeout(),  # the deadline is the caller's, and covers name resolution
                trust_env=False,  # it would read .netrc as well
            ) as session:
                answer = await session.post(
                    self._url, data=body, headers=HEADERS, proxy=self._proxy, allow_redirects=False
                )
                answer.close()  # its body is nobody's business
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Verdict.dropped(_reason_of(error))
        return _verdict_of(answer.status)


class _Resolver(AbstractResolver):
    """getaddrinfo in a thread that may be left behind: asyncio's own would hold up the daemon's exit."""

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


def _proxy_for(endpoint: str) -> str | None:
    """HTTPS_PROXY and NO_PROXY, in either case, as the standard library reads them. Loopback http goes direct."""
    url = urlsplit(endpoint)
    if url.scheme != "https":
        return None
    proxies = request.getproxies_environment()
    if request.proxy_bypass_environment(url.netloc, proxies):  # type: ignore[attr-defined] # its stubs lack it
        return None
    return proxies.get("https")


def _verdict_of(status: int) -> Verdict:
    if 200 <= status < 300:
        return SENT
    if 300 <= status < 400:
        return Verdict.dropped(Reason.REDIRECT)
    if status == 429:
        return Verdict.dropped(Reason.TOO_MANY_REQUESTS)
    if 400 <= status < 500:
        return Verdict.dropped(Reason.CLIENT_ERROR)
    return Verdict.dropped(Reason.SERVER_ERROR)


# The first that fits: aiohttp's errors are many things at once.
_REASONS: tuple[tuple[Any, Reason], ...] = (
    ((aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError), Reason.PROXY),
    ((aiohttp.ClientSSLError, ssl.SSLError), Reason.TLS),
    ((aiohttp.ClientConnectorDNSError, gaierror), Reason.NAME_RESOLUTION),
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
