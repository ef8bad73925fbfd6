"""Producers send forbidden texts. Each body that arrives is in the grammar, and no forbidden text is found anywhere."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core import payload
from brakit_sidecar.core.frames import PARTS, parse
from brakit_sidecar.core.schema import EVENTS, JOURNEY, SESSION, SESSION_FIELDS, EventSpec
from brakit_sidecar.core.session.totals import SessionTotals
from brakit_sidecar.selftest.audit_texts import MARK, TEXTS, traces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import page
from tests.harness import PATIENCE_S, Endpoint, Place, Wire, end_process, new_id, wait_until
from tests.privacy.grammar import broken_grammar

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAMES, CALLS = 100_000, 10_000
AT_ONCE = 500  # lines per write, which are some 100 KiB
OTHER_MARK = "Yy1Ww8Hh2PpN"
FIELDS = [*{name: None for fields in page.EVENTS.values() for name in fields}]
OWN = {"os": "linux-6.18.44", "arch": "x64", "first_session": False, "session_duration_s": 7, "exit_reason": "clean"}


class Hostile:
    """A generator of correct lines, and of lines with a forbidden text at a random place.

    The seed decides the lines.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def line(self) -> bytes:
        frame = {self._pick(PARTS, 0.9): self._part() for _ in range(self._rng.randint(1, 3))}
        frame.pop("ask", None)  # the test does not read answers
        line = json.dumps(frame, ensure_ascii=self._rng.random() < 0.5).encode()
        if self._rng.random() < 0.03:
            line = line[: self._rng.randrange(len(line))]  # invalid JSON
        return line.replace(b"\n", b" ") + b"\n"

    def _part(self) -> Any:
        choice = self._rng.random()
        if choice < 0.1:
            return self._value()
        if choice < 0.4:
            return {"name": self._pick(EVENTS, 0.9), **self._fields()}
        return self._fields()

    def _fields(self) -> dict[str, Any]:
        names = [self._pick(FIELDS, 0.9) for _ in range(self._rng.randint(1, 4))]
        return {
            name if self._rng.random() < 0.9 else f"{self._rng.getrandbits(64):016x}": self._value() for name in names
        }

    def _value(self, depth: int = 0) -> Any:
        text = self._text()
        choices: list[Any] = [
            text, text, text, f"1.2.3-{text}", f"flask{text}", 1, -1, 2**70, 0.5, True, None, "flask", "n1",
        ]  # fmt: skip
        if depth < 3:
            more = self._value(depth + 1)
            choices += [[more], [more, text], {text: more}, ["n1", more], [12.5, more]]
        return self._rng.choice(choices)

    def _text(self) -> str:
        text = self._rng.choice(list(TEXTS.values()))
        ways = (
            str, str, str, lambda text: text[::-1], lambda text: text.encode().hex(), str.upper, repr,
            lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
        )  # fmt: skip
        return str(self._rng.choice(ways)(text))

    def _pick(self, known: Any, chance: float) -> str:
        return self._rng.choice(list(known)) if self._rng.random() < chance else self._text()


def all_files(place: Place) -> Iterator[tuple[str, bytes]]:
    """Yield the path of each file in the place, and the file's name and content as one value."""
    for directory, _, names in os.walk(place.root):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    yield path, name.encode() + file.read()


def assert_clean(endpoint: Endpoint, place: Place) -> None:
    """Fail if a forbidden text was sent, is in a file or is shown by a command. Fail if a body is not in the grammar or
    has no receipt.
    """
    for path, headers, body in endpoint.requests:
        assert broken_grammar(body) == {}
        assert not traces(path.encode() + json.dumps(headers).encode() + body)
    for path, content in all_files(place):
        assert not traces(content), path
    for shown in ("status", "log"):
        assert not traces(place.run(shown, "--json").stdout.encode()), shown
    receipts = place.receipts()
    sent = sorted(receipt["body"].encode() for receipt in receipts if receipt["outcome"] == "sent")
    arrived = sorted(body for _path, _headers, body in endpoint.requests)
    # With a second file of receipts, the oldest receipts may have been removed.
    if any("receipts.old" in path for path, _ in all_files(place)):
        assert {*sent} <= {*arrived}
    else:
        assert sent == arrived
    for receipt in receipts:
        assert (receipt["outcome"] == "sent") == (receipt["reason"] == "")
        assert broken_grammar(receipt["body"].encode()) == {}


