"""A process that measures when it is told to: a JSON object on a line in, one out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.harness import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Child:
    def __init__(self, *command: str, environ: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, cwd=ROOT, text=True
        )

    @classmethod
    def worker(cls, name: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Child:
        """One of our workers, by its module's name."""
        return cls(sys.executable, "-m", f"tests.bench.workers.{name}", *arguments, environ=environ)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def tell(self, **request: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)[:200]} ended with {self._process.wait(PATIENCE_S)}")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def ask(self, **request: Any) -> dict[str, Any]:
        self.tell(**request)
        return self.hear()

    def kill(self) -> None:
        """Nothing of it runs any more when this returns."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """It ends by itself when its stdin does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def serve_requests(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The child's half: answers one request after the other, until there are no more."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
