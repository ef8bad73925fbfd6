"""The endpoints to which an event may be sent."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

DEFAULT_ENDPOINT = "https://us.i.posthog.com"


def is_acceptable_endpoint(endpoint: str) -> bool:
    """Return True for https, and for http on loopback.

    Other http endpoints are not acceptable, because the network could read the events.
    """
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError:
        return False
    if url.hostname is None or port == 0 or url.query or url.fragment or url.username or url.password:
        return False
    return url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.hostname))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
