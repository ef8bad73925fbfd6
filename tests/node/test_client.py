"""The npm package's client, as an application uses it: what is counted arrives, and a mistake costs nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest
from brakit_sidecar.core import counter_layout
from brakit_sidecar.core.counter_snapshot import CounterSnapshot

from tests.harness import PATIENCE_S, Endpoint, Place, new_id, wait_until

from .fake_daemon import FakeDaemon
from .nodes import PACKAGE, each_node, newest_node
from .sessions import counter_files, counts_by_line, owned, refused, shown, until_shown
from .workers import Worker, run_script, start_driver

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX = 2**53 - 1


@pytest.fixture
def nowhere() -> Iterator[Place]:
    """Make a place without a daemon."""
    with Place() as place:
        yield place


# --- counts arrive --------------------------------------------------------------------------------------------------


@each_node
def test_everything_that_an_application_reports_is_in_the_session(node: str, home: Place) -> None:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    with owned(home) as session, Worker(node, home, session) as worker:
        worker.do("t.set({ framework: 'express', brakit_version: '0.10.2', is_custom_command: true })")
        worker.do("globalThis.requests = t.counter('request_count')")
        worker.do("for (let n = 0; n < 10; n += 1) requests.inc()")
        worker.do("requests.inc(5)")
        worker.do("t.incr('query_count', 3)")
        worker.do("t.request('GET /users', 12.5)")
        worker.do("t.request('GET /users', 612)")
        worker.do("t.request('POST /users')")
        worker.do("t.add('insight_types', 'n1', 'slow')")
        worker.do("t.mark('insight_count', 'one text', 'another', 'one text')")
        worker.do("t.event('first_request', { port: 8000 })")
        until_shown(
            home, session,
            framework="express", brakit_version="0.10.2", is_custom_command=True, sdk="node", node_version=version,
            python_version=None, request_count=18, query_count=3, endpoint_count=1, avg_duration_ms=312,
            slowest_endpoint_bucket="500-1000ms", insight_types=["n1", "slow"], insight_count=2,
        )  # fmt: skip
        assert shown(home, session)["time_to_first_request_ms"] >= 0


@each_node
def test_a_count_is_in_the_counter_file_when_the_call_returns(node: str, home: Place) -> None:
    with owned(home) as session, Worker(node, home, session) as worker:
        worker.do("t.incr('query_count', 3)")
        worker.do(f"t.incr('query_count', {2**33})")
        worker.do("t.request('GET /users', 612)")
        with open(worker.counter_file(), "rb") as file:
            content = file.read()
        snapshot = CounterSnapshot.of(content)
        assert snapshot is not None
        assert snapshot.counts == {"query_count": 2**33 + 3, "request_count": 1}
        assert list(snapshot.rows.values()) == [(612_000_000, 0, 0, 1, 0, 0, 0)]
        cells = memoryview(content).cast("Q")
        assert cells[counter_layout.PID] == worker.process.pid
        assert cells[counter_layout.KIND] == counter_layout.OF_SESSION
        assert content[counter_layout.ID * 8 :][:16] == uuid.UUID(session).bytes


@each_node
def test_the_counter_file_is_readable_for_its_user_only(node: str, home: Place) -> None:
    with owned(home) as session, Worker(node, home, session) as worker:
        info = os.stat(worker.counter_file())
        assert (info.st_mode & 0o777, info.st_size) == (0o400, counter_layout.SIZE)


@each_node
def test_no_line_reports_counts_after_the_daemon_has_accepted_the_counter_file(node: str, nowhere: Place) -> None:
    with FakeDaemon(nowhere, {"counter_file": 1}) as daemon, Worker(node, nowhere, new_id()) as worker:
        wait_until(lambda: not counts_by_line(worker, daemon), "the worker's receipt of the answer")
        lines = len(daemon.frames)
        worker.do("t.incr('query_count'); t.request('GET /', 5); t.add('tabs_viewed', 'logs')")
        wait_until(lambda: daemon.frames_with("add") == 1, "the last line")
        assert [list(frame) for frame in daemon.frames[lines:]] == [["add"]]


@each_node
def test_two_counters_of_a_field_are_one(node: str, home: Place) -> None:
    with owned(home) as session, Worker(node, home, session) as worker:
        worker.do("globalThis.first = t.counter('error_count'); globalThis.second = t.counter('error_count'); 1")
        worker.do("first.inc(); second.inc(2); t.incr('error_count')")
        until_shown(home, session, error_count=4)


SATURATES = f"""
const t = connect();
const requests = t.counter('request_count');
for (let n = 0; n < 120; n += 1) {{
  t.incr('request_count', {MAX});
  requests.inc();
  t.request('GET /', 86_400_000);
}}
"""


@each_node
def test_counts_and_durations_saturate(node: str, home: Place) -> None:
    before = refused(home)
    with owned(home) as session:
        assert run_script(node, home, SATURATES, BRAKIT_SESSION_ID=session).returncode == 0
        until_shown(home, session, request_count=MAX, slowest_endpoint_bucket=">5000ms")
    assert refused(home) == before


@each_node
def test_routes_that_have_no_room_keep_their_durations(node: str, home: Place) -> None:
    code = "const t = connect(); for (let n = 0; n < 1100; n += 1) t.request(`GET /${n}`, n < 1023 ? 100 : 1200);"
    with owned(home) as session:
        assert run_script(node, home, code, BRAKIT_SESSION_ID=session).returncode == 0
        average = round((1023 * 100 + 77 * 1200) / 1100)
        until_shown(home, session, request_count=1100, endpoint_count=1023, avg_duration_ms=average)


@each_node
def test_a_duration_on_an_edge_is_in_the_upper_bucket(node: str, home: Place) -> None:
    code = "const t = connect(); for (const ms of [0, 199.9, 200, 500, 1000, 2000, 5000]) t.request('GET /', ms);"
    with owned(home) as session:
        ran = run_script(node, home, code + KEEPS_ITS_FILE, BRAKIT_SESSION_ID=session)
        rows = bytes.fromhex(ran.stdout)
        snapshot = CounterSnapshot.of(rows)
        assert snapshot is not None
        ((_sum, *buckets),) = snapshot.rows.values()
        assert buckets == [2, 1, 1, 1, 1, 1]


# Prints the content of the process' counter file.
KEEPS_ITS_FILE = """
const fs = require('node:fs');
const links = fs.readdirSync('/proc/self/fd').map((fd) => {
  try { return fs.readlinkSync(`/proc/self/fd/${fd}`); } catch { return ''; }
});
process.stdout.write(fs.readFileSync(links.find((link) => link.includes('/counters-1-'))).toString('hex'));
"""


@each_node
def test_a_closed_producer_does_not_count(node: str, home: Place, remote: Endpoint) -> None:
    with owned(home) as session, Worker(node, home, session) as worker:
        worker.do("t.incr('request_count'); t.close('sigterm')")
        worker.do("t.incr('request_count'); t.counter('request_count').inc(); t.request('GET /', 1); t.close()")
    assert remote.session_of(session)["request_count"] == 1


@each_node
def test_the_functions_of_a_producer_may_be_passed_on_by_themselves(node: str, home: Place) -> None:
    with owned(home) as session, Worker(node, home, session) as worker:
        worker.do(
            "const { incr, counter, set } = t; const { inc } = counter('query_count'); incr('query_count'); inc()"
        )
        worker.do("[1, 2].forEach((n) => t.counter('error_count').inc(n)); t.set({ framework: 'koa' })")
        until_shown(home, session, query_count=2, error_count=3, framework="koa")


@each_node
def test_an_application_may_import_the_package_as_a_module(node: str, home: Place) -> None:
    code = f"import {{ connect, emit }} from {os.path.join(PACKAGE, 'index.mjs')!r}; connect().incr('query_count', 2)"
    with owned(home) as session:
        environ = {**home.environ, "BRAKIT_SESSION_ID": session}
        subprocess.run([node, "--input-type=module", "-e", code], env=environ, check=True, timeout=PATIENCE_S)
        until_shown(home, session, query_count=2)


# --- ids ------------------------------------------------------------------------------------------------------------


REPORTS_TEXTS = """
const t = connect();
t.mark('insight_count', 'a Tell-Tale text');
t.request('GET /Tell-Tale', 5);
"""


def ids_in(node: str, place: Place, session: str) -> tuple[str, str]:
    """Return the ids that a producer of the session sends for the mark and for the route."""
    with FakeDaemon(place) as daemon:
        run_script(node, place, REPORTS_TEXTS, BRAKIT_SESSION_ID=session)
        wait_until(lambda: any("end" in frame for frame in daemon.frames), "the last line")
        assert b"ell-" not in bytes(daemon.received[0])
        (mark,) = [frame["mark"]["insight_count"][0] for frame in daemon.frames if "mark" in frame]
        (route,) = {route for frame in daemon.frames for route in frame.get("histogram", {})}
    os.unlink(place.socket_path)
    return mark, route


@each_node
def test_marks_and_routes_are_hashed_with_the_session_as_key(node: str, nowhere: Place) -> None:
    session = new_id()
    key = uuid.UUID(session).bytes
    texts = (b"a Tell-Tale text", b"GET /Tell-Tale")
    expected = tuple(hmac.new(key, text, hashlib.sha256).hexdigest()[:16] for text in texts)
    assert ids_in(node, nowhere, session) == expected


@each_node
def test_a_text_has_another_id_in_another_session(node: str, nowhere: Place) -> None:
    first, second = ids_in(node, nowhere, new_id()), ids_in(node, nowhere, new_id())
    assert first[0] != second[0]
    assert first[1] != second[1]


# --- no call throws -------------------------------------------------------------------------------------------------


@each_node
def test_no_call_throws_or_prints_for_any_arguments_and_later_calls_count(node: str, home: Place) -> None:
    with owned(home) as session, start_driver(node, home, "hostile.cjs", BRAKIT_SESSION_ID=session) as process:
        until_shown(home, session, fetch_count=7, finding_count=2, tabs_viewed=["logs"], is_custom_command=True)
        assert process.communicate(timeout=PATIENCE_S) == ("0 thrown\n", "")
        assert process.returncode == 0


@each_node
def test_no_call_throws_or_prints_without_a_daemon(node: str, nowhere: Place) -> None:
    with start_driver(node, nowhere, "hostile.cjs", BRAKIT_SESSION_ID=new_id()) as process:
        assert process.communicate(timeout=PATIENCE_S) == ("0 thrown\n", "")
        assert process.returncode == 0


@each_node
@pytest.mark.parametrize(
    "settings",
    [
        {"BRAKIT_SESSION_ID": "no uuid"},
        {"BRAKIT_SIDECAR_SOCKET": "/" + "x" * 300},
        {"BRAKIT_SIDECAR_SOCKET": "/dev/null"},
        {"BRAKIT_SIDECAR_SOCKET": "."},
        {"XDG_RUNTIME_DIR": "/dev/null"},
        {"XDG_RUNTIME_DIR": "/" + "x" * 300},
        {"HOME": "/dev/null"},
        {"HOME": ""},
    ],
    ids=str,
)
def test_a_strange_environment_does_not_make_a_call_throw(node: str, nowhere: Place, settings: dict[str, str]) -> None:
    code = "for (const start of [false, true]) { const t = connect({ start }); t.request('GET /', 1); t.close(); }"
    ran = run_script(node, nowhere, code, **{"PATH": "", **settings})
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@newest_node
def test_no_daemon_is_started_for_a_socket_at_another_path(node: str, nowhere: Place) -> None:
    directory = os.path.join(nowhere.root, "shared")
    os.mkdir(directory)
    os.chmod(directory, 0o755)
    socket_path = os.path.join(directory, "s")
    run_script(node, nowhere, "connect({ start: true }).incr('request_count')", BRAKIT_SIDECAR_SOCKET=socket_path)
    assert os.stat(directory).st_mode & 0o777 == 0o755
    assert os.listdir(directory) == []


@each_node
@pytest.mark.parametrize("sdk", ["'x'.repeat(70_000)", "'\\ud800'", "null", "Symbol('node')", "{}", "10n"])
def test_a_wrong_sdk_costs_no_count(node: str, home: Place, sdk: str) -> None:
    with owned(home) as session:
        run_script(node, home, f"connect({{ sdk: {sdk} }}).incr('request_count', 3)", BRAKIT_SESSION_ID=session)
        until_shown(home, session, request_count=3)


# --- a mistake is counted, and affects nothing else -----------------------------------------------------------------

MAKES_MISTAKES = """
const t = connect();
t.incr('request_count', 0);
t.incr('request_count', true);
t.incr('request_count', 1.5);
t.incr('request_count', 1n);
t.incr('no_such_count');
t.counter('no_such_count').inc();
t.set({ framework: ['express'], no_such_field: 'x' });
t.set('framework');
t.event('no_such_event');
t.request('GET /', -1);
t.incr('request_count', 2);
"""


@each_node
def test_status_counts_mistakes_by_their_reason(node: str, home: Place) -> None:
    before = refused(home)
    with owned(home) as session:
        run_script(node, home, MAKES_MISTAKES, BRAKIT_SESSION_ID=session)
        until_shown(home, session, request_count=3, avg_duration_ms=0)  # the request counts, its duration does not
    after = refused(home)
    added = {reason: count - before.get(reason, 0) for reason, count in after.items() if count != before.get(reason)}
    assert added == {"bad_value": 6, "unknown_field": 4, "unknown_event": 1}


@each_node
def test_no_text_of_a_mistake_is_sent(node: str, nowhere: Place) -> None:
    code = """
    const t = connect();
    t.incr('Tell-Tale', 1);
    t.event('Tell-Tale', { port: 1 });
    t.event('first_request', { 'Tell-Tale': 1 });
    t.set({ 'Tell-Tale': 'Tell-Tale' });
    t.add('Tell-Tale', 'Tell-Tale');
    t.mark('Tell-Tale', 'Tell-Tale');
    """
    with FakeDaemon(nowhere) as daemon:
        run_script(node, nowhere, code, BRAKIT_SESSION_ID=new_id())
        wait_until(lambda: any("end" in frame for frame in daemon.frames), "the last line")
        assert b"ell-" not in bytes(daemon.received[0])


CLUMSY = {
    "a text with a lone surrogate": "t.set({ framework: '\\ud800' })",
    "a member with a lone surrogate": "t.add('insight_types', '\\ud800')",
    "an event's text with a lone surrogate": "t.event('setup_completed', { framework: '\\ud800' })",
    "a huge number": "t.set({ setup_duration_ms: 1e300 })",
    "a huge number of an event": "t.event('first_request', { port: 1e300 })",
    "hundreds of long words": "for (let n = 0; n < 300; n += 1) t.add('insight_types', n + '\\u4e2d'.repeat(61))",
    "hundreds of long texts": "for (let n = 0; n < 300; n += 1) t.set({ [`f${n}`]: '\\u0000'.repeat(64) })",
    "a number instead of a boolean": "t.set({ is_custom_command: 1 })",
    "a thousand numbers": "for (let n = 0; n < 1000; n += 1) t.set({ setup_duration_ms: n + 0.5 })",
    "an event that is longer than a line": "t.event('setup_completed', Object.fromEntries("
    "Array.from({ length: 64 }, (_, n) => [`f${n}`, new Array(64).fill('x'.repeat(64))])))",
    "hundreds of events": "for (let n = 0; n < 300; n += 1) t.event('cli_invoked', { command: 'x'.repeat(1000) })",
}


@newest_node
@pytest.mark.parametrize("clumsy", CLUMSY.values(), ids=CLUMSY)
def test_a_mistake_before_a_daemon_runs_affects_nothing_else(node: str, nowhere: Place, clumsy: str) -> None:
    """Everything is then sent in one frame, so the bad part is beside the good ones."""
    session = new_id()
    with Worker(node, nowhere, session) as worker:
        worker.do("t.set({ brakit_version: '0.10.2' }); t.incr('request_count', 3)")
        worker.do(clumsy)
        worker.do("t.mark('insight_count', 'one'); t.set({ is_custom_command: true })")
        nowhere.serve()
        worker.do("t.incr('request_count', 2)")
        until_shown(nowhere, session, request_count=5, brakit_version="0.10.2", insight_count=1, is_custom_command=True)
        assert "oversize" not in refused(nowhere)  # the daemon closes the connection on a line that is too long


@each_node
def test_debug_messages_are_printed_on_demand(node: str, home: Place) -> None:
    with owned(home) as session:
        ran = run_script(node, home, "connect().incr('nonsense')", BRAKIT_SESSION_ID=session, BRAKIT_DEBUG="1")
    assert re.fullmatch(r"brakit-sidecar\[\d+\]: not counted: no such count\n", ran.stderr)


# --- telemetry is off -----------------------------------------------------------------------------------------------

USES_EVERYTHING = """
for (const start of [false, true]) {
  const t = connect({ start });
  process.stdout.write(`${t.constructor.name} `);
  t.counter('request_count').inc();
  t.incr('request_count');
  t.request('GET /', 1);
  t.set({ framework: 'express' });
  t.add('insight_types', 'n1');
  t.mark('insight_count', 'text');
  t.event('first_request', { port: 1 });
  t.close();
}
emit('cli_invoked', { command: 'install' });
"""
OFF = [
    {"BRAKIT_TELEMETRY": "No"}, {"DO_NOT_TRACK": "1"}, {"CI": "1"}, {"NODE_ENV": "Production"}, {"VERCEL": "1"},
    {"BRAKIT_DISABLE": "1"}, {"BRAKIT_SIDECAR_DAEMON": "1"}, {"BRAKIT_SIDECAR_DAEMON": ""},
]  # fmt: skip


@each_node
@pytest.mark.parametrize("off", OFF, ids=str)
def test_the_stand_in_does_nothing_if_telemetry_is_off(node: str, nowhere: Place, off: dict[str, str]) -> None:
    ran = run_script(node, nowhere, USES_EVERYTHING, **off)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "Telemetry Telemetry ", "")
    assert os.listdir(nowhere.runtime) == os.listdir(nowhere.home) == []


@each_node
@pytest.mark.parametrize("off", OFF, ids=str)
def test_nothing_is_sent_if_telemetry_is_off(node: str, nowhere: Place, off: dict[str, str]) -> None:
    with FakeDaemon(nowhere) as daemon:
        assert run_script(node, nowhere, USES_EVERYTHING, **off).returncode == 0
        assert daemon.received == []


@each_node
def test_a_config_that_opts_out_means_the_stand_in(node: str, nowhere: Place) -> None:
    nowhere.run("telemetry", "off")
    assert run_script(node, nowhere, USES_EVERYTHING).stdout == "Telemetry Telemetry "
    assert os.listdir(nowhere.runtime) == []


@each_node
def test_a_worker_stops_when_telemetry_is_switched_off(node: str, place: Place, endpoint: Endpoint) -> None:
    session, daemon = new_id(), place.serve()
    with Worker(node, place, session) as worker:
        worker.do("t.incr('request_count')")
        until_shown(place, session, request_count=1)
        assert place.run("telemetry", "off").returncode == 0
        wait_until(lambda: not counter_files(place), "the end of the counter file")
        assert place.run("telemetry", "on").returncode == 0
        worker.do("t.incr('request_count', 5); t.set({ framework: 'koa' })")
        assert daemon.poll() is None
        place.run("stop")
    assert endpoint.bodies_of("session") == []


def replace_config(place: Place, content: str) -> None:
    """Replace the config as a whole, as brakit's own CLI does."""
    os.makedirs(os.path.dirname(place.config_path), mode=0o700, exist_ok=True)
    with open(f"{place.config_path}.new", "w", encoding="utf-8") as file:
        file.write(content)
    os.rename(f"{place.config_path}.new", place.config_path)


