"""The proxy that the environment names for an endpoint: HTTPS_PROXY and NO_PROXY, in either case."""

from __future__ import annotations

from urllib import request
from urllib.parse import urlsplit


class UnusableProxyError(Exception):
    """One is named that cannot be spoken to. Going past it is not ours to decide."""


def proxy_for(endpoint: str) -> str | None:
    """As the standard library reads them, also without a scheme (``proxy:3128``). None: straight to the endpoint, as
    loopback http always goes. Raises UnusableProxyError.
    """
    url = urlsplit(endpoint)
    if url.scheme != "https":
        return None
    proxies = request.getproxies_environment()
    if request.proxy_bypass_environment(url.netloc, proxies):  # type: ignore[attr-defined] # its stubs lack it
        return None
    named = proxies.get("https")
    return None if named is None else _checked(named if "://" in named else f"http://{named}")


def _checked(proxy: str) -> str:
    try:
        url = urlsplit(proxy)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError as error:
        raise UnusableProxyError from error
    if not usable:
        raise UnusableProxyError
    return proxy
