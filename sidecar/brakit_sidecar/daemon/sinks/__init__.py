"""The sinks of events. A sink gets the bytes of a body and returns a verdict. It never raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ...core.endpoint import is_acceptable_endpoint, is_plausible_key
from ...core.outbox import Outcome, Reason, Verdict

if TYPE_CHECKING:
    from ...core.destination import Destination


class Sink(Protocol):
    """Sends a body once."""

    async def send(self, body: bytes) -> Verdict:
        """Try to send the body once, and return the verdict."""


class LocalSink(NamedTuple):
    """Sends nothing. It is used in local mode, and if the settings are so wrong that no event could arrive."""

    verdict: Verdict

    async def send(self, body: bytes) -> Verdict:
        """Return the verdict that holds for every event."""
        return self.verdict


async def choose(destination: Destination) -> Sink:
    """Return the sink of a destination. aiohttp is imported only if something may be sent."""
    if not destination.key:
        return LocalSink(Verdict(Outcome.LOCAL, Reason.NO_KEY))
    if not is_plausible_key(destination.key):
        return LocalSink(Verdict.dropped(Reason.BAD_KEY))
    if not is_acceptable_endpoint(destination.endpoint):
        return LocalSink(Verdict.dropped(Reason.BAD_ENDPOINT))

    from anyio import to_thread  # noqa: PLC0415 (needed only for the import of aiohttp)

    return await to_thread.run_sync(_load_posthog, destination.endpoint)


def _load_posthog(endpoint: str) -> Sink:
    """Import aiohttp. This is called in a thread, because the import takes a fifth of a second."""
    from .posthog import PostHogSink  # noqa: PLC0415
    from .proxies import UnusableProxyError, proxy_for  # noqa: PLC0415

    try:
        return PostHogSink(endpoint, proxy_for(endpoint))
    except UnusableProxyError:
        return LocalSink(Verdict.dropped(Reason.PROXY))
