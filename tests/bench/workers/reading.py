"""A bare asyncio server on a Unix socket: ``count`` counts whole lines, and ``discard`` discards all bytes.

The sidecar's ingest, start and memory are compared with this server, so it imports nothing else.
"""

import asyncio
import collections
import sys

counted: collections.Counter[bytes] = collections.Counter()


class Counting(asyncio.Protocol):
    """Counts equal lines."""

    def __init__(self) -> None:
        self.tail = b""

    def data_received(self, data: bytes) -> None:
        """Count the lines that ``data`` completes."""
        lines = (self.tail + data).split(b"\n")
        self.tail = lines.pop()
        counted.update(lines)


class Discarding(asyncio.Protocol):
    """Discards everything."""

    def data_received(self, data: bytes) -> None:
        """Do nothing."""


async def main(path: str, kind: str) -> None:
    """Listen at ``path`` forever."""
    protocol = {"count": Counting, "discard": Discarding}[kind]
    server = await asyncio.get_running_loop().create_unix_server(protocol, path)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
