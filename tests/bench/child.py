"""Child processes that measure on request. Requests and answers are JSON lines on stdin and stdout."""

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
    """A child process, and the parent's side of its requests."""

    def __init__(self, *command: str, environ: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, cwd=ROOT, text=True
        )

    @classmethod
    def worker(cls, name: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Child:
        """Start the module ``name`` of tests.bench.workers."""
        return cls(sys.executable, "-m", f"tests.bench.workers.{name}", *arguments, environ=environ)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def send(self, **request: Any) -> None:
        """Send a request without waiting for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the next answer. Raises RuntimeError if the child has exited."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)[:200]} exited with {self._process.wait(PATIENCE_S)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.send(**request)
        return self.receive()

    def kill(self) -> None:
        """Kill the child, and return after it has exited."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Close the child's stdin, so that the child exits, and wait for its exit.

        Kill the child if it does not exit.
        """
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
    """Answer requests until stdin is closed. A child process calls this function."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
