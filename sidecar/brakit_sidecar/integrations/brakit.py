"""``import brakit_sidecar.integrations.brakit``: count what an application with PyPI's brakit does into the session.

It works in every worker, and brakit's own event at exit is not sent.

brakit has no hook for this, so its event bus and the two functions with which it enters an application are wrapped.
Its objects hold URLs, SQL, headers and bodies: only numbers are taken from them, and a route, which is hashed in this
process. Listeners run on the request's own thread or loop, so nothing here may block or raise.
"""

from __future__ import annotations

import atexit
import re
import sys
import time
from functools import wraps
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

import brakit_sidecar

from ..host.debug import debug

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# brakit's module for each framework, and the function in it that enters an application that was just made.
_ENTRANCES = {"flask": "_install_hooks", "fastapi": "_install_middleware"}
_CANDIDATES = ("flask", "fastapi", "django")

# Requests below this path are brakit's own: processes of its that found no Node core forward to one another.
_BRAKITS_OWN = "/__brakit"

# A segment that names one thing and not a kind of things: a number, a UUID, hex of 12 and more, a token of letters and
# digits of 8 and more.
_ID_SEGMENT = re.compile(
    r"\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,}|(?=[a-z]*\d)(?=\d*[a-z])[0-9a-z]{8,}", re.IGNORECASE
)


def route_of(method: str, path: str) -> str:
    """Method and path, the segments that are ids replaced, without the query."""
    segments = path.partition("?")[0].split("/")
    return f"{method} " + "/".join(":id" if _ID_SEGMENT.fullmatch(segment) else segment for segment in segments)


class _Listener:
    """What brakit's channels mean for the session."""

    def __init__(self, telemetry: brakit_sidecar.Telemetry, setup_ms: float | None) -> None:
        self._telemetry = telemetry
        self._setup_ms = setup_ms  # of brakit's own set-up; None where that was over before we came
        self._is_set_up = False
        self._had_request = False
        self._channels: dict[str, Callable[[Any], None]] = {
            "request:completed": self._request_completed,
            "telemetry:query": lambda _query: telemetry.incr("query_count"),
            "telemetry:fetch": lambda _fetch: telemetry.incr("fetch_count"),
            "telemetry:error": lambda _error: telemetry.incr("error_count"),
        }

    def hear(self, channel: str, data: Any, speaker: str) -> None:
        """``speaker``: the module that speaks on the channel."""
        heard = self._channels.get(channel)
        if heard is None:
            return
        if channel == "request:completed" and not self._is_set_up:  # an application that was made before we came
            self.application_entered(speaker.rpartition(".")[2], None)
        heard(data)

    def application_entered(self, framework: str, took_ms: float | None) -> None:
        """Brakit is part of an application: its set-up is complete, and the framework is the one really used."""
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
        if request.is_static or request.is_health_check or request.url.startswith(_BRAKITS_OWN):
            return
        self._telemetry.request(route_of(request.method, request.url), request.duration_ms)
        if not self._had_request:
            self._had_request = True
            port = _port(request.headers)
            self._telemetry.event("first_request", **({} if port is None else {"port": port}))


def _port(headers: dict[str, str]) -> int | None:
    """The port that the client connected to, if its Host header names one."""
    host = next((value for name, value in headers.items() if name.lower() == "host"), "")
    port = host.rpartition(":")[2]
    return int(port) if port.isdecimal() and 1 <= int(port) <= 65_535 else None


def _adapters() -> list[str]:
    return [str(adapter) for adapter in sys.modules["brakit._setup"]._detected_stack["adapters"]]  # noqa: SLF001


# --- taking over ---------------------------------------------------------------------------------------------------


def _install() -> None:
    """Raises ImportError where brakit is not installed, and whatever a brakit of another shape makes it raise."""
    setup_ms = None
    if "brakit" not in sys.modules:
        started = time.perf_counter()
        import brakit  # noqa: F401, PLC0415 (its import is its set-up)

        setup_ms = (time.perf_counter() - started) * 1000
    own_telemetry = sys.modules.get("brakit._telemetry")
    if own_telemetry is None:  # brakit is dormant here, and so are we
        return
    atexit.unregister(own_telemetry._send_session)  # noqa: SLF001 (it has no public name)
    telemetry = brakit_sidecar.connect(sdk="python", start=True)
    telemetry.set(brakit_version=version("brakit"))
    listener = _Listener(telemetry, setup_ms)
    _wrap_bus(listener)
    for framework, entrance in _ENTRANCES.items():
        _wrap_entrance(listener, framework, entrance)


def _wrap_bus(listener: _Listener) -> None:
    bus = sys.modules["brakit.core.event_bus"].EventBus
    original = bus.emit

    @wraps(original)
    def emit(self: Any, channel: str, data: object) -> None:
        try:
            listener.hear(channel, data, sys._getframe(1).f_globals.get("__name__", ""))  # noqa: SLF001 (its very use)
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug(f"brakit's {channel} was not counted", error)
        original(self, channel, data)

    bus.emit = emit


def _wrap_entrance(listener: _Listener, framework: str, entrance: str) -> None:
    module = sys.modules.get(f"brakit.frameworks.{framework}")
    if module is None:
        return
    original = getattr(module, entrance)

    @wraps(original)
    def enter(app: Any, registry: Any) -> None:
        started = time.perf_counter()
        original(app, registry)
        try:
            listener.application_entered(framework, (time.perf_counter() - started) * 1000)
        except Exception as error:  # noqa: BLE001 (telemetry must never break its host)
            debug("brakit's set-up was not counted", error)

    setattr(module, entrance, enter)


try:
    _install()
except ImportError:
    debug("brakit is not installed: nothing to count for")
except Exception as error:  # noqa: BLE001 (a brakit of another shape: the application runs on, uncounted)
    debug("this brakit cannot be counted for", error)
