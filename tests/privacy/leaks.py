"""Builds of the package, each with one planted leak."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

import brakit_sidecar

if TYPE_CHECKING:
    from pathlib import Path


class Leak(NamedTuple):
    """The change of one file of the package, and a pattern of what the audit says about it."""

    file: str
    before: str
    after: str
    found: str


LEAKS = {
    "a text that is passed on to the network": Leak(
        "core/domains.py",
        "return self._words.get(raw, self._fallback) if",
        "return raw if",
        r"the network: .*as it is",
    ),
    "a variable of the environment in the user agent": Leak(
        "daemon/sinks/posthog.py",
        'f"brakit-sidecar/{__version__}",',
        '__import__("os").environ["DATABASE_URL"],',
        r"the network: .*as it is",
    ),
    "a route's text in a counter file": Leak(  # found reversed, because the low byte comes first
        "client/place.py",
        "        return known",
        "        return text.encode().ljust(8)[:8].hex()",
        r"counter files, .*reversed",
    ),
    "an SDK's own word in the journal": Leak(
        "core/frames.py",
        'sdk=sdk or "unknown"',
        'sdk=str(value.get("sdk"))',
        r"journal, while a session is open: as it is",
    ),
    "a line in the debug output": Leak(
        "daemon/connection.py",
        "            self.protocol.receive_data(data)",
        "            self.protocol.receive_data(data)\n            _log.debug('received %s', data)",
        r"BRAKIT_DEBUG: as it is",
    ),
    "an answer that repeats a line": Leak(
        "core/protocol.py",
        "            if len(line) >= MAX_LINE:",
        "            if self._lines == 2:\n                self._send({'refused': line.decode()})\n"
        "            if len(line) >= MAX_LINE:",
        r"the daemon's answers to producers: as it is",
    ),
    "a receipt with the daemon's environment": Leak(
        "daemon/receipts.py",
        '"uuid": event.uuid,',
        '"uuid": event.uuid, "environ": dict(os.environ),',
        r"log: as it is.*receipts, at the end: as it is",
    ),
    "a status with the user's name": Leak(
        "daemon/control.py",
        '"running": True,',
        '"running": True, "user": os.environ["USER"],',
        r"status: as it is",
    ),
    "a file with a worker's arguments": Leak(
        "client/producer.py",
        "    for producer in registry.alive():\n        producer.finish()",
        "    import os\n    open(os.path.expanduser('~/arguments'), 'a').write(repr(sys.argv))",
        r"other files, .*: as it is",
    ),
    "a config with a worker's directory": Leak(
        "client/producer.py",
        "    for producer in registry.alive():\n        producer.finish()",
        "    import os\n    open(os.path.expanduser('~/.brakit/config.json.bad'), 'w').write(os.getcwd())",
        r"config, .*: as it is",
    ),
    "a hash without a key": Leak(
        "client/place.py",
        "digest_size=8, key=self.key",
        "digest_size=8",
        r"counter files, .*: hashed without a key; journal, .*: hashed without a key",
    ),
    "a hash without a key, by another function": Leak(
        "client/place.py",
        "        return known",
        "        return __import__('hashlib').md5(text.encode()).hexdigest()[:16]",
        r"counter files, .*: hashed without a key; journal, .*: hashed without a key",
    ),
    "a hash with a constant key": Leak(
        "client/place.py",
        "digest_size=8, key=self.key",
        "digest_size=8, key=b'brakit'",
        r"15 hashes are the same in two sessions",
    ),
    "hashes in the status": Leak(
        "daemon/control.py",
        '"id": session.id,',
        '"id": session.id, "records": session.whole(now),',
        r"status: hashes of routes or marks",
    ),
}


def build(directory: Path, leak: Leak | None = None) -> None:
    """Copy the installed package into the directory, and plant the leak in the copy."""
    package = directory / "brakit_sidecar"
    shutil.copytree(os.path.dirname(brakit_sidecar.__file__), package, ignore=shutil.ignore_patterns("__pycache__"))
    if leak is not None:
        source = (package / leak.file).read_text()
        assert source.count(leak.before) == 1, f"{leak.file} no longer has the text that the leak replaces"
        (package / leak.file).write_text(source.replace(leak.before, leak.after))
