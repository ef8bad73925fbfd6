"""A Node application in a directory of its own, in a session that the test owns.

The application is unmodified: it imports brakit, for which there is a stand-in. What joins it to the session is the
preload file.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.harness import PATIENCE_S
from tests.node.nodes import CHECKOUT, PACKAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from tests.harness import Place

HERE = os.path.dirname(os.path.abspath(__file__))
STANDINS = os.path.join(HERE, "standin")
PRELOAD = os.path.join(PACKAGE, "brakit.cjs")
NPM_PACKAGES = os.path.join(CHECKOUT, ".nodes", "packages", "node_modules")  # what packages/package.json lists


@cache
def version(node: str) -> str:
    """Return the version of a Node binary, as "v22.1.0"."""
    return subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def major(node: str) -> int:
    return int(version(node)[1:].partition(".")[0])


def preload_options(path: str = PRELOAD) -> str:
    """Return the value of NODE_OPTIONS that loads the preload file."""
    return f'--require "{path}"'


# --- the directory ---------------------------------------------------------------------------------------------------


class Project:
    """A directory with the applications of tests/node/apps, a package.json, and packages in node_modules.

    The stand-ins for brakit and pg are always there. ``packages`` come from npm. ``brakit`` is the directory of another
    brakit than the stand-in.
    """

    def __init__(self, *packages: str, dependencies: Sequence[str] = (), brakit: str | None = None) -> None:
        missing = [name for name in packages if not os.path.isdir(os.path.join(NPM_PACKAGES, name))]
        if missing:
            pytest.skip(f"{', '.join(missing)}: not installed as tests/node/packages/package.json says")
        self.directory = tempfile.mkdtemp(prefix="bs-app-", dir="/tmp")
        shutil.copytree(os.path.join(HERE, "apps"), self.directory, dirs_exist_ok=True)
        package = {"dependencies": dict.fromkeys((*packages, *dependencies), "*"), "scripts": {"dev": "node http.mjs"}}
        self.write("package.json", json.dumps(package))
        self.write("package-lock.json", "{}")
        os.mkdir(self.path("node_modules"))
        self._link("brakit", brakit or os.path.join(STANDINS, "brakit"))
        self._link("pg", os.path.join(STANDINS, "pg"))
        for name in packages:
            self._link(name, os.path.join(NPM_PACKAGES, name))

    def __enter__(self) -> Project:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    def write(self, name: str, text: str) -> str:
        """Write a file, and return its path."""
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def _link(self, name: str, target: str) -> None:
        os.symlink(target, self.path("node_modules", name))


# --- the session -----------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a program ended."""

    code: int
    output: str
    errors: str


