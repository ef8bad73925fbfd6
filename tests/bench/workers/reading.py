"""A bare asyncio server on a Unix socket: ``count`` counts whole lines, ``discard`` throws them away. It is what
ingest, start and memory are measured against, so it imports nothing else.
"""

import asyncio
import collections
import sys

counted: collections.Counter[bytes] = collections.Counter()


class Counting(asyncio.Protocol):
    def __init__(self) -> None:
        self.tail = b""

    def data_received(self, data: bytes) -> None:
        lines = (self.tail + data).split(b"\n")
        self.tail = lines.pop()
        counted.update(lines)


class Discarding(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        pass


async def main(path: str, kind: str) -> None:
    protocol = {"count": Counting, "discard": Discarding}[kind]
    server = await asyncio.get_running_loop().create_unix_server(protocol, path)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
