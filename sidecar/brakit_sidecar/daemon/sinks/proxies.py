"""The proxy that the environment names for an endpoint: HTTPS_PROXY and NO_PROXY, in upper or lower case."""

from __future__ import annotations

from urllib import request
from urllib.parse import urlsplit


class UnusableProxyError(Exception):
    """The environment names a proxy that cannot be used. The daemon may not decide to connect without a proxy."""


def proxy_for(endpoint: str) -> str | None:
    """Return the proxy for an endpoint, found in the environment as urllib finds it.

    A proxy without a scheme (``proxy:3128``) is an http proxy. Returns None if the connection goes straight to the
    endpoint. Connections to http endpoints always do, because only loopback may be http. Raises UnusableProxyError if
    the proxy cannot be used.
    """
    url = urlsplit(endpoint)
    if url.scheme != "https":
        return None
    proxies = request.getproxies_environment()
    if request.proxy_bypass_environment(url.netloc, proxies):  # type: ignore[attr-defined] # missing in its stubs
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
