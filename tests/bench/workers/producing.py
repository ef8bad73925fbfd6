"""A producer of raw lines. It connects, writes one chunk a number of times, and waits until the server has read all."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.bench.child import serve_requests
from tests.harness import new_id


def main() -> None:
    """Answer requests. A request with a ``path`` connects to that path, and an empty request writes the chunks."""
    stream, chunk, times = socket.socket(), b"", 0

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal stream, chunk, times
        if "path" in request:
            stream.close()
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.connect(request["path"])
            if session := request["session"]:
                stream.sendall(_hello(session))
            chunk, times = request["chunk"].encode(), request["times"]
            return {"ready": True}
        for _ in range(times):
            stream.sendall(chunk)
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(4096):  # until the server has read everything and closes the connection
            pass
        return {"done": True}

    serve_requests(answer)


def _hello(session: str) -> bytes:
    return json.dumps({"hello": {"protocol": 1, "session": session, "producer": new_id()}}).encode() + b"\n"


if __name__ == "__main__":
    main()
