"""The command ``audit``: pass secrets to every input of the installed sidecar, and search every output for them.

It uses an endpoint on this machine and a daemon of its own in a temporary directory. Two sessions get the same routes
and marks, because the hashes of a text must differ between sessions.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any

from ..cli.errors import CommandError
from ..core import payload
from ..core.frames import PARTS
from ..core.schema import EVENTS, SESSION, SESSION_FIELDS
from ..core.wire import encode
from ..host import launch, paths
from ..host.conversation import Conversation, NoDaemonError
from .audit_ids import ids_by_session, shared
from .audit_texts import TEXTS, traces
from .testbed import Testbed

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    Frame = dict[str, Any]

TIMEOUT_S = 30.0  # ten times the time that the whole audit takes
_POLL_S = 0.05
_REPORT = "This is a bug; please report it"
_SECRET_VARIABLES = ("DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "API_KEY", "USER", "HOSTNAME", "PYTHONSTARTUP", "TZ_HINT")


def audit(_arguments: Namespace) -> int:
    """Run the audit. Fails if a secret is found in an output, or if an input or output was not exercised."""
    with Testbed("audit") as testbed:
        try:
            outputs, inputs, ids = _run_everything(testbed)
        except (OSError, NoDaemonError) as error:  # a BrokenPipeError here does not mean that stdout was closed
            raise CommandError(f"FAIL: the audit could not be completed ({error}). {_REPORT}") from error
        bodies = list(testbed.endpoint.bodies)
    leaks = {name: traces(content) for name, content in outputs.items()}
    problems = [f"{name}: {', '.join(forms)}" for name, forms in leaks.items() if forms]
    problems += _gaps(bodies, outputs) + _misused_ids(ids, outputs)
    problems += [f"{name}: never used" for name, count in inputs.items() if not count]
    _show(inputs, outputs, leaks, bodies)
    _show_ids(ids)
    if problems:
        raise CommandError(f"FAIL: {'; '.join(problems)}. {_REPORT}")
    print(f"\nPASS: none of the {len(TEXTS)} secrets was found anywhere")
    return 0


def _show(inputs: dict[str, int], outputs: dict[str, bytes], leaks: dict[str, list[str]], bodies: list[bytes]) -> None:
    print(f"{len(TEXTS)} secrets: {', '.join(TEXTS)}\n")
    print(f"  {'inputs that were given secrets':60}{'times':>8}")
    for name, count in inputs.items():
        print(f"  {name:60}{count:>8}")
    print(f"\n  {'outputs that were searched':60}{'bytes':>8}  secrets found, in eight forms")
    for name, content in outputs.items():
        print(f"  {name:60}{len(content):>8}  {', '.join(leaks[name]) or 'none'}")
    names = [json.loads(body)["event"] for body in bodies]
    arrived = ", ".join(f"{names.count(name)} {name}" for name in EVENTS)
    print(f"\n  Events that arrived, with values of the schema only: {arrived}")


def _show_ids(ids: dict[str, set[bytes]]) -> None:
    count = len(set().union(*ids.values()))
    print(f"""
  Hashes of routes and marks that lay in journal and counter files, keyed with their session's id: {count}
  They are pseudonyms: these files hold the key too, so a person who has them can confirm a guessed text. The hashes
  were in no request, receipt, log or status.""")


# --- inputs and outputs ----------------------------------------------------------------------------------------


def _run_everything(testbed: Testbed) -> tuple[dict[str, bytes], dict[str, int], dict[str, set[bytes]]]:
    """Give the secrets to every input.

    Returns each output's content, how often each input was used, and the ids of routes and marks by session.

    Outputs are collected twice: while sessions are open, and after they have ended.
    """
    environ = testbed.environ | dict(zip(_SECRET_VARIABLES, TEXTS.values(), strict=False))
    directory = os.path.join(testbed.path, "app " + next(iter(TEXTS.values())).replace("/", "_"))
    os.mkdir(directory)
    socket_path = paths.socket_path(testbed.environ)
    with open(os.path.join(directory, "debug-output"), "w+b") as debug_output:
        daemon = subprocess.Popen(
            launch.isolated_command("serve"),
            env=environ | {"BRAKIT_DEBUG": "1"},
            cwd=testbed.path,
            stdin=subprocess.DEVNULL,
            stdout=debug_output,
            stderr=debug_output,
        )
        try:
            _wait_until(lambda: _accepts(socket_path))
            session, other_session = str(uuid.uuid4()), str(uuid.uuid4())
            lines = list(_lines())
            hellos = [encode({"hello": hello}) + line for hello in _hellos(session) for line in lines[:1]]
            answers = b"".join(_exchange(socket_path, [hello]) for hello in hellos)
            with _worker(socket_path, session) as worker, _worker(socket_path, other_session) as other_worker:
                worker.say({"incr": {"request_count": 1}})
                hello = encode({"hello": {"protocol": 1, "session": session, "producer": str(uuid.uuid4())}})
                answers += _exchange(socket_path, [hello, *lines])
                app = launch.isolated("from brakit_sidecar.selftest.audit_app import main; main()")
                calls = int(_run(["run", "--", *app, "work", *TEXTS.values()], environ, directory) or 0)
                in_session = environ | {"BRAKIT_SESSION_ID": session}  # counter files exist until their session ends
                calls += int(_output_of([*app, "work"], in_session, directory) or 0)
                calls += int(_output_of([*app, "hash"], environ | {"BRAKIT_SESSION_ID": other_session}, directory) or 0)
                emitted = int(_output_of([*app, "emit"], in_session, directory) or 0)
                status = _run(["status", "--json"], environ, directory)
                files_while_open = _files(testbed.path, "while a session is open")
                ids = ids_by_session(testbed.path)
                worker.ask({"end": {"session": session}})
                other_worker.ask({"end": {"session": other_session}})
            _wait_until(lambda: _is_idle(socket_path))
            log = _run(["log", "--json"], environ, directory)
            status += _run(["status", "--json"], environ, directory)
        finally:
            daemon.terminate()
            daemon.wait()
        debug_output.seek(0)
        debug_lines = debug_output.read()
    outputs = {
        "the network: head and body of each request that arrived": b"\n".join(
            [*testbed.endpoint.heads, *testbed.endpoint.bodies]
        ),
        "log": log,
        "status": status,
        "the daemon's answers to producers": answers,
        "the daemon's output under BRAKIT_DEBUG": debug_lines,
        **files_while_open,
        **_files(testbed.path, "at the end"),
    }
    inputs = {
        "lines on the socket: every key, every field, every event": len(lines),
        "hello lines": len(hellos),
        "calls of the client, by five producers": calls,
        "emit: every event, every field": emitted,
        "environment, arguments, working directory, an exception": len(_SECRET_VARIABLES) + len(TEXTS) + 2,
    }
    return outputs, inputs, ids


def _worker(socket_path: str, session: str) -> Conversation:
    """Connect a worker. The session is open for as long as the worker is connected."""
    return Conversation(socket_path, TIMEOUT_S, session=session, producer=str(uuid.uuid4()))


def _run(arguments: list[str], environ: dict[str, str], directory: str) -> bytes:
    """Run a brakit-sidecar command and return its stdout."""
    return _output_of(launch.isolated_command(*arguments), environ, directory)


def _output_of(command: list[str], environ: dict[str, str], directory: str) -> bytes:
    ran = subprocess.run(
        command, env=environ, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    return ran.stdout


def _files(path: str, when: str) -> dict[str, bytes]:
    """Return the names and contents of all files that the sidecar made below ``path``, by their kind."""
    kinds: dict[str, bytes] = {}
    for directory, _, names in os.walk(path):
        for name in names:
            full = os.path.join(directory, name)
            if os.path.isfile(full) and not os.path.relpath(full, path).startswith("app "):
                with open(full, "rb") as file:
                    kind = f"{_kind(os.path.relpath(full, path))}, {when}"
                    kinds[kind] = kinds.get(kind, b"") + name.encode() + file.read()
    return dict(sorted(kinds.items()))


def _kind(path: str) -> str:
    for kind, part in (
        ("journal", "journal-"),
        ("receipts", "receipts"),
        ("config", "config"),
        ("counter files", "counters-"),
    ):
        if part in path:
            return kind
    return "other files"


def _gaps(bodies: list[bytes], outputs: dict[str, bytes]) -> list[str]:
    """Return the reasons why the audit proves nothing: outputs that are missing, or bodies that bypassed the schema."""
    gaps = []
    events = [json.loads(body) for body in bodies]
    missing = EVENTS.keys() - {event["event"] for event in events}
    if missing:
        gaps.append(f"these events did not arrive: {', '.join(sorted(missing))}")
    sessions = [event["properties"] for event in events if event["event"] == SESSION.name]
    if not all(session["endpoint_count"] and session["insight_count"] for session in sessions):
        gaps.append("a session arrived without a route or a mark, although all its workers reported both")
    for body, event in zip(bodies, events, strict=True):
        around = {name: event[name] for name in ("api_key", "distinct_id", "uuid")}
        if payload.rebuild(event["event"], body, **around) != body:
            gaps.append(f"a body of {event['event']} has values that are not in the schema")
    kinds = {name.partition(",")[0] for name in outputs}
    gaps += [f"there was no {kind}" for kind in ("journal", "counter files", "receipts") if kind not in kinds]
    receipts = {json.loads(line)["body"].encode() for line in outputs["log"].splitlines()}
    if not receipts.issuperset(bodies):
        gaps.append("a body that arrived has no receipt with the same bytes")
    return gaps


def _misused_ids(ids: dict[str, set[bytes]], outputs: dict[str, bytes]) -> list[str]:
    """Return the ways in which ids show more than they may, or why that cannot be known."""
    problems = []
    if len(ids) < 2:
        problems.append("there were no two sessions whose hashes could be compared")
    if count := shared(ids):
        problems.append(f"{count} hashes are the same in two sessions, so their key is not the session's id")
    local = ("journal", "counter files")
    every = set().union(*ids.values())
    for name, content in outputs.items():
        if not name.startswith(local) and any(opaque_id in content for opaque_id in every):
            problems.append(f"{name}: hashes of routes or marks")
    return problems


# --- lines on the socket ---------------------------------------------------------------------------------------


def _hellos(session: str) -> Iterator[Frame]:
    for text in TEXTS.values():
        ids = {"session": session, "producer": str(uuid.uuid4())}
        for name in ("protocol", "session", "producer", "group", "sdk", "role", "counter_file", text):
            yield {"protocol": 1, **ids, name: text}


def _lines() -> Iterator[bytes]:
    for text in TEXTS.values():
        for shape in (text, [text], [[text]], {text: text}, [1, text, None]):
            for key in PARTS:
                for value in (shape, {text: shape}, dict.fromkeys(SESSION_FIELDS, shape), {"0" * 16: shape}):
                    yield encode({key: value})
            for event in EVENTS.values():
                yield encode({"event": {"name": event.name, **dict.fromkeys(event.fields, shape), text: shape}})
            yield encode({"event": {"name": shape}, "end": {"exit_reason": shape}, text: shape})
        yield encode({"add": {name: ["flask", text] for name in SESSION_FIELDS}})
        yield json.dumps({"set": dict.fromkeys(SESSION_FIELDS, text)}, ensure_ascii=True).encode() + b"\n"
        yield text.replace("\n", " ").encode() + b"\n"
        yield text.replace("\n", " ").encode("utf-16") + b"\n"


def _exchange(socket_path: str, lines: list[bytes]) -> bytes:
    """Send the lines as one producer. Returns everything that the daemon answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(TIMEOUT_S)
        stream.connect(socket_path)
        answers = b""
        for line in lines:
            stream.sendall(line)
            if b'"ask"' in line:  # the daemon reads no further line until this client has read the answer
                before = answers.count(b'"answer"')
                while answers.count(b'"answer"') == before and (piece := stream.recv(65536)):
                    answers += piece
        stream.shutdown(socket.SHUT_WR)
        while piece := stream.recv(65536):
            answers += piece
        return answers


def _accepts(socket_path: str) -> bool:
    try:
        launch.running(socket_path, TIMEOUT_S)
    except NoDaemonError:
        return False
    return True


def _is_idle(socket_path: str) -> bool:
    with Conversation(socket_path, TIMEOUT_S) as daemon:
        status = daemon.ask("status")
    return not status["sessions"] and not status["delivery"]["queued"]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise CommandError(
                "the audit's own daemon does not answer; BRAKIT_DEBUG=1 brakit-sidecar serve may show why"
            )
        time.sleep(_POLL_S)
