"""What tests stand on: a place of their own for a daemon, an endpoint that captures, and the wire by hand.

Only the outermost edge is faked, the remote endpoint. Everything else is the real thing, in processes of its own.
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

from brakit_sidecar.host import guards, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

PATIENCE_S = 60.0  # how long anything may take before it counts as hanging; nothing is judged by less
POLL_S = 0.02

_CLEARED = {
    *guards.VARIABLES, "DO_NOT_TRACK", "BRAKIT_TELEMETRY", "BRAKIT_TELEMETRY_ENDPOINT", "BRAKIT_TELEMETRY_KEY",
    "BRAKIT_SESSION_ID", "BRAKIT_SIDECAR_SOCKET", "BRAKIT_SIDECAR_DAEMON", "BRAKIT_DEBUG", "POSTHOG_API_KEY",
    "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
    "SSL_CERT_FILE", "DBUS_SESSION_BUS_ADDRESS", "NOTIFY_SOCKET", "LISTEN_PID", "WATCHDOG_USEC",
}  # fmt: skip


def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    """Returns when the condition holds; fails after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_S:.0f} s"
        time.sleep(POLL_S)


class Endpoint(ThreadingHTTPServer):
    """Captures every request; answers with ``status`` (and a redirect's ``location``), once it may."""

    daemon_threads = True

    def __init__(self, status: int = 200, location: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Capture)
        self.status = status
        self.location = location
        self.may_answer = threading.Event()  # cleared, it is an endpoint that is slow
        self.may_answer.set()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []  # path, headers by lower-case name, body
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _path, _headers, body in list(self.requests)]

    def named(self, event: str) -> list[dict[str, Any]]:
        """The bodies of one event, in the order of arrival."""
        return [body for body in self.bodies if body["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.named(event)) >= count, f"the arrival of {count} {event}")
        return self.named(event)

    def only_session(self) -> dict[str, Any]:
        """The properties of the one session event that there is."""
        (body,) = self.wait_for("session")
        properties: dict[str, Any] = body["properties"]
        return properties

    def end_of(self, session: str) -> dict[str, Any]:
        """The properties of that session's one event, once it has arrived."""
        expected = str(uuid.uuid5(uuid.UUID(session), "session"))

        def found() -> list[dict[str, Any]]:
            return [body["properties"] for body in self.named("session") if body["uuid"] == expected]

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
        with suppress(OSError):  # whoever asked may have gone meanwhile
            self._answer()

    def _answer(self) -> None:
        self.send_response(self.server.status)
        if self.server.location is not None:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the handler's own name for it)
        pass


class Place:
    """A HOME and a runtime directory of its own, with short paths; ends the daemon that is left in it."""

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
        with suppress(Exception):  # whatever a test left behind; the directory goes in any case
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
        """One command, as a user types it, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "brakit_sidecar", *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def popen(self, *command: str, cwd: str | None = None, **environ: str) -> subprocess.Popen[bytes]:
        """Any command in this place; its output goes where the test's does."""
        return subprocess.Popen(command, env={**self.environ, **environ}, cwd=cwd)

    def python(self, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """A worker: a Python of this place that runs the code to its end."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def start(self) -> dict[str, Any]:
        """A daemon that accepts: ``socket``, ``pid`` and ``version``."""
        started = self.run("start", "--json")
        assert started.returncode == 0, started.stderr
        found: dict[str, Any] = json.loads(started.stdout)
        return found

    def serve(self) -> subprocess.Popen[bytes]:
        """A daemon in the foreground, which has no linger, once it accepts."""
        served = self.popen(sys.executable, "-m", "brakit_sidecar", "serve")
        self._served.append(served)
        wait_until(lambda: self.accepts() or served.poll() is not None, "a daemon that accepts")
        assert served.poll() is None
        return served

    def accepts(self) -> bool:
        """Whether a daemon accepts here."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            return stream.connect_ex(self.socket_path) == 0

    def is_gone(self) -> bool:
        """Whether no daemon is left: neither its socket nor a process that holds the lock."""
        lock = None if os.path.lexists(self.socket_path) else launch.acquire_lock(self.socket_path)
        if lock is None:
            return False
        os.close(lock)
        return True

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def receipts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("log", "--json").stdout.splitlines()]


class Wire:
    """A producer that speaks raw lines."""

    def __init__(self, socket_path: str) -> None:
        self.stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stream.settimeout(PATIENCE_S)
        self.stream.connect(socket_path)
        self._received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def hello(self, session: str | None = None, *, role: str = "worker", sdk: str = "python", **more: Any) -> Wire:
        hello: dict[str, Any] = {"protocol": 1, "producer": str(uuid.uuid4()), "sdk": sdk, "role": role, **more}
        if session is not None:
            hello["session"] = session
        return self.say(hello=hello)

    def say(self, **frame: Any) -> Wire:
        return self.write(json.dumps(frame).encode() + b"\n")

    def write(self, data: bytes) -> Wire:
        self.stream.sendall(data)
        return self

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the daemon says, until it hangs up."""
        while True:
            while b"\n" not in self._received:
                try:
                    chunk = self.stream.recv(65536)
                except ConnectionResetError:  # it hung up without reading the rest of what we said
                    chunk = b""
                if not chunk:
                    return
                self._received += chunk
            line, _, self._received = self._received.partition(b"\n")
            yield json.loads(line)

    def ask(self, question: Any = "status") -> tuple[Any, list[dict[str, Any]]]:
        """The answer, and the refusals that came before it."""
        self.say(ask=question)
        refused: list[dict[str, Any]] = []
        for said in self.lines():
            if "answer" in said:
                return said["answer"], refused
            refused.append(said["refused"])
        raise AssertionError("the daemon hung up before it answered")

    def sync(self) -> list[dict[str, Any]]:
        """Returns when the daemon has taken in everything said before: the refusals that it answered."""
        return self.ask("identity")[1]

    def close(self) -> None:
        self.stream.close()


# The shortest worker: it joins its session and leaves.
JOINS = [sys.executable, "-c", "import brakit_sidecar; brakit_sidecar.connect().close()"]


def join_once(socket_path: str, session: str) -> None:
    """Let a worker join the session, report its end and disconnect, because a session without workers is no event."""
    with Wire(socket_path).hello(session) as worker:
        worker.say(end={"exit_reason": "clean"}).sync()


def fate(place: Place) -> dict[str, Any]:
    """Says one event in a place of its own; the receipt of what became of it."""
    place.start()
    with Wire(place.socket_path).hello() as wire:
        wire.say(event={"name": "cli_invoked"}).sync()
        wait_until(lambda: wire.ask()[0]["delivery"]["queued"] == 0, "the event's fate")
    (receipt,) = place.receipts()
    return receipt


def new_id() -> str:
    return str(uuid.uuid4())


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process holds still (SIGSTOP) in here: what is said to it meanwhile waits in its sockets."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def end_process(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> int:
    """Sends the signal and waits: the exit code."""
    process.send_signal(number)
    return process.wait(PATIENCE_S)