@each_node
def test_a_worker_reads_the_config_once(node: str, nowhere: Place) -> None:
    content = json.dumps({"telemetry": True, "anonymousId": new_id()})
    replace_config(nowhere, content)
    with Worker(node, nowhere, new_id()) as worker:
        worker.do("t.incr('request_count', 3)")
        replace_config(nowhere, content[:-5])  # a worker that read this would not connect
        with FakeDaemon(nowhere) as daemon:
            wait_until(lambda: daemon.last_total("request_count") == 3, "the count")


@each_node
def test_what_was_counted_before_a_change_of_the_config_is_not_sent(
    node: str, nowhere: Place, endpoint: Endpoint
) -> None:
    content = {"telemetry": True, "anonymousId": new_id()}
    replace_config(nowhere, json.dumps(content))
    with Worker(node, nowhere, new_id()) as worker:
        worker.do("t.incr('request_count', 3)")
        replace_config(nowhere, json.dumps({**content, "telemetry": False}))
        replace_config(nowhere, json.dumps(content))
        nowhere.serve()
        wait_until(lambda: nowhere.status()["sessions"], "the session")
    assert nowhere.run("stop").returncode == 0
    assert endpoint.bodies == []
    assert [receipt["reason"] for receipt in nowhere.receipts()] == ["config_changed"]


