"""An application that counts its requests itself, for three kinds of server. It answers with its own pid and its
parent's pid.
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


def _count() -> bytes:
    telemetry.request("GET /", duration_ms=1)
    return f"{os.getpid()} {os.getppid()}".encode()


@flask_app.get("/")
def index() -> bytes:
    return _count()


def wsgi(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = _count()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": message["type"] + ".complete"})
        return
    body = _count()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
