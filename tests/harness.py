"""The base of all tests that start processes: a private HOME for a daemon, an endpoint that records, and a raw client.

Only the outermost edge is faked, the remote endpoint. Everything else is the real program in processes of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import counter_layout
from brakit_sidecar.host import guards, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

PATIENCE_S = 60.0  # after this long a process or a condition counts as hanging; no test fails sooner by the clock
POLL_S = 0.02

_CLEARED = {
    *guards.VARIABLES, "DO_NOT_TRACK", "BRAKIT_TELEMETRY", "BRAKIT_TELEMETRY_ENDPOINT", "BRAKIT_TELEMETRY_KEY",
    "BRAKIT_SESSION_ID", "BRAKIT_SIDECAR_SOCKET", "BRAKIT_SIDECAR_DAEMON", "BRAKIT_DEBUG", "POSTHOG_API_KEY",
    "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
    "SSL_CERT_FILE", "NODE_OPTIONS", "BRAKIT_SIDECAR_INJECT", "DBUS_SESSION_BUS_ADDRESS", "NOTIFY_SOCKET", "LISTEN_PID",
    "WATCHDOG_USEC",
}  # fmt: skip


def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    """Return when the condition holds. Fails the test after PATIENCE_S seconds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_S:.0f} s"
        time.sleep(POLL_S)


def run_to_end(
    command: Sequence[str], environ: Mapping[str, str], cwd: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, of at most PATIENCE_S seconds, and return its exit code, stdout and stderr."""
    return subprocess.run(
        command, env=environ, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


class Endpoint(ThreadingHTTPServer):
    """A remote endpoint that records every request. It answers with ``status`` (and a redirect's ``location``) as
    soon as ``may_answer`` is set, which it is from the beginning.
    """

    daemon_threads = True

    def __init__(self, status: int = 200, location: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Capture)
        self.status = status
        self.location = location
        self.may_answer = threading.Event()  # cleared by a test that needs a slow endpoint
        self.may_answer.set()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []  # path, headers by lower-case name, body
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _path, _headers, body in list(self.requests)]

    def bodies_of(self, event: str) -> list[dict[str, Any]]:
        """Return the bodies of the events with that name, in the order of arrival."""
        return [body for body in self.bodies if body["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the bodies of the events with that name as soon as ``count`` of them have arrived."""
        wait_until(lambda: len(self.bodies_of(event)) >= count, f"the arrival of {count} {event}")
        return self.bodies_of(event)

    def only_session(self) -> dict[str, Any]:
        """Return the properties of the only session event. Fails if a second one has arrived."""
        (body,) = self.wait_for("session")
        properties: dict[str, Any] = body["properties"]
        return properties

    def session_of(self, session: str) -> dict[str, Any]:
        """Return the properties of that session's event as soon as it has arrived. Fails if it arrived twice."""
        expected = str(uuid.uuid5(uuid.UUID(session), "session"))

        def found() -> list[dict[str, Any]]:
            return [body["properties"] for body in self.bodies_of("session") if body["uuid"] == expected]

        wait_until(found, "the session event")
        (properties,) = found()
        return properties

    def close(self) -> None:
        self.may_answer.set()
        self.shutdown()
        self.server_close()


class _Capture(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers, body))
        self.server.may_answer.wait()
        with suppress(OSError):  # the client may have disconnected meanwhile
            self._answer()

    def _answer(self) -> None:
        self.send_response(self.server.status)
        if self.server.location is not None:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names the argument so)
        pass


SERVE_WITH_GRACE = """
import sys
from brakit_sidecar.daemon import start
from brakit_sidecar.daemon.config import USUAL
start.foreground(USUAL._replace(timing=USUAL.timing._replace(grace_s=float(sys.argv[1]))))
"""


