"""Records events of an application's process as JSON lines, independently of the sidecar. Each line is an event on
brakit's event bus, or an attempt of brakit's own telemetry to send. The recorder stops such attempts.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from brakit.core.event_bus import EventBus

_BRAKITS_HOST = "posthog.com"  # in the command line of the process that brakit sends with
_RECORDED = ("method", "url", "duration_ms", "is_static", "is_health_check")
_original_emit = EventBus.emit


def _write(**record: Any) -> None:
    path = os.environ.get("EVENT_RECORD_FILE")
    if path is None:
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, json.dumps({"pid": os.getpid(), **record}).encode() + b"\n")
    finally:
        os.close(fd)


def _emit(self: EventBus, channel: str, data: object) -> None:
    _write(channel=channel, **{name: getattr(data, name, None) for name in _RECORDED})
    _original_emit(self, channel, data)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and _BRAKITS_HOST in repr(arguments):
        _write(channel="brakit's own telemetry")
        raise PermissionError("a test must not connect to brakit's host")


EventBus.emit = _emit  # type: ignore[method-assign] # brakit has no other way to listen to all channels
sys.addaudithook(_audit)  # the hook is also called in forked children and at the interpreter's exit