@pytest.mark.slow
def test_no_text_of_a_hostile_line_arrives_anywhere(endpoint: Endpoint, place: Place) -> None:
    served = place.serve()
    hostile, session, other = Hostile(1), new_id(), new_id()
    with Wire(place.socket_path).hello(session) as owned, Wire(place.socket_path).hello(other, role="owner") as owner:
        owned.send(incr={"request_count": 1}).sync()
        for batch in range(FRAMES // AT_ONCE):
            lines = [hostile.line() for _ in range(AT_ONCE)]
            with Wire(place.socket_path).hello((session, other, None)[batch % 3]) as wire:
                wire.write(b"".join(lines)).sync()
        status, _ = owned.ask()
        assert not traces(json.dumps(status).encode())
        assert sum(status["refused"].values()) > FRAMES / 2
        for path, content in all_files(place):  # the journal is one of them, because the sessions are open
            assert not traces(content), path
        owner.ask({"end": {"session": session}})
        owner.send(end={"exit_reason": TEXTS["SQL"]}).sync()
        wait_until(lambda: not owned.ask()[0]["delivery"]["queued"], "an empty queue")
    endpoint.wait_for("session", 2)
    wait_until(lambda: len([r for r in place.receipts() if r["event"] == "session"]) == 2, "the receipts")
    assert_clean(endpoint, place)
    assert {body["event"] for body in endpoint.bodies} == {*EVENTS}
    assert end_process(served) == 0


# This worker makes random calls. The texts of its routes and marks must not even be in the daemon's memory.
CALLER = f"""
import random, sys, brakit_sidecar
from brakit_sidecar.selftest.audit_texts import TEXTS
from brakit_sidecar.core.schema import EVENTS, SESSION_FIELDS
rng = random.Random(2)
telemetry = brakit_sidecar.connect()
requests = telemetry.counter("request_count")
texts, fields = [*TEXTS.values()], [*SESSION_FIELDS]

def hostile():
    text = rng.choice(texts)
    return rng.choice([text, text, text[::-1], [text], {{text: text}}, text.encode(), (text, 1), object(), None, 1, 0.5,
        float("nan"), 2**70, True, "flask " + text, "1.2.3-" + text, "\\ud800" + text, lambda: text, type])

def field():
    return rng.choice(fields) if rng.random() < 0.9 else hostile()

calls = [
    lambda: telemetry.set(**{{str(field()): hostile()}}),
    lambda: telemetry.add(field(), hostile()),
    lambda: telemetry.incr(field(), hostile()),
    lambda: telemetry.counter(field()).inc(hostile()),
    lambda: requests.inc(hostile()),
    lambda: telemetry.event(rng.choice([*EVENTS, hostile()]), **{{str(field()): hostile()}}),
]
private = "Wt4Hy8"  # only in routes and marks
own_calls = [
    lambda: telemetry.request("GET /" + private * 3 + str(rng.randrange(2000)), duration_ms=rng.choice([3, hostile()])),
    lambda: telemetry.mark("insight_count", private * 3 + str(rng.randrange(5000))),
]
for _ in range({CALLS} // 2):
    rng.choice(calls)()
    rng.choice(own_calls)()
print("called", flush=True)
sys.stdin.read()
telemetry.close(rng.choice(texts))
"""
PRIVATE = b"Wt4Hy8Wt4Hy8"


@pytest.mark.slow
def test_no_text_of_a_hostile_call_arrives_anywhere_and_no_route_leaves_its_process(
    endpoint: Endpoint, place: Place
) -> None:
    served = place.serve()
    session = new_id()
    worker = subprocess.Popen(
        [sys.executable, "-c", CALLER],
        env={**place.environ, "BRAKIT_SESSION_ID": session},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        check_caller(worker, served.pid, place)
    finally:
        worker.kill()
        worker.communicate()
    place.run("session", "end", session)
    endpoint.wait_for("session")
    wait_until(lambda: any(r["event"] == "session" for r in place.receipts()), "the receipt")
    assert_clean(endpoint, place)
    assert all(PRIVATE not in body for _path, _headers, body in endpoint.requests)
    assert end_process(served) == 0


def check_caller(worker: subprocess.Popen[bytes], daemon: int, place: Place) -> None:
    assert worker.stdout
    assert worker.stdout.readline() == b"called\n"
    wait_until(lambda: place.status()["sessions"][0]["fields"]["endpoint_count"] >= 100, "the routes")
    assert not traces(json.dumps(place.status()).encode())  # the status shows the worker's invalid calls
    for path, content in all_files(place):
        assert not traces(content), path
        assert PRIVATE not in content, path
    if sys.platform == "linux":
        assert PRIVATE not in memory_of(daemon)
        assert PRIVATE in memory_of(worker.pid)  # this shows that the search can find a text
    _, errors = worker.communicate(timeout=PATIENCE_S)
    assert (worker.returncode, errors) == (0, b"")


def memory_of(pid: int) -> bytes:
    """Return the content of all writable memory of the process."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            bounds, mode = line.split()[:2]
            if mode.startswith("rw"):
                start, end = (int(bound, 16) for bound in bounds.split("-"))
                try:
                    memory.seek(start)
                    found.append(memory.read(end - start))
                except (OSError, OverflowError, ValueError):  # a region of the kernel
                    continue
    return b"\n".join(found)


# --- hypothesis, on the same path without processes ---------------------------------------------------------

_texts = st.sampled_from([*TEXTS.values()])
_hostile: st.SearchStrategy[Any] = st.recursive(
    _texts | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=2),
    max_leaves=6,
)
_words = _texts | st.builds("{}{}".format, st.sampled_from(["", "1.2.3-", "linux-6.1-"]), _texts)
_values = _words | st.sampled_from(["flask", "1.2.3", True, 7]) | _hostile


def _one_of(known: list[str]) -> st.SearchStrategy[str]:
    """Draw a known text, or rarely a forbidden text."""
    return st.sampled_from([name for name in known for _ in range(5 * len(TEXTS) // len(known))] + [*TEXTS.values()])


_ids = _one_of([f"{number:016x}" for number in range(9)])


def _fields(key: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw fields that a line's key (such as ``set``) may hold, with values of the given strategy."""
    known = [name for name, field in SESSION_FIELDS.items() if key in field.rule.said_by]
    return st.dictionaries(_one_of(known), values, min_size=1, max_size=4)


def _event(event: EventSpec) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(_one_of([*event.fields]), _values, max_size=4)
    return st.builds(lambda drawn, name: {**drawn, "name": name}, fields, _one_of([event.name]))


_frames = st.fixed_dictionaries(
    {},
    optional={
        "set": _fields("set", _values),
        "add": _fields("add", st.lists(_words, max_size=3)),
        "incr": _fields("incr", st.integers(1, 9) | _hostile),
        "total": _fields("total", st.integers(1, 9) | _hostile),
        "mark": _fields("mark", st.lists(_ids, max_size=3)),
        "observe": st.dictionaries(_ids, st.lists(st.floats(0, 9999) | _hostile, min_size=1, max_size=3), max_size=3),
        "event": st.sampled_from([*JOURNEY.values()]).flatmap(_event),
        "end": st.fixed_dictionaries({"exit_reason": _words}),
    },
) | st.dictionaries(st.sampled_from([*PARTS]) | _texts, _hostile, max_size=4)


def all_bodies(frames: list[Any]) -> list[bytes]:
    """Return the bodies that would be sent for these frames, with constant ids and times."""
    session, bodies = SessionTotals(), []
    envelope = {"api_key": "phc_key", "distinct_id": str(uuid.UUID(int=1)), "timestamp": "2026-11-22T14:08:28.998Z"}
    for when, sent in enumerate(frames):
        frame = parse(json.dumps(sent).encode())
        occurred, _ = session.apply("p", frame, when, when)
        for event, fields in occurred:
            values = session.report(event, fields, OWN)
            bodies.append(payload.body(event, values, uuid=str(uuid.UUID(int=2)), **envelope))
    values = session.report(SESSION, {}, OWN)
    return [*bodies, payload.body(SESSION, values, uuid=str(uuid.UUID(int=3)), **envelope)]


@settings(max_examples=150)
@given(st.lists(_frames, min_size=1, max_size=6))
def test_for_any_frames_each_body_is_in_the_grammar_and_has_no_forbidden_text(frames: list[Any]) -> None:
    for body in all_bodies(frames):
        assert broken_grammar(body) == {}
        assert not traces(body)


def with_other_texts(value: Any) -> Any:
    """Return the same frames with each forbidden text replaced by another forbidden text."""
    if isinstance(value, str):
        return value.replace(MARK, OTHER_MARK)
    if isinstance(value, list):
        return [with_other_texts(item) for item in value]
    if isinstance(value, dict):
        return {with_other_texts(name): with_other_texts(item) for name, item in value.items()}
    return value


def test_many_drawn_frames_hold_forbidden_texts_and_change_the_bodies() -> None:
    """The control experiment: frames without a forbidden text or without an effect would prove nothing."""
    matter: list[bool] = []

    @settings(max_examples=100)
    @given(st.lists(_frames, min_size=1, max_size=6))
    def draw(frames: list[Any]) -> None:
        matter.append(all_bodies(frames) != all_bodies([]) and frames != with_other_texts(frames))

    draw()
    assert sum(matter) > len(matter) / 3


@settings(max_examples=150)
@given(st.lists(_frames, min_size=1, max_size=6))
def test_frames_that_differ_only_in_forbidden_texts_give_the_same_bytes(frames: list[Any]) -> None:
    assert all_bodies(frames) == all_bodies(with_other_texts(frames))


REPORTER = """
import sys, brakit_sidecar
telemetry = brakit_sidecar.connect(sdk=sys.argv[1])
for text in sys.argv[1:]:
    telemetry.request(f"GET /{text}", duration_ms=12.5)
    telemetry.mark("insight_count", text)
    telemetry.set(framework=text, brakit_version=f"1.2.3-{text}")
    telemetry.add("insight_types", text)
    telemetry.event("setup_completed", framework=text)
telemetry.close(exit_reason=text)
"""


@pytest.mark.slow
def test_two_runs_that_differ_only_in_forbidden_texts_send_the_same_bytes(endpoint: Endpoint) -> None:
    """Run the real client and daemon. Timestamps and durations are blanked before the comparison."""
    session = new_id()
    runs = []
    for texts in ([*TEXTS.values()], [with_other_texts(text) for text in TEXTS.values()]):
        with Place(endpoint.url) as place:
            os.makedirs(os.path.dirname(place.config_path), 0o700)
            with open(place.config_path, "w", encoding="utf-8") as config:
                json.dump({"telemetry": True, "anonymousId": str(uuid.UUID(int=7))}, config)
            place.serve()
            with Wire(place.socket_path).hello(session, producer=str(uuid.UUID(int=8))) as wire:
                for text in texts:
                    fields = dict.fromkeys(FIELDS, text)
                    wire.send(set=fields, incr=fields, add={name: [text] for name in FIELDS})
                    wire.send(mark={"insight_count": [text]}, observe={text: [12.5]}, **{text: 1})
                    wire.send(event={"name": "dashboard_viewed", "time_to_dashboard_ms": 5})
                    wire.send(event={"name": "first_request", "time_to_first_request_ms": 5, "port": text})
                reported = subprocess.run(
                    [sys.executable, "-c", REPORTER, *texts],
                    env={**place.environ, "BRAKIT_SESSION_ID": session},
                    capture_output=True,
                    check=False,
                )
                assert (reported.returncode, reported.stderr) == (0, b"")
                wire.ask({"end": {"session": session}})
            wait_until(lambda: len(endpoint.requests) == 4, "four events")
        runs.append(sorted(map(without_time, endpoint.requests)))
        properties = endpoint.session_of(session)
        found = {name: properties[name] for name in ("endpoint_count", "insight_count", "framework", "insight_types")}
        assert found == {
            "endpoint_count": len(TEXTS), "insight_count": len(TEXTS), "framework": "other", "insight_types": ["other"]
        }  # fmt: skip
        endpoint.requests.clear()
    assert runs[0] == runs[1]


def without_time(request: tuple[str, dict[str, str], bytes]) -> tuple[str, list[str], bytes]:
    path, headers, body = request
    blanked = re.sub(rb'("timestamp":|"session_duration_s":)("[^"]*"|[0-9]+)', rb"\1", body)
    return path, [f"{name}: {value}" for name, value in headers.items() if name != "content-length"], blanked
