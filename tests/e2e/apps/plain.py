"""An application that counts its requests itself, for three kinds of server. It answers with its process, and whose
child that is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import brakit_sidecar
from flask import Flask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

telemetry = brakit_sidecar.connect()
flask_app = Flask(__name__)


def _counted() -> bytes:
    telemetry.request("GET /", duration_ms=1)
    return f"{os.getpid()} {os.getppid()}".encode()


@flask_app.get("/")
def index() -> bytes:
    return _counted()


def wsgi(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    said = _counted()
    start_response("200 OK", [("Content-Length", str(len(said)))])
    return [said]


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": message["type"] + ".complete"})
        return
    said = _counted()
    headers = [(b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})
