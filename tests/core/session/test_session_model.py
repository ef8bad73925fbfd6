"""Compares a session with a plain model, from the bytes of several producers to the fields of the event.

The model keeps every reported value. It computes each field from all reported values, as the table of fields describes
the field, with exact fractions, sorted lists and sets. It has no totals, merges or rows. It counts a line when the
line's last byte has been delivered.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from fractions import Fraction
from functools import partial
from math import ceil, floor
from typing import TYPE_CHECKING, Any

from brakit_sidecar.core import payload
from brakit_sidecar.core.frames import parse
from brakit_sidecar.core.lines import FrameReader
from brakit_sidecar.core.schema import EVENTS, SESSION
from brakit_sidecar.core.session.totals import SessionTotals
from brakit_sidecar.core.wire import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.core import page, strategies

if TYPE_CHECKING:
    from collections.abc import Callable

SESSION_ID = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01"
# The order of these ids differs from the order of the hellos.
PRODUCERS = [f"{digit * 8}-0000-4000-8000-000000000000" for digit in "c1a"]

DAEMONS_OWN = {
    "os": "linux-6.18.44",
    "arch": "x64",
    "first_session": True,
    "session_duration_s": 1823,
    "exit_reason": "sigint",
}

# These map each value that a producer sends to the value that the session must report.
FRAMEWORKS = {"flask": "flask", "django": "django", "unknown": "unknown", "cobol-on-cogs": "other"}
SCALARS: dict[str, dict[Any, Any]] = {
    "brakit_version": {"0.1.7": "0.1.7", "0.10.2-canary.ada": "0.10.2"},
    "node_version": {"v20.11.0": "v20.11.0", "22.0.1-nightly": "v22.0.1"},
    "python_version": {"3.12.1": "3.12.1", "3.14.0rc1+ada": "3.14.0"},
    "framework": FRAMEWORKS,
    "package_manager": {"uv": "uv", "unknown": "unknown", "pip": "pip", "conda": "other"},
    "is_custom_command": {True: True, False: False},
    "dashboard_opened": {True: True, False: False},
    "explain_used": {True: True, False: False},
    "setup_succeeded": {True: True, False: False},
    "setup_duration_ms": {42: 42, 41.5: 42, 97.4: 97, 0: 0},
    "time_to_first_request_ms": {3200: 3200, 2.5: 3, 0: 0},
    "time_to_dashboard_ms": {8500: 8500, 86_400_000: 86_400_000},
}
SETS = {
    "adapters_detected": {"pg": "pg", "prisma": "prisma", "homemade": "other"},
    "adapters_failed": {"pg": "pg", "asyncpg": "asyncpg"},
    "framework_detection_candidates": {"next": "next", "@hapi/hapi": "@hapi/hapi", "left-pad": "other"},
    "insight_types": {"n1": "n1", "slow": "slow", "new-kind": "other"},
    "rules_triggered": {"token-in-url": "token-in-url"},
    "tabs_viewed": {"logs": "logs", "errors": "errors", "overview": "overview"},
}
COUNTS = ["request_count", "error_count", "query_count", "fetch_count", "insight_count", "finding_count"]

# Maps each line with a wrong part to its refusals, and to the number of requests that its good part counts.
WRONG_LINES: dict[bytes, tuple[list[str], int]] = {
    b"{": (["bad_json"], 0),
    b"\xff\x00": (["bad_json"], 0),
    b"": (["bad_json"], 0),
    b"[1]": (["not_an_object"], 0),
    b'{"secret":"/home/ada","incr":{"request_count":1}}': (["unknown_key"], 1),
    b'{"incr":{"password":1,"request_count":2}}': (["unknown_field"], 2),
    b'{"total":{"avg_duration_ms":1}}': (["wrong_key"], 0),
    b'{"set":{"framework":7,"exit_reason":"clean"}}': (["bad_value", "wrong_key"], 0),
    b'{"incr":{"request_count":true}}': (["bad_value"], 0),
    b'{"observe":{"GET /users":[1]}}': (["bad_id"], 0),
    b'{"observe":{"9f3a61c2d4e5b607":[-1,"x"]}}': (["bad_value", "bad_value"], 0),
    b'{"mark":{"insight_count":["n1"]}}': (["bad_id"], 0),
    b'{"add":{"insight_types":"n1"}}': (["bad_value"], 0),
    b'{"event":{"name":"session"}}': (["unknown_event"], 0),
}


def bucket(duration_ms: Fraction) -> str:
    edges = {"<200ms": 200, "200-500ms": 500, "500-1000ms": 1000, "1000-2000ms": 2000, "2000-5000ms": 5000}
    return next((name for name, edge in edges.items() if duration_ms < edge), ">5000ms")


def p95(durations: list[Fraction]) -> Fraction:
    return sorted(durations)[ceil(Fraction(95, 100) * len(durations)) - 1]


class Model:
    """A session, computed as the table of fields describes it."""

    def __init__(self) -> None:
        self.totals: dict[str, dict[str, int]] = defaultdict(dict)  # by field and producer
        self.ids: dict[str, set[str]] = defaultdict(set)
        self.values: dict[str, list[Any]] = defaultdict(list)  # by field, in the order of arrival
        self.members: dict[str, set[str]] = defaultdict(set)
        self.durations: dict[str, list[Fraction]] = defaultdict(list)  # by route, of all producers
        self.sent: list[dict[str, Any]] = []
        self.refused: Counter[str] = Counter()

    def add(self, producer: str, field: str, count: int) -> None:
        self.totals[field][producer] = min(self.totals[field].get(producer, 0) + count, page.COUNT_MAX)

    def raise_to(self, producer: str, field: str, total: int) -> None:
        self.totals[field][producer] = max(self.totals[field].get(producer, 0), total)

    def count(self, field: str) -> int:
        return min(sum(self.totals[field].values()) + len(self.ids[field]), page.COUNT_MAX)

    def first(self, field: str, default: Any = "unknown") -> Any:
        return next((value for value in self.values[field] if value != "unknown"), default)

    def occur(self, name: str, fields: dict[str, Any], elapsed_ms: int) -> None:
        if name == "first_request":
            fields = {"time_to_first_request_ms": self.time("time_to_first_request_ms", elapsed_ms), **fields}
        if name == "dashboard_viewed":
            took = self.time("time_to_dashboard_ms", elapsed_ms)
            fields = {"time_to_dashboard_ms": took, **fields, "request_count_at_open": self.count("request_count")}
            self.values["dashboard_opened"].append(True)
        for field, value in fields.items():
            if field in SETS:
                self.members[field] |= set(value)
            elif field in SCALARS:
                self.values[field].append(value)
        once = name not in {"cli_invoked", "cli_uninstall"}
        if not once or all(sent["event"] != name for sent in self.sent):
            known = {**self.fields(), **DAEMONS_OWN, **fields}
            defaults = {field: promise.default for field, promise in page.JOURNEY[name].items()}
            self.sent.append({"event": name, **{field: known.get(field, value) for field, value in defaults.items()}})

    def time(self, field: str, elapsed_ms: int) -> int:
        """Return the earliest reported time. Returns the session's age if no time was reported."""
        return min(self.values[field], default=elapsed_ms)

    def fields(self) -> dict[str, Any]:
        durations = [duration for route in self.durations.values() for duration in route]
        slowest = max((p95(route) for route in self.durations.values()), default=None)
        return {
            "brakit_version": self.first("brakit_version"),
            "node_version": self.first("node_version", default=None),
            "python_version": self.first("python_version", default=None),
            "sdk": self.first("sdk"),
            "framework": self.first("framework"),
            "package_manager": self.first("package_manager"),
            "is_custom_command": any(self.values["is_custom_command"]),
            "dashboard_opened": any(self.values["dashboard_opened"]),
            "explain_used": any(self.values["explain_used"]),
            "setup_succeeded": bool(self.values["setup_succeeded"]) and all(self.values["setup_succeeded"]),
            "setup_duration_ms": max(self.values["setup_duration_ms"], default=0),
            "time_to_first_request_ms": min(self.values["time_to_first_request_ms"], default=None),
            "time_to_dashboard_ms": min(self.values["time_to_dashboard_ms"], default=None),
            **{field: self.count(field) for field in COUNTS},
            **{field: sorted(self.members[field]) for field in SETS},
            "endpoint_count": len(self.durations),
            "avg_duration_ms": floor(sum(durations) / len(durations) + Fraction(1, 2)) if durations else 0,
            "slowest_endpoint_bucket": "none" if slowest is None else bucket(slowest),
        }


