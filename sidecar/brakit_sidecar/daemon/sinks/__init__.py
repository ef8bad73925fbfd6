"""Where an event can go. A sink takes the body's bytes and says what became of them; it never raises."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ...core.outbox import Outcome, Reason, Verdict
from ...core.payload import is_plausible_key
from .local import LocalSink
from .settings import DEFAULT_ENDPOINT, is_acceptable_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Sink(Protocol):
    async def send(self, body: bytes) -> Verdict: ...


async def choose(environ: Mapping[str, str]) -> Sink:
    """The sink that the settings name. aiohttp is only loaded where something may be sent."""
    key = environ.get("BRAKIT_TELEMETRY_KEY", "")
    endpoint = environ.get("BRAKIT_TELEMETRY_ENDPOINT", "") or DEFAULT_ENDPOINT
    if not key:
        return LocalSink(Verdict(Outcome.LOCAL, Reason.NO_KEY))
    if not is_plausible_key(key):
        return LocalSink(Verdict.dropped(Reason.BAD_KEY))
    if not is_acceptable_endpoint(endpoint):
        return LocalSink(Verdict.dropped(Reason.BAD_ENDPOINT))

    from anyio import to_thread  # noqa: PLC0415 (only with the next line)

    return await to_thread.run_sync(_load_posthog, endpoint)


def _load_posthog(endpoint: str) -> Sink:
    """Off the loop: aiohttp takes a fifth of a second to import."""
    from .proxies import UnusableProxyError, proxy_for  # noqa: PLC0415

    with _without_certificates():
        from .posthog import PostHogSink  # noqa: PLC0415
    try:
        return PostHogSink(endpoint, proxy_for(endpoint))
    except UnusableProxyError:
        return LocalSink(Verdict.dropped(Reason.PROXY))


@contextmanager
def _without_certificates() -> Iterator[None]:
    """When it is imported, aiohttp makes itself two TLS contexts that the sink never uses: it has its own where TLS is
    spoken. Each would hold the system's CAs, a megabyte and more; without any they trust nobody.
    """
    import ssl  # noqa: PLC0415 (only with aiohttp)

    load = ssl.SSLContext.set_default_verify_paths
    ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ssl.SSLContext.set_default_verify_paths = load  # type: ignore[method-assign]