# --- events without a session ---------------------------------------------------------------------------------------


@each_node
def test_an_emitted_event_arrives_with_the_common_properties(node: str, place: Place, endpoint: Endpoint) -> None:
    place.serve()
    code = "emit('cli_invoked', { command: 'install', has_package_json: true, brakit_version: '0.10.2' })"
    ran = run_script(node, place, code, BRAKIT_SESSION_ID=new_id())
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    (body,) = endpoint.wait_for("cli_invoked")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    expected = {"command": "install", "has_package_json": True, "brakit_version": "0.10.2", "sdk": "node"}
    assert expected.items() <= body["properties"].items()
    assert body["properties"]["node_version"] == version
    assert place.status()["sessions"] == []


@each_node
def test_an_event_that_exits_at_once_arrives(node: str, place: Place, endpoint: Endpoint) -> None:
    place.serve()
    run_script(node, place, "emit('cli_uninstall', { package_removed: true }); process.kill(process.pid, 'SIGKILL')")
    (body,) = endpoint.wait_for("cli_uninstall")
    assert body["properties"]["package_removed"] is True


@each_node
def test_an_event_without_a_daemon_does_nothing(node: str, nowhere: Place) -> None:
    ran = run_script(node, nowhere, "emit('cli_invoked', { command: 'install' })")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert os.listdir(nowhere.runtime) == []
