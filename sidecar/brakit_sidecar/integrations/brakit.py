"""Counts the requests, queries, fetches and errors of an application that imports PyPI's brakit.

``import brakit_sidecar.integrations.brakit`` is all that an application does. It works in each worker, and stops brakit
from sending its own event at exit.

Brakit has no hook for this, so its event bus is wrapped, and so are the two functions by which it enters an
application. Brakit's objects hold URLs, SQL, headers and bodies. Only numbers are read from them, and a route, which is
hashed in this process. Listeners run on the request's thread or event loop, so nothing here may block or raise.
"""

from __future__ import annotations

import atexit
import re
import sys
import time
from contextlib import suppress
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .. import connect
from ..host.debug import debug
from . import brakit_import_ms

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..client.telemetry import Telemetry

# The frameworks that brakit supports, and the function of brakit's module that enters a new application.
_ENTRY_FUNCTIONS = {"flask": "_install_hooks", "fastapi": "_install_middleware"}
_CANDIDATES = ("flask", "fastapi", "django")

# Requests below this path come from brakit: processes without a Node core forward what they see to one another.
_BRAKIT_PATH = "/__brakit"

# A segment that is an id: a number, a UUID, 12 or more hex digits, or a token of 8 or more letters and digits.
_ID_SEGMENT = re.compile(
    r"\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,}|(?=[a-z]*\d)(?=\d*[a-z])[0-9a-z]{8,}", re.IGNORECASE
)


def route_of(method: str, path: str) -> str:
    """Return method and path without the query, with ":id" for each segment that is an id."""
    segments = path.partition("?")[0].split("/")
    return f"{method} " + "/".join(":id" if _ID_SEGMENT.fullmatch(segment) else segment for segment in segments)


class _Listener:
    """Turns what brakit publishes on its channels into calls of the telemetry API."""

    def __init__(self, telemetry: Telemetry, setup_ms: float | None) -> None:
        self._telemetry = telemetry
        self._setup_ms = setup_ms  # how long brakit's import took; None if it is not known
        self._is_set_up = False
        self._had_request = False
        self._channels: dict[str, Callable[[Any], None]] = {
            "request:completed": self._request_completed,
            "telemetry:query": lambda _query: telemetry.incr("query_count"),
            "telemetry:fetch": lambda _fetch: telemetry.incr("fetch_count"),
            "telemetry:error": lambda _error: telemetry.incr("error_count"),
        }

    def receive(self, channel: str, data: Any, publisher: str) -> None:
        """Count what the module ``publisher`` has published on a channel."""
        count = self._channels.get(channel)
        if count is None:
            return
        if channel == "request:completed" and not self._is_set_up:  # brakit entered the application before this import
            self.complete_setup(publisher.rpartition(".")[2], None)
        count(data)

    def complete_setup(self, framework: str, took_ms: float | None) -> None:
        """Report that brakit has entered an application. Its framework is the one that is really in use."""
        if self._is_set_up:
            return
        self._is_set_up = True
        fields: dict[str, Any] = {"framework": framework, "adapters_detected": _adapters()}
        fields["framework_detection_candidates"] = [name for name in _CANDIDATES if find_spec(name)]
        if self._setup_ms is not None and took_ms is not None:
            fields["setup_duration_ms"] = self._setup_ms + took_ms
        self._telemetry.event("setup_completed", **fields)
        self._telemetry.set(setup_succeeded=True)

    def _request_completed(self, request: Any) -> None:
        if request.is_static or request.is_health_check or request.url.startswith(_BRAKIT_PATH):
            return
        self._telemetry.request(route_of(request.method, request.url), request.duration_ms)
        if not self._had_request:
            self._had_request = True
            port = _port(request.headers)
            self._telemetry.event("first_request", **({} if port is None else {"port": port}))


def _port(headers: dict[str, str]) -> int | None:
    """Return the port in the Host header. Returns None if the header names none."""
    host = next((value for name, value in headers.items() if name.lower() == "host"), "")
    port = host.rpartition(":")[2]
    return int(port) if port.isdecimal() and 1 <= int(port) <= 65_535 else None


def _adapters() -> list[str]:
    return [str(adapter) for adapter in sys.modules["brakit._setup"]._detected_stack["adapters"]]  # noqa: SLF001


# --- installation ---------------------------------------------------------------------------------------------------


def _install() -> None:
    """Wrap brakit. Raises ImportError if brakit is not installed, and any exception if its internals have changed."""
    setup_ms = brakit_import_ms
    if "brakit" not in sys.modules:
        started = time.perf_counter()
        import brakit  # noqa: F401, PLC0415 (importing brakit sets it up)

        setup_ms = (time.perf_counter() - started) * 1000
    own_telemetry = sys.modules.get("brakit._telemetry")
    if own_telemetry is None:  # brakit is dormant here, so nothing is counted
        return
    atexit.unregister(own_telemetry._send_session)  # noqa: SLF001 (it has no public name)
    telemetry = connect(sdk="python", start=True)
    with suppress(PackageNotFoundError):  # a source tree of brakit has no metadata
        telemetry.set(brakit_version=version("brakit"))
    listener = _Listener(telemetry, setup_ms)
    _wrap_bus(listener)
    for framework, entry_function in _ENTRY_FUNCTIONS.items():
        _wrap_entry_function(listener, framework, entry_function)


def _wrap_bus(listener: _Listener) -> None:
    bus = sys.modules["brakit.core.event_bus"].EventBus
    original = bus.emit

    @wraps(original)
    def emit(self: Any, channel: str, data: object) -> None:
        try:
            listener.receive(channel, data, sys._getframe(1).f_globals.get("__name__", ""))  # noqa: SLF001 (the only way to the caller)
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug(f"could not count brakit's {channel}", error)
        original(self, channel, data)

    bus.emit = emit


def _wrap_entry_function(listener: _Listener, framework: str, entry_function: str) -> None:
    module = sys.modules.get(f"brakit.frameworks.{framework}")
    if module is None:
        return
    original = getattr(module, entry_function)

    @wraps(original)
    def enter(app: Any, registry: Any) -> None:
        started = time.perf_counter()
        original(app, registry)
        try:
            listener.complete_setup(framework, (time.perf_counter() - started) * 1000)
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("could not count brakit's set-up", error)

    setattr(module, entry_function, enter)


try:
    _install()
except ImportError:
    debug("brakit is not installed, so nothing is counted")
except Exception as error:  # noqa: BLE001 (an unknown version of brakit must not break its application)
    debug("this version of brakit cannot be counted", error)