class Producer:
    """One worker's end of the wire: the line that it builds, and the bytes that have not arrived yet."""

    def __init__(self, producer: str) -> None:
        self.id = producer
        self.reader = FrameReader()
        self.line: dict[str, Any] = {}
        self.effects: list[Callable[[], None]] = []
        self.wire = bytearray()
        self.under_way: list[tuple[int, list[Callable[[], None]]]] = []  # per line: missing bytes, effects on the model
        self.repeatable: list[bytes] = []
        self.own_durations: dict[str, list[int]] = defaultdict(list)

    def write(self, line: bytes, effects: list[Callable[[], None]]) -> None:
        self.wire += line
        self.under_way.append((len(line), effects))

    def flush(self) -> None:
        if not self.line:
            return
        line = encode(self.line)
        if self.line.keys() <= {"hello", "total", "histogram", "set", "add", "mark"}:
            self.repeatable.append(line)
        self.write(line, self.effects)
        self.line, self.effects = {}, []


# Two keys for the same value are not put into one line, because the order of keys is not defined.
EXCLUDED = {"incr": "total", "total": "incr", "observe": "histogram", "histogram": "observe"}

producers = st.integers(0, len(PRODUCERS) - 1)
together = st.booleans()


class Interleaved(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.session = SessionTotals()
        self.workers = [Producer(producer) for producer in PRODUCERS]
        self.now_ns = 0
        self.sent: list[dict[str, Any]] = []
        self.refused: Counter[str] = Counter()

    @initialize(sdks=st.tuples(*[st.sampled_from(["python", "node", "unknown", "cobol"])] * len(PRODUCERS)))
    def hellos(self, sdks: tuple[str, ...]) -> None:
        for worker, sdk in zip(self.workers, sdks, strict=True):
            hello = {"protocol": 1, "session": SESSION_ID, "producer": worker.id, "sdk": sdk}
            known = sdk if sdk in {"python", "node"} else "unknown"
            self._put(worker, "hello", hello, partial(self.model.values["sdk"].append, known))
            worker.flush()

    # --- lines that producers send --------------------------------------------------------------------------

    @rule(by=producers, field=st.sampled_from(COUNTS), count=strategies.counts, together=together)
    def increment(self, by: int, field: str, count: int, *, together: bool) -> None:
        worker = self.workers[by]
        self._put(worker, "incr", {field: count}, lambda: self.model.add(worker.id, field, count), together=together)

    @rule(by=producers, field=st.sampled_from(COUNTS), total=strategies.counts, together=together)
    def total(self, by: int, field: str, total: int, *, together: bool) -> None:
        worker = self.workers[by]
        self._put(
            worker, "total", {field: total}, lambda: self.model.raise_to(worker.id, field, total), together=together
        )

    @rule(by=producers, field=st.sampled_from([*SCALARS]), data=st.data(), together=together)
    def set_scalar(self, by: int, field: str, data: st.DataObject, *, together: bool) -> None:
        raw = data.draw(st.sampled_from([*SCALARS[field]]))
        value = SCALARS[field][raw]
        self._put(
            self.workers[by], "set", {field: raw}, lambda: self.model.values[field].append(value), together=together
        )

    @rule(by=producers, field=st.sampled_from([*SETS]), data=st.data(), together=together)
    def add_members(self, by: int, field: str, data: st.DataObject, *, together: bool) -> None:
        raw = data.draw(st.lists(st.sampled_from([*SETS[field]]), max_size=3))
        members = {SETS[field][word] for word in raw}

        def effect() -> None:
            self.model.members[field] |= members

        self._put(self.workers[by], "add", {field: raw}, effect, together=together)

    @rule(
        by=producers,
        field=st.sampled_from(["insight_count", "finding_count"]),
        ids=st.lists(strategies.opaque_ids, max_size=3),
        together=together,
    )
    def mark(self, by: int, field: str, ids: list[str], *, together: bool) -> None:
        self._put(self.workers[by], "mark", {field: ids}, lambda: self.model.ids[field].update(ids), together=together)

    @rule(
        by=producers,
        route=strategies.opaque_ids,
        durations_ns=st.lists(strategies.durations_ns, min_size=1, max_size=20),
        as_row=st.booleans(),
        together=together,
    )
    def serve(self, by: int, route: str, durations_ns: list[int], *, as_row: bool, together: bool) -> None:
        worker = self.workers[by]
        own = worker.own_durations[route]
        own += durations_ns
        exact = [Fraction(ns, 1_000_000) for ns in durations_ns]
        values: list[float]
        if as_row:
            buckets = Counter(bucket(Fraction(ns, 1_000_000)) for ns in own)
            words = page.VOCABULARY["slowest_endpoint_bucket"].split()[1:]
            key, values = "histogram", [sum(own), *(buckets[word] for word in words)]
        else:
            key, values = "observe", [ns / 1_000_000 for ns in durations_ns]
        self._put(worker, key, {route: values}, lambda: self.model.durations[route].extend(exact), together=together)

    @rule(by=producers, framework=st.none() | st.sampled_from([*FRAMEWORKS]), ms=st.none() | st.integers(0, 99))
    def complete_setup(self, by: int, framework: str | None, ms: int | None) -> None:
        fields = {
            **({"framework": framework} if framework else {}),
            **({"setup_duration_ms": ms} if ms is not None else {}),
            "adapters_detected": ["pg", "homemade"],
        }
        expected = {
            **fields,
            **({"framework": FRAMEWORKS[framework]} if framework else {}),
            "adapters_detected": ["other", "pg"],
        }
        self._occur(self.workers[by], "setup_completed", fields, expected)

    @rule(by=producers, port=st.integers(1, 65_535), ms=st.none() | st.integers(0, 99))
    def request_first(self, by: int, port: int, ms: int | None) -> None:
        expected = {"port": port, **({"time_to_first_request_ms": ms} if ms is not None else {})}
        self._occur(self.workers[by], "first_request", {"time_to_first_request_ms": None, **expected}, expected)

    @rule(by=producers)
    def view_dashboard(self, by: int) -> None:
        self._occur(self.workers[by], "dashboard_viewed", {}, {})

    @rule(by=producers, version=st.sampled_from([*SCALARS["brakit_version"]]), has=st.booleans())
    def invoke_cli(self, by: int, version: str, *, has: bool) -> None:
        fields = {"command": "deploy", "has_package_json": has, "sdk": "node", "brakit_version": version}
        expected = {**fields, "command": "other", "brakit_version": SCALARS["brakit_version"][version]}
        self._occur(self.workers[by], "cli_invoked", fields, expected)

    @rule(by=producers, line=st.sampled_from([*WRONG_LINES]))
    def send_wrong_line(self, by: int, line: bytes) -> None:
        worker = self.workers[by]
        refused, requests = WRONG_LINES[line]

        def effect() -> None:
            self.model.refused.update(refused)
            if requests:
                self.model.add(worker.id, "request_count", requests)

        worker.flush()
        worker.write(line + b"\n", [effect])

    @rule(by=producers, data=st.data())
    def repeat(self, by: int, data: st.DataObject) -> None:
        """Send earlier lines again, except lines with increments. A repeated line has no effect."""
        worker = self.workers[by]
        worker.flush()
        for line in data.draw(st.lists(st.sampled_from(worker.repeatable), max_size=4)):
            worker.write(line, [])

    @rule(by=producers)
    def reconnect(self, by: int) -> None:
        """Close the connection after the session has read all of it, connect again, and repeat all repeatable lines."""
        worker = self.workers[by]
        worker.flush()
        self._deliver(worker, len(worker.wire))
        worker.reader = FrameReader()
        for line in worker.repeatable:
            worker.write(line, [])

    # --- bytes and time -------------------------------------------------------------------------------------

    @rule(by=producers, size=st.integers(1, 400))
    def deliver(self, by: int, size: int) -> None:
        self.workers[by].flush()
        self._deliver(self.workers[by], size)

    @rule(ns=st.sampled_from([1, 999_999, 1_000_000, 5_000_000_000]))
    def pass_time(self, ns: int) -> None:
        self.now_ns += ns

    @invariant()
    def the_report_holds_exactly_what_arrived(self) -> None:
        assert self.session.report(SESSION, {}, DAEMONS_OWN) == {**self.model.fields(), **DAEMONS_OWN}

    @invariant()
    def each_event_was_sent_once_with_the_fields_known_at_that_time(self) -> None:
        assert self.sent == self.model.sent

    @invariant()
    def each_wrong_part_is_refused_once(self) -> None:
        assert self.refused == self.model.refused

    def teardown(self) -> None:
        for worker in self.workers:
            worker.flush()
            self._deliver(worker, len(worker.wire))
        self.the_report_holds_exactly_what_arrived()
        self.each_event_was_sent_once_with_the_fields_known_at_that_time()
        self.each_wrong_part_is_refused_once()

    # --- helpers --------------------------------------------------------------------------------------------

    def _put(
        self, worker: Producer, key: str, fields: dict[str, Any], effect: Callable[[], None], *, together: bool = False
    ) -> None:
        if not together or key in worker.line or EXCLUDED.get(key) in worker.line:
            worker.flush()
        worker.line[key] = fields
        worker.effects.append(effect)

    def _occur(self, worker: Producer, name: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
        worker.flush()
        self._put(worker, "event", {"name": name, **fields}, lambda: self.model.occur(name, expected, self._elapsed_ms))
        worker.flush()

    def _deliver(self, worker: Producer, size: int) -> None:
        chunk = bytes(worker.wire[:size])
        del worker.wire[:size]
        arrived = len(chunk)
        for line in worker.reader.feed(chunk):
            frame = parse(line)
            if frame.hello is not None:
                self.session.greet(worker.id, frame.hello.sdk, self.now_ns)
            occurred, refused = self.session.apply(worker.id, frame, self.now_ns, self._elapsed_ms)
            self.refused.update(reason.value for reason in (*frame.refused, *refused))
            for event, fields in occurred:
                self.sent.append({"event": event.name, **self.session.report(event, fields, DAEMONS_OWN)})
        while worker.under_way and worker.under_way[0][0] <= arrived:
            length, effects = worker.under_way.pop(0)
            arrived -= length
            for effect in effects:
                effect()
        if worker.under_way:
            missing, effects = worker.under_way[0]
            worker.under_way[0] = missing - arrived, effects

    @property
    def _elapsed_ms(self) -> int:
        return self.now_ns // 1_000_000


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = settings(max_examples=150, stateful_step_count=50)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(PRODUCERS), strategies.lines), max_size=8))
def test_every_event_matches_the_telemetry_page_whatever_lines_arrive(lines: list[tuple[str, bytes]]) -> None:
    session = SessionTotals()
    for when, (producer, line) in enumerate(lines):
        frame = parse(line)
        if frame.hello is not None:
            session.greet(producer, frame.hello.sdk, when)
        occurred, _ = session.apply(producer, frame, when, when)
        for event, fields in occurred:
            assert page.broken_promises(event.name, session.report(event, fields, DAEMONS_OWN)) == {}
    values = session.report(SESSION, {}, DAEMONS_OWN)
    assert page.broken_promises("session", values) == {}
    an_id, a_time = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01", "2026-11-22T14:08:28.998Z"
    body = payload.body(SESSION, values, api_key="", distinct_id=an_id, uuid=an_id, timestamp=a_time)
    assert json.loads(body)["properties"] == {**values, **page.FIXED}


@given(st.lists(strategies.json_values, max_size=6))
def test_a_report_holds_only_values_of_the_schema(values: list[object]) -> None:
    """Send every value for every field of every event. Only values that the page allows are reported."""
    session = SessionTotals()
    own_words = {word for words in page.VOCABULARY.values() for word in words.split()}
    for when, value in enumerate(values):
        for name, event in EVENTS.items():
            keys = {"set": dict.fromkeys(event.fields, value), "add": {name: [value] for name in event.fields}}
            frame = parse(json.dumps({**keys, "event": {"name": name, **dict.fromkeys(event.fields, value)}}).encode())
            session.apply("p", frame, when, when)
    for value in session.report(SESSION, {}, DAEMONS_OWN).values():
        texts = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        assert all(text in own_words or set(text.removeprefix("linux-")) <= set("v.0123456789") for text in texts)
