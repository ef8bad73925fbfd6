"""``audit``: pushes secrets through the sidecar as it is installed, in every position in which a producer can say
anything, and shows that none arrived anywhere. It has an endpoint on this machine and a daemon of its own in a
temporary place.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
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
from .audit_texts import TEXTS, traces
from .testbed import Testbed

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    Frame = dict[str, Any]

PATIENCE_S = 30.0  # ten times what it all takes
_PAUSE_S = 0.05
_SECRET_VARIABLES = ("DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "API_KEY", "USER", "HOSTNAME", "PYTHONSTARTUP", "TZ_HINT")


def audit(_arguments: Namespace) -> int:
    with Testbed("audit") as place:
        found, pushed = _found_after_all(place)
        bodies = list(place.endpoint.bodies)
    leaks = {where: traces(what) for where, what in found.items()}
    problems = [f"{where}: {', '.join(forms)}" for where, forms in leaks.items() if forms] + _wrong_with(bodies, found)
    problems += [f"{how}: none was pushed" for how, count in pushed.items() if not count]
    _show(pushed, found, leaks, bodies)
    if problems:
        raise CommandError("this is a defect, please report it: " + "; ".join(problems))
    print("\nNothing of them arrived anywhere.")
    return 0


def _show(pushed: dict[str, int], found: dict[str, bytes], leaks: dict[str, list[str]], bodies: list[bytes]) -> None:
    print(f"{len(TEXTS)} texts: {', '.join(TEXTS)}\n")
    for how, count in pushed.items():
        print(f"  pushed by  {how:58}{count:>8}")
    print(f"\n  {'looked at':58}{'bytes':>9}  texts found, in eight forms")
    for where, what in found.items():
        print(f"  {where:58}{len(what):>9}  {', '.join(leaks[where]) or 'none'}")
    names = [json.loads(body)["event"] for body in bodies]
    arrived = ", ".join(f"{names.count(name)} {name}" for name in EVENTS)
    print(f"\n  arrived, each made of the schema alone: {arrived}")


# --- pushing, and looking --------------------------------------------------------------------------------------


def _found_after_all(place: Testbed) -> tuple[dict[str, bytes], dict[str, int]]:
    """By place: all that is there, while sessions are open and after their end. By position: how often it was said."""
    environ = place.environ | dict(zip(_SECRET_VARIABLES, TEXTS.values(), strict=False))
    directory = os.path.join(place.path, "app " + next(iter(TEXTS.values())).replace("/", "_"))
    os.mkdir(directory)
    socket_path = paths.socket_path(place.environ)
    with open(os.path.join(directory, "said"), "w+b") as said_by_daemon:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "brakit_sidecar", "serve"],
            env=environ | {"BRAKIT_DEBUG": "1"},
            stdin=subprocess.DEVNULL,
            stdout=said_by_daemon,
            stderr=said_by_daemon,
        )
        try:
            _wait_until(lambda: _accepts(socket_path))
            session = str(uuid.uuid4())
            lines = list(_lines())
            hellos = [encode({"hello": hello}) + line for hello in _hellos(session) for line in lines[:1]]
            answers = b"".join(_heard(socket_path, [hello]) for hello in hellos)
            with Conversation(socket_path, PATIENCE_S, session=session, producer=str(uuid.uuid4())) as worker:
                worker.say({"incr": {"request_count": 1}})
                hello = encode({"hello": {"protocol": 1, "session": session, "producer": str(uuid.uuid4())}})
                answers += _heard(socket_path, [hello, *lines])
                app = [sys.executable, "-m", "brakit_sidecar.selftest.audit_app"]
                calls = int(_run(["run", "--", *app, "work", *TEXTS.values()], environ, directory) or 0)
                in_session = environ | {"BRAKIT_SESSION_ID": session}  # until it ends, the workers' memories are there
                calls += int(_ran([*app, "work"], in_session, directory) or 0)
                emitted = int(_ran([*app, "emit"], in_session, directory) or 0)
                status = _run(["status", "--json"], environ, directory)
                while_open = _files(place.path, "while a session is open")
                worker.ask({"end": {"session": session}})
            _wait_until(lambda: _is_at_rest(socket_path))
            log = _run(["log", "--json"], environ, directory)
            status += _run(["status", "--json"], environ, directory)
        finally:
            daemon.terminate()
            daemon.wait()
        said_by_daemon.seek(0)
        words = said_by_daemon.read()
    found = {
        "the wire: each request that arrived, head and body": b"\n".join(
            [*place.endpoint.heads, *place.endpoint.bodies]
        ),
        "log": log,
        "status": status,
        "what the daemon answered producers": answers,
        "what the daemon says under BRAKIT_DEBUG": words,
        **while_open,
        **_files(place.path, "at the end"),
    }
    pushed = {
        "lines on the socket: every key, every field, every event": len(lines),
        "hellos": len(hellos),
        "calls of the client, by four producers": calls,
        "emit: every event, every field": emitted,
        "environment, arguments, working directory, an exception": len(_SECRET_VARIABLES) + len(TEXTS) + 2,
    }
    return found, pushed


def _run(arguments: list[str], environ: dict[str, str], directory: str) -> bytes:
    """What a command of ours says on stdout."""
    return _ran([sys.executable, "-m", "brakit_sidecar", *arguments], environ, directory)


def _ran(command: list[str], environ: dict[str, str], directory: str) -> bytes:
    ran = subprocess.run(
        command, env=environ, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    return ran.stdout


def _files(path: str, when: str) -> dict[str, bytes]:
    """All of ours, by what they are: names and contents."""
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
        ("memories", "counters-"),
    ):
        if part in path:
            return kind
    return "other files"


def _wrong_with(bodies: list[bytes], found: dict[str, bytes]) -> list[str]:
    """What would make the audit say nothing: events that did not come, or came otherwise than by the gate."""
    wrong = []
    events = [json.loads(body) for body in bodies]
    missing = EVENTS.keys() - {event["event"] for event in events}
    if missing:
        wrong.append(f"these did not arrive: {', '.join(sorted(missing))}")
    counted = [event["properties"] for event in events if event["event"] == SESSION.name]
    if not all(said["endpoint_count"] and said["insight_count"] for said in counted):
        wrong.append("a session without a route or a mark of those that were said")
    for body, said in zip(bodies, events, strict=True):
        around = {name: said[name] for name in ("api_key", "distinct_id", "uuid")}
        if payload.rebuild(said["event"], body, **around) != body:
            wrong.append(f"a body of {said['event']} is not made of the schema")
    kinds = {where.partition(",")[0] for where in found}
    wrong += [f"there were no {kind}" for kind in ("journal", "memories", "receipts") if kind not in kinds]
    receipts = {json.loads(line)["body"].encode() for line in found["log"].splitlines()}
    if not receipts.issuperset(bodies):
        wrong.append("a body that arrived has no receipt with its bytes")
    return wrong


# --- what is said on the socket --------------------------------------------------------------------------------


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


def _heard(socket_path: str, lines: list[bytes]) -> bytes:
    """A producer that says the lines, and all that it is answered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(PATIENCE_S)
        stream.connect(socket_path)
        heard = b""
        for line in lines:
            stream.sendall(line)
            if b'"ask"' in line:  # it waits for us to read
                before = heard.count(b'"answer"')
                while heard.count(b'"answer"') == before and (piece := stream.recv(65536)):
                    heard += piece
        stream.shutdown(socket.SHUT_WR)
        while piece := stream.recv(65536):
            heard += piece
        return heard


def _accepts(socket_path: str) -> bool:
    try:
        launch.running(socket_path, PATIENCE_S)
    except NoDaemonError:
        return False
    return True


def _is_at_rest(socket_path: str) -> bool:
    with Conversation(socket_path, PATIENCE_S) as daemon:
        status = daemon.ask("status")
    return not status["sessions"] and not status["delivery"]["queued"]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise CommandError(
                "the audit's own daemon does not answer; BRAKIT_DEBUG=1 brakit-sidecar serve may show why"
            )
        time.sleep(_PAUSE_S)
