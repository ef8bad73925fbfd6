"""Node processes that use the client: a script that runs to its end, and a worker that a test drives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from tests.harness import PATIENCE_S, end_process, run_to_end

from .nodes import PACKAGE

if TYPE_CHECKING:
    from types import TracebackType

    from tests.harness import Place

CLIENT = os.path.join(PACKAGE, "index.cjs")
DRIVERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "drivers")


def run_script(node: str, place: Place, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run JavaScript to its end in that place. It finds ``connect`` and ``emit``."""
    prelude = "const { connect, emit } = require(process.env.CLIENT);\n"
    return run_to_end([node, "-e", prelude + code], {**place.environ, "CLIENT": CLIENT, **environ})


def run_driver(node: str, place: Place, name: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a file of ``drivers`` to its end in that place."""
    return run_to_end([node, os.path.join(DRIVERS, name)], {**place.environ, "CLIENT": CLIENT, **environ})


def start_driver(node: str, place: Place, name: str, **environ: str) -> subprocess.Popen[str]:
    """Start a file of ``drivers`` in that place, with pipes as its stdin, stdout and stderr."""
    return subprocess.Popen(
        [node, os.path.join(DRIVERS, name)],
        env={**place.environ, "CLIENT": CLIENT, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Worker:
    """A worker that runs one line of JavaScript after another. Its producer is ``t``."""

    def __init__(
        self, node: str, place: Place, session: str, options: dict[str, Any] | None = None, **environ: str
    ) -> None:
        self.process = start_driver(
            node, place, "worker.cjs", OPTIONS=json.dumps(options or {}), BRAKIT_SESSION_ID=session, **environ
        )
        self.do("1")  # it has connected

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.end()

    def do(self, code: str) -> Any:
        """Run one line of JavaScript, and return its value."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(code.replace("\n", " ") + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def counter_file(self) -> str:
        """Return the path of the counter file that the worker has open."""
        directory = f"/proc/{self.process.pid}/fd"
        targets = [os.readlink(os.path.join(directory, name)) for name in os.listdir(directory)]
        (found,) = [target for target in targets if "/counters-1-" in target]
        return found

    def kill(self) -> None:
        """End the worker by SIGKILL."""
        end_process(self.process, signal.SIGKILL)
        self._close()

    def end(self) -> tuple[int, str]:
        """Let the worker end by itself. Returns its exit code and stderr."""
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stderr

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