class Joining(NamedTuple):
    """A session that the test owns, and what the processes of its application get."""

    place: Place
    node: str
    project: Project
    id: str
    environ: dict[str, str]
    children_path: str  # the stand-in for brakit adds a line for each child that it really started

    def start(self, *arguments: str) -> Application:
        """Start an application that listens."""
        return self.start_program(self.node, *arguments)

    def start_program(self, *command: str, **environ: str) -> Application:
        """Start an application by another program than Node."""
        return Application(command, self.project.directory, {**self.environ, **environ})

    def run(self, *arguments: str, **environ: str) -> Outcome:
        """Run a program for Node to its end."""
        return self._run(arguments, {**self.environ, **environ})

    def run_without_us(self, *arguments: str) -> Outcome:
        """Run a program for Node to its end, without the preload."""
        return self._run(arguments, {name: value for name, value in self.environ.items() if name != "NODE_OPTIONS"})

    def _run(self, arguments: Sequence[str], environ: Mapping[str, str]) -> Outcome:
        ran = subprocess.run(
            [self.node, *arguments],
            env=environ,
            cwd=self.project.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Outcome(ran.returncode, ran.stdout, ran.stderr)

    def started_children(self) -> list[str]:
        """Return the events for which the stand-in started a child of its own."""
        if not os.path.exists(self.children_path):
            return []
        with open(self.children_path, encoding="utf-8") as file:
            return file.read().split()

    def status(self) -> dict[str, Any]:
        """Return what the daemon's status says about the session."""
        found: list[dict[str, Any]] = self.place.status()["sessions"]
        (status,) = [session for session in found if session["id"] == self.id]
        return status

    def fields(self) -> dict[str, Any]:
        """Return the fields of the session as the daemon would send them now."""
        fields: dict[str, Any] = self.status()["fields"]
        return fields

    def workers(self) -> int:
        """Return how many workers have ever joined the session."""
        return sum(self.status()["producers"].values())

    def end(self) -> None:
        """End the session as its owner does."""
        assert self.place.run("session", "end", self.id).returncode == 0


def open_session(place: Place) -> str:
    """Open a session that this process owns, and return its id."""
    opened = place.run("session", "start", "--owner-pid", str(os.getpid()), "--json")
    assert opened.returncode == 0, opened.stderr
    session: str = json.loads(opened.stdout)["session"]
    return session


@contextmanager
def joining(
    place: Place, node: str, project: Project, *, session: str | None = None, **environ: str
) -> Iterator[Joining]:
    """Yield a session's side of an application. A ``node`` on PATH is that Node, too.

    Opens a session that this process owns, unless the test opens ``session`` in another way.
    """
    session = session or open_session(place)
    children_path = project.path("children")
    os.mkdir(project.path("bin"))
    os.symlink(node, project.path("bin", "node"))
    session_environ = {
        **place.environ,
        "PATH": project.path("bin") + os.pathsep + os.environ["PATH"],
        "NODE_OPTIONS": preload_options(),
        "BRAKIT_SESSION_ID": session,
        "BRAKIT_SIDECAR_SOCKET": place.socket_path,
        "STANDIN_CHILDREN": children_path,
        **environ,
    }
    yield Joining(place, node, project, session, session_environ, children_path)


# --- the application -------------------------------------------------------------------------------------------------


class Application:
    """A running application, which prints a line with its ports once it listens. Killed at the end of the block."""

    def __init__(self, command: Sequence[str], directory: str, environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that the test can kill what a runner has started, too
        )
        self.ports: list[int] = []
        self.answered: Counter[int] = Counter()  # requests by the process that answered them

    def __enter__(self) -> Application:
        try:
            self.await_ports()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.kill()
        self._stdin.close()
        self._stdout.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def await_ports(self) -> None:
        """Return when the application listens. If a runner restarts it, it prints the line again."""
        for line in self._stdout:
            if line.startswith(b'{"ports"'):
                self.ports = json.loads(line)["ports"]
                return
        raise AssertionError(f"the application ended with {self.process.wait(PATIENCE_S)} before it listened")

    def get(self, path: str = "/", count: int = 1) -> None:
        """Make ``count`` requests, each over a connection of its own, so that any worker of a cluster may answer."""
        for _ in range(count):
            self.answered[int(self.request("GET", path))] += 1

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Return the body of an answer. Each port has its turn."""
        port = self.ports[sum(self.answered.values()) % len(self.ports)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, {"Connection": "close"})
            return connection.getresponse().read()
        finally:
            connection.close()

    def get_over_one_connection(self, path: str, count: int) -> None:
        """Make many requests quickly, to one worker."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=PATIENCE_S)
        for _ in range(count):
            connection.request("GET", path)
            connection.getresponse().read()
        connection.close()

    def finish_answers(self) -> None:
        """Return when brakit has seen each earlier request, because it sees a request only after its answer."""
        self.request("GET", "/health")  # does not count

    def kill(self) -> None:
        """Kill the application, and what a runner has started, if it still runs."""
        with suppress(ProcessLookupError):  # every process of the group may have exited
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def rest(self) -> bytes:
        """Return what an application that has exited printed after its ports."""
        return self._stdout.read()

    def stop(self) -> int:
        """Let the application exit by itself, and return its exit code."""
        self._stdin.close()
        return self.process.wait(PATIENCE_S)
