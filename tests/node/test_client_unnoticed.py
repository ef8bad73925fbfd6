"""The npm package's client never shows in its application: not in its output, its exit code or its event loop."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.harness import Place, end_process, new_id, suspended, wait_until
from tests.truncating import truncate_by_name

from .fake_daemon import FakeDaemon
from .nodes import each_node, newest_node
from .sessions import owned, until_shown
from .workers import Worker, run_driver, run_script

if TYPE_CHECKING:
    from collections.abc import Iterator

USES_THE_CLIENT = "const t = connect(); t.incr('request_count'); t.request('GET /', 5); t.set({ framework: 'koa' });\n"


@pytest.fixture
def nowhere() -> Iterator[Place]:
    """Make a place without a daemon."""
    with Place() as place:
        yield place


@pytest.fixture
def dead() -> Iterator[Place]:
    """Make a place whose daemon was killed, so that its socket is still there."""
    with Place() as place:
        end_process(place.serve(), 9)
        yield place


# --- output and exit codes ------------------------------------------------------------------------------------------

ENDINGS = {
    "returns": "",
    "prints": "console.log('out'); console.error('err')",
    "sets exitCode": "process.exitCode = 4",
    "exits with 0": "process.exit()",
    "exits with 3": "process.exit(3)",
    "exits with 3 in the next turn": "setImmediate(() => process.exit(3))",
    "throws": "throw new RangeError('mine')",
    "throws in a timer": "setTimeout(() => { throw new RangeError('mine') }, 10)",
    "rejects": "Promise.reject(new RangeError('mine'))",
    "handles its own error": "process.on('uncaughtException', (e) => { console.log(e.message) }); throw new Error('a')",
    "exits in an exit listener": "process.on('exit', () => process.exit(5))",
    "prints in an exit listener": "process.on('exit', (code) => console.log(code, process.exitCode)); process.exit(6)",
    "waits and ends": "setTimeout(() => console.log('late'), 50)",
    "is terminated": "process.kill(process.pid, 'SIGTERM'); setInterval(() => {}, 1000)",
    "handles SIGTERM": "process.on('SIGTERM', () => process.exit(7)); process.kill(process.pid, 'SIGTERM'); "
    "setInterval(() => {}, 1000)",
    "spawns": "require('node:child_process').execFileSync(process.execPath, ['-e', 'console.log(1)'], "
    "{ stdio: 'inherit' })",
    "serves": "require('node:http').createServer((q, r) => r.end('x')).listen(0, function () { fetch("
    "`http://127.0.0.1:${this.address().port}`).then((r) => r.text())"
    ".then((x) => { console.log(x); process.exit() }) })",
}


@each_node
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_output_and_exit_code_are_those_without_the_client(node: str, home: Place, ending: str) -> None:
    code = USES_THE_CLIENT + ending
    without = run_script(node, home, code, BRAKIT_TELEMETRY="off", HOME="/dev/null")
    with_client = run_script(node, home, code, BRAKIT_SESSION_ID=new_id())
    assert (with_client.returncode, with_client.stdout) == (without.returncode, without.stdout)
    assert with_client.stderr == without.stderr


@newest_node
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_output_and_exit_code_are_those_without_the_client_if_the_daemon_was_killed(
    node: str, dead: Place, ending: str
) -> None:
    code = USES_THE_CLIENT + ending
    without = run_script(node, dead, code, BRAKIT_TELEMETRY="off", HOME="/dev/null")
    with_client = run_script(node, dead, code, BRAKIT_SESSION_ID=new_id())
    assert (with_client.returncode, with_client.stdout) == (without.returncode, without.stdout)
    assert with_client.stderr == without.stderr


# --- the event loop -------------------------------------------------------------------------------------------------


@each_node
def test_a_script_ends_by_itself_beside_a_daemon_that_answers(node: str, home: Place) -> None:
    assert run_script(node, home, USES_THE_CLIENT, BRAKIT_SESSION_ID=new_id()).returncode == 0


@each_node
def test_a_script_ends_by_itself_beside_a_daemon_that_never_answers(node: str, nowhere: Place) -> None:
    with FakeDaemon(nowhere):
        assert run_script(node, nowhere, USES_THE_CLIENT).returncode == 0


@each_node
def test_a_script_ends_by_itself_with_a_full_socket(node: str, home: Place) -> None:
    code = USES_THE_CLIENT + "for (let n = 0; n < 3000; n += 1) t.event('cli_invoked', { command: 'install' })"
    with suspended(home.status()["pid"]):
        assert run_script(node, home, code, BRAKIT_SESSION_ID=new_id()).returncode == 0


@each_node
@pytest.mark.parametrize("start", ["false", "true"])
def test_a_script_ends_by_itself_without_a_daemon(node: str, nowhere: Place, start: str) -> None:
    code = f"const t = connect({{ start: {start} }}); t.incr('request_count'); t.event('first_request', {{ port: 1 }})"
    assert run_script(node, nowhere, code, PATH="").returncode == 0


# --- what the application owns --------------------------------------------------------------------------------------


@each_node
@pytest.mark.parametrize("loses", ["the descriptor", "the file"])
def test_the_files_of_an_application_that_closes_our_counter_file_are_not_written(
    node: str, home: Place, loses: str
) -> None:
    own_files = os.path.join(home.root, new_id())
    os.mkdir(own_files)
    with owned(home) as session:
        ran = run_driver(node, home, "closes_twice.cjs", BRAKIT_SESSION_ID=session, OWN_FILES=own_files, LOSES=loses)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        until_shown(home, session, request_count=6, tabs_viewed=["logs"])


@each_node
def test_a_counter_file_cannot_be_truncated_by_its_name(node: str, home: Place) -> None:
    with owned(home) as session, Worker(node, home, session) as worker:
        worker.do("t.incr('request_count', 2)")
        assert not truncate_by_name(worker.counter_file())
        worker.do("t.incr('request_count')")
        until_shown(home, session, request_count=3)


@each_node
def test_an_application_with_as_many_listeners_as_are_usual_sees_no_warning(node: str, home: Place) -> None:
    code = "for (let n = 0; n < 10; n += 1) process.on('exit', () => {});" + USES_THE_CLIENT
    ran = run_script(node, home, code, BRAKIT_SESSION_ID=new_id())
    assert (ran.returncode, ran.stderr) == (0, "")


@each_node
def test_an_application_with_a_leak_of_listeners_still_sees_the_warning(node: str, home: Place) -> None:
    code = USES_THE_CLIENT + "for (let n = 0; n < 11; n += 1) process.on('exit', () => {});"
    ran = run_script(node, home, code, BRAKIT_SESSION_ID=new_id())
    assert "MaxListenersExceededWarning" in ran.stderr


@each_node
def test_the_client_listens_once_for_any_number_of_producers_and_not_after_their_ends(node: str, home: Place) -> None:
    code = """
    const count = () => process.listenerCount('exit');
    const producers = [connect(), connect(), connect()];
    const most = process.getMaxListeners();
    const while_open = count();
    producers.forEach((t) => t.close());
    console.log(while_open, most, count(), process.getMaxListeners());
    """
    ran = run_script(node, home, code, BRAKIT_SESSION_ID=new_id())
    assert ran.stdout == "1 11 0 10\n"


REPLACES_WHAT_THE_CLIENT_USES = """
const fs = require('node:fs');
globalThis.setTimeout = globalThis.clearTimeout = Date.now = performance.now = () => { throw new Error('fake') };
for (const name of ['writeSync', 'openSync', 'fstatSync', 'lstatSync', 'readSync', 'closeSync', 'unlinkSync']) {
  fs[name] = () => { throw new Error('fake') };
}
"""


@each_node
def test_the_client_counts_beside_fake_timers_and_files_of_an_applications_tests(node: str, home: Place) -> None:
    code = (
        "const t = connect(); t.incr('query_count');"
        + REPLACES_WHAT_THE_CLIENT_USES
        + "for (let n = 0; n < 500; n += 1) t.incr('query_count'); t.set({ framework: 'koa' });"
        + "process.kill(process.pid, 'SIGKILL');"
    )
    with owned(home) as session:
        run_script(node, home, code, BRAKIT_SESSION_ID=session)
        until_shown(home, session, query_count=501, framework="koa")


@each_node
def test_requiring_the_package_does_nothing_but_to_define_its_functions(node: str, home: Place) -> None:
    code = """
    const loaded = Object.keys(require.cache).filter((path) => path.includes('/lib/'));
    console.log(JSON.stringify([loaded, process.listenerCount('exit'), process.getActiveResourcesInfo?.()]));
    """
    assert json.loads(run_script(node, home, code).stdout)[:2] == [[], 0]


@each_node
def test_a_daemon_that_dies_raises_no_signal_in_the_application(node: str, nowhere: Place) -> None:
    served = nowhere.serve()
    code = f"""
    process.on('SIGPIPE', () => process.exit(9));
    const t = connect();
    t.set({{ framework: 'koa' }});
    process.kill({served.pid}, 'SIGKILL');
    const end = Date.now() + 500;
    while (Date.now() < end) {{}} // the event loop does not learn that the connection is closed
    t.set({{ package_manager: 'npm' }});
    setTimeout(() => {{}}, 100);
    """
    ran = run_script(node, nowhere, code, BRAKIT_SESSION_ID=new_id())
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# --- another user's socket ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's socket")
@each_node
def test_the_socket_of_another_user_is_not_connected_to(node: str, nowhere: Place) -> None:
    with FakeDaemon(nowhere) as daemon:
        os.chown(nowhere.socket_path, 12345, 12345)
        ran = run_script(node, nowhere, USES_THE_CLIENT + "emit('cli_invoked', { command: 'install' })")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert daemon.received == []


@each_node
def test_a_link_to_a_socket_is_not_connected_to(node: str, nowhere: Place) -> None:
    """Its target may be any user's at the time of the connect."""
    with FakeDaemon(nowhere) as daemon:
        link = os.path.join(nowhere.root, "link")
        os.symlink(nowhere.socket_path, link)
        assert run_script(node, nowhere, USES_THE_CLIENT, BRAKIT_SIDECAR_SOCKET=link).returncode == 0
        assert daemon.received == []


@each_node
def test_a_file_in_the_way_of_the_counter_file_is_not_written(node: str, nowhere: Place) -> None:
    """The producer's id is random, so the test makes the directory refuse instead."""
    with FakeDaemon(nowhere, {"counter_file": 1}) as daemon:
        directory = os.path.dirname(nowhere.socket_path)
        code = """
        const crypto = require('node:crypto');
        crypto.randomUUID = () => '00000000-0000-4000-8000-000000000000';
        const t = connect();
        t.incr('query_count', 3);
        """
        in_the_way = os.path.join(directory, "counters-1-00000000-0000-4000-8000-000000000000")
        target = os.path.join(nowhere.root, "target")
        with open(target, "w", encoding="utf-8") as file:
            file.write("mine")
        os.symlink(target, in_the_way)
        run_script(node, nowhere, code, BRAKIT_SESSION_ID=new_id())
        wait_until(lambda: daemon.last_total("query_count") == 3, "the total as a line")
        assert "counter_file" not in daemon.frames[0]["hello"]
        with open(target, encoding="utf-8") as file:
            assert file.read() == "mine"