class Place:
    """A private HOME and runtime directory for one daemon. Stops that daemon and removes the files at the end.

    Its paths are short, because the path of a Unix socket may have about 100 bytes.
    """

    within = "/tmp"

    def __init__(self, endpoint: str | None = None, **settings: str) -> None:
        self.root = tempfile.mkdtemp(prefix="bs-", dir=self.within)
        self.home = os.path.join(self.root, "h")
        self.runtime = os.path.join(self.root, "r")
        os.mkdir(self.home, 0o700)
        os.mkdir(self.runtime, 0o700)
        inherited = {name: value for name, value in os.environ.items() if name not in _CLEARED}
        self.environ = {**inherited, "HOME": self.home, "XDG_RUNTIME_DIR": self.runtime, **settings}
        self._served: list[subprocess.Popen[bytes]] = []
        if endpoint is not None:
            self.environ |= {"BRAKIT_TELEMETRY_ENDPOINT": endpoint, "BRAKIT_TELEMETRY_KEY": "phc_test"}

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(Exception):  # a failed test can leave anything here; the directory is removed in any case
            if os.listdir(self.runtime):
                self.run("stop")
        for served in self._served:
            if served.poll() is None:
                served.kill()
            served.wait(PATIENCE_S)
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def config_path(self) -> str:
        return os.path.join(self.home, ".brakit", "config.json")

    @property
    def config(self) -> dict[str, Any]:
        with open(self.config_path, encoding="utf-8") as file:
            content: dict[str, Any] = json.load(file)
        return content

    @property
    def socket_path(self) -> str:
        return os.path.join(self.runtime, "brakit", "sidecar-1.sock")

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run one command of brakit-sidecar to its end."""
        return run_to_end([sys.executable, "-m", "brakit_sidecar", *arguments], {**self.environ, **environ})

    def popen(self, *command: str, cwd: str | None = None, **environ: str) -> subprocess.Popen[bytes]:
        """Start any command with this place's environment. It writes to the test's own stdout and stderr."""
        return subprocess.Popen(command, env={**self.environ, **environ}, cwd=cwd)

    def run_python(self, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run Python code to its end with this place's environment, for example a worker."""
        return run_to_end([sys.executable, "-c", code], {**self.environ, **environ})

    def start(self) -> dict[str, Any]:
        """Start a daemon if none runs, and return when it accepts. Returns its ``socket``, ``pid`` and ``version``."""
        started = self.run("start", "--json")
        assert started.returncode == 0, started.stderr
        found: dict[str, Any] = json.loads(started.stdout)
        return found

    def serve(self, grace_s: float | None = None) -> subprocess.Popen[bytes]:
        """Return a daemon in the foreground, which has no linger, as soon as it accepts.

        ``grace_s`` replaces the grace of five seconds, for tests that need not wait so long.
        """
        command = ["-m", "brakit_sidecar", "serve"] if grace_s is None else ["-c", SERVE_WITH_GRACE, str(grace_s)]
        served = self.popen(sys.executable, *command)
        self._served.append(served)
        wait_until(lambda: self.accepts() or served.poll() is not None, "a daemon that accepts")
        assert served.poll() is None
        return served

    def accepts(self) -> bool:
        """Return whether a daemon accepts connections at this place's socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            return stream.connect_ex(self.socket_path) == 0

    def daemon_has_exited(self) -> bool:
        """Return whether the daemon has exited: its socket is removed, and no process holds the lock."""
        lock = None if os.path.lexists(self.socket_path) else launch.acquire_lock(self.socket_path)
        if lock is None:
            return False
        os.close(lock)
        return True

    def status(self) -> dict[str, Any]:
        """Return the answer of ``status --json``."""
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def receipts(self) -> list[dict[str, Any]]:
        """Return the receipts, oldest first."""
        return [json.loads(line) for line in self.run("log", "--json").stdout.splitlines()]


class Wire:
    """A raw connection to the daemon, by which a test writes and reads single lines."""

    def __init__(self, socket_path: str) -> None:
        self.stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stream.settimeout(PATIENCE_S)
        self.stream.connect(socket_path)
        self._received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def hello(
        self,
        session: str | None = None,
        *,
        role: str = "worker",
        sdk: str = "python",
        counter_file: int | None = None,
        **more: Any,
    ) -> Wire:
        """Write a hello. Without a session it is that of a command, which may only ask and report events.

        ``counter_file`` is the descriptor of the worker's counter file, to be sent with the line.
        """
        hello: dict[str, Any] = {"protocol": 1, "producer": str(uuid.uuid4()), "sdk": sdk, "role": role, **more}
        if session is not None:
            hello["session"] = session
        if counter_file is None:
            return self.send(hello=hello)
        hello["counter_file"] = counter_layout.VERSION
        socket.send_fds(self.stream, [json.dumps({"hello": hello}).encode() + b"\n"], [counter_file])
        return self

    def send(self, **frame: Any) -> Wire:
        """Write one line with these keys."""
        return self.write(json.dumps(frame).encode() + b"\n")

    def write(self, data: bytes) -> Wire:
        self.stream.sendall(data)
        return self

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield each line that the daemon writes, until it closes the connection."""
        while True:
            while b"\n" not in self._received:
                try:
                    chunk = self.stream.recv(65536)
                except ConnectionResetError:  # the daemon closed the connection with unread lines of ours
                    chunk = b""
                if not chunk:
                    return
                self._received += chunk
            line, _, self._received = self._received.partition(b"\n")
            yield json.loads(line)

    def ask(self, question: Any = "status") -> tuple[Any, list[dict[str, Any]]]:
        """Ask a question. Returns the answer, and the refusals that arrived before it."""
        self.send(ask=question)
        refused: list[dict[str, Any]] = []
        for line in self.lines():
            if "answer" in line:
                return line["answer"], refused
            refused.append(line["refused"])
        raise AssertionError("the daemon closed the connection before it answered")

    def sync(self) -> list[dict[str, Any]]:
        """Wait until the daemon has applied every line written before. Returns the refusals that it answered."""
        return self.ask("identity")[1]

    def close(self) -> None:
        self.stream.close()


