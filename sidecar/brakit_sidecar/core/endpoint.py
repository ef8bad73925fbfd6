"""The destinations to which an event may be sent."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from .destination import Destination

SHOWN_KEY = 12  # characters; "phc_" and enough to tell two keys apart


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


def is_plausible_key(key: str) -> bool:
    """Return whether ``key`` passes PostHog's own check of a project key's shape. PostHog answers 401 to other keys."""
    return key.isascii() and key.isprintable() and 1 <= len(key) <= 64 and not key.startswith("phx_")


def describe(destination: Destination) -> str:
    """Return the destination for a person. The key is shortened, because a person compares only its beginning."""
    if not destination.key:
        return "none: no project key"
    if not is_plausible_key(destination.key):
        return "none: the project key is not valid"
    if not is_acceptable_endpoint(destination.endpoint):
        return "none: the endpoint is not valid"
    shown = destination.key if len(destination.key) <= SHOWN_KEY else f"{destination.key[:SHOWN_KEY]}..."
    return f"{destination.endpoint}, project key {shown}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