# The shortest worker: it joins its session and leaves.
JOINS = [sys.executable, "-c", "import brakit_sidecar; brakit_sidecar.connect().close()"]


# A worker that joins its session and then becomes the command behind it. A session without workers is no event.
JOIN_THEN = [
    sys.executable,
    "-c",
    "import brakit_sidecar, os, sys; brakit_sidecar.connect(); os.execvp(sys.argv[1], sys.argv[1:])",
]


def join_once(socket_path: str, session: str) -> None:
    """Let a worker join the session, report its end and disconnect, because a session without workers is no event."""
    with Wire(socket_path).hello(session) as worker:
        worker.send(end={"exit_reason": "clean"}).sync()


def receipt_of_one_event(place: Place) -> dict[str, Any]:
    """Report one event to a new daemon in that place, and return the event's receipt."""
    place.start()
    with Wire(place.socket_path).hello() as wire:
        wire.send(event={"name": "cli_invoked"}).sync()
        wait_until(lambda: wire.ask()[0]["delivery"]["queued"] == 0, "an empty queue")
    (receipt,) = place.receipts()
    return receipt


def new_id() -> str:
    return str(uuid.uuid4())


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Suspend the process (SIGSTOP) for the block. Data that is sent to it meanwhile waits in its sockets."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def end_process(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> int:
    """Send the signal, wait for the process to exit, and return its exit code."""
    process.send_signal(number)
    return process.wait(PATIENCE_S)


@contextmanager
def attached_strace(pid: int, log: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Trace the process, with its threads, for the block. strace itself runs until the process exits, or is ended.

    Skips the test if strace is not installed or may not attach.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    command = [strace, "-f", "-o", log, "-p", str(pid), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracing:
        assert tracing.stderr is not None
        line = tracing.stderr.readline()
        if "attached" not in line:
            tracing.wait(PATIENCE_S)
            pytest.skip(f"strace may not attach here: {line.strip()}")
        try:
            yield tracing
        finally:
            if tracing.poll() is None:
                end_process(tracing)
