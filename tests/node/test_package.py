"""The npm package: its files, its metadata and its documentation, and that it agrees with the Python package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar import __version__
from brakit_sidecar.client import joining, unsent_state
from brakit_sidecar.core import counter_layout, limits, wire
from brakit_sidecar.core.destination import Destination
from brakit_sidecar.core.schema import EXIT_REASONS, JOURNEY, SESSION_FIELDS
from brakit_sidecar.host import consent, guards, paths

from tests.harness import PATIENCE_S, Place, new_id, run_to_end, wait_until

from .fake_daemon import FakeDaemon
from .nodes import CHECKOUT, NODES, PACKAGE, each_node, newest_node
from .sessions import owned, until_shown
from .workers import CLIENT, DRIVERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def read(*parts: str) -> str:
    with open(os.path.join(*parts), encoding="utf-8") as file:
        return file.read()


def value_of(node: str, expression: str, environ: Mapping[str, str] = os.environ) -> Any:
    """Return the value of a JavaScript expression. It finds the package's modules by ``lib('limits')``."""
    command = [node, os.path.join(DRIVERS, "value.cjs"), expression]
    ran = run_to_end(command, {**environ, "CLIENT": CLIENT})
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


# --- files and metadata ---------------------------------------------------------------------------------------------


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(PACKAGE, "package.json"))
    return found


def test_the_version_is_that_of_the_python_package() -> None:
    assert manifest()["version"] == __version__


def test_the_license_is_that_of_the_checkout() -> None:
    assert read(PACKAGE, "LICENSE") == read(CHECKOUT, "LICENSE")


def test_the_package_has_no_dependency_and_no_script() -> None:
    assert not [key for key in manifest() if key.lower().endswith("dependencies") or key in ("scripts", "bin")]


def test_every_exported_file_exists() -> None:
    def files(exported: Any) -> Iterator[str]:
        if isinstance(exported, str):
            yield exported
        else:
            for each in exported.values():
                yield from files(each)

    assert [name for name in files(manifest()["exports"]) if not os.path.isfile(os.path.join(PACKAGE, name))] == []


def modules() -> list[str]:
    """Return the paths of the package's JavaScript files, from the package on."""
    library = [os.path.join("lib", name) for name in os.listdir(os.path.join(PACKAGE, "lib"))]
    return sorted([name for name in os.listdir(PACKAGE) if name.endswith((".cjs", ".mjs"))] + library)


@newest_node
@pytest.mark.parametrize("module", modules())
def test_a_module_loads_only_nodes_own_and_those_of_the_package(node: str, module: str) -> None:
    loaded = re.findall(r"""(?:require\(|from |import\()['"]([^'"]+)['"]""", read(PACKAGE, module))
    others = [name for name in loaded if not name.startswith(("node:", "./", "../"))]
    assert set(others) <= set(value_of(node, "require('node:module').builtinModules"))


@pytest.mark.skipif(not NODES, reason="there is no Node")
def test_npm_packs_exactly_the_files_of_the_package(tmp_path: Path) -> None:
    npm = npm_beside(list(NODES.values()))
    if npm is None:
        pytest.skip("no Node of these has an npm")
    ran = subprocess.run(
        [*npm, "pack", "--dry-run", "--json", "--ignore-scripts", PACKAGE],
        env={**os.environ, "HOME": str(tmp_path), "npm_config_cache": str(tmp_path), "npm_config_update_notifier": "0"},
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    (packed,) = json.loads(ran.stdout)
    expected = {"package.json", "README.md", "LICENSE", "index.d.ts", *modules()}
    assert {file["path"] for file in packed["files"]} == expected


def npm_beside(nodes: list[str]) -> list[str] | None:
    """Return the command of the npm of one of these installations, which has it below ``lib``."""
    for node in nodes:
        prefix = os.path.dirname(os.path.dirname(node))
        script = os.path.join(prefix, "lib", "node_modules", "npm", "bin", "npm-cli.js")
        if os.path.isfile(script):
            return [node, script]
    return None


# --- the API and its documentation ----------------------------------------------------------------------------------


@newest_node
def test_the_types_declare_what_the_package_exports(node: str) -> None:
    declared = re.findall(
        r"^export (?:declare )?(?:function|const|class) (\w+)", read(PACKAGE, "index.d.ts"), re.MULTILINE
    )
    assert value_of(node, f"Object.keys(require({CLIENT!r}))") == declared
    script = f"import * as all from {os.path.join(PACKAGE, 'index.mjs')!r}; console.log(Object.keys(all).join())"
    ran = subprocess.run([node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip().split(",") == sorted(declared)


@newest_node
@pytest.mark.parametrize("name", ["Telemetry", "Counter"])
def test_the_types_declare_the_methods_of_the_stand_in_and_of_the_producer(node: str, name: str) -> None:
    (body,) = re.findall(
        rf"^export interface {name} {{\n(.*?)^}}", read(PACKAGE, "index.d.ts"), re.MULTILINE | re.DOTALL
    )
    declared = sorted(re.findall(r"^  (\w+)\(", body, re.MULTILINE))
    methods = "Object.getOwnPropertyNames({}.prototype).filter((name) => name !== 'constructor').sort()"
    assert value_of(node, methods.format(f"lib('telemetry').{name}")) == declared


@newest_node
def test_a_producer_has_every_method_of_the_stand_in(node: str) -> None:
    with Place() as place:
        code = f"((t) => [t.constructor.name, Object.keys(t).sort()])(require({CLIENT!r}).connect())"
        own = (
            "Object.getOwnPropertyNames(lib('telemetry').Telemetry.prototype).filter((n) => n !== 'constructor').sort()"
        )
        kind, methods = value_of(node, code, {**place.environ, "BRAKIT_SESSION_ID": new_id()})
        assert kind == "Producer"
        assert methods == value_of(node, own)


def words_of(declared_type: str) -> set[str]:
    (body,) = re.findall(
        rf"^export type {declared_type} =(.*?);", read(PACKAGE, "index.d.ts"), re.MULTILINE | re.DOTALL
    )
    return set(re.findall(r"'(\w+)'", body))


def test_the_types_name_the_counts_events_and_exit_reasons_of_the_schema() -> None:
    assert words_of("CountField") == set(counter_layout.COUNTERS)
    assert words_of("EventName") == set(JOURNEY)
    assert words_of("ExitReason") == set(EXIT_REASONS) - {"unknown"}


@each_node
def test_the_example_of_the_readme_counts(node: str, home: Place, tmp_path: Path) -> None:
    (example,) = re.findall(r"```js\n(.*?)```", read(PACKAGE, "README.md"), re.DOTALL)
    installed = tmp_path / "node_modules" / "brakit-sidecar"
    installed.parent.mkdir()
    installed.symlink_to(PACKAGE)
    (tmp_path / "example.cjs").write_text(example, encoding="utf-8")
    (tmp_path / "example.mjs").write_text(
        re.sub(r"^const .*import: |^const .*or: ", "", example, count=1), encoding="utf-8"
    )
    with owned(home) as session:
        for name in ("example.cjs", "example.mjs"):
            environ = {**home.environ, "BRAKIT_SESSION_ID": session}
            subprocess.run([node, name], cwd=tmp_path, env=environ, timeout=PATIENCE_S, check=True)
        until_shown(
            home, session, framework="express", brakit_version="0.10.2", query_count=2, request_count=2,
            endpoint_count=1, insight_types=["n1"], insight_count=1,
        )  # fmt: skip


# --- one truth with the Python package ------------------------------------------------------------------------------


@newest_node
def test_the_limits_are_those_of_the_python_package(node: str) -> None:
    expected = {
        "PROTOCOL": wire.PROTOCOL,
        "MAX_LINE": wire.MAX_LINE,
        "COUNT_MAX": limits.COUNT_MAX,
        "MAX_DURATION_MS": limits.MAX_DURATION_MS,
        "NS_PER_MS": limits.NS_PER_MS,
        "BUCKET_EDGES_MS": list(limits.BUCKET_EDGES_MS),
        "ONCE_A_SESSION": sorted(limits.ONCE_A_SESSION),
        "OVERFLOW_ROUTE": limits.OVERFLOW_ROUTE,
    }
    found = value_of(node, "lib('limits')")
    found["ONCE_A_SESSION"].sort()
    assert found == expected


@newest_node
def test_the_layout_of_the_counter_file_is_that_of_the_python_package(node: str) -> None:
    names = (
        "VERSION", "USED_ROWS", "FIRST_COUNTER", "STAMP", "ANONYMOUS_ID", "END", "PID", "KIND", "ID", "OF_SESSION",
        "OF_GROUP", "RETIRED", "FIRST_ROW", "DESTINATION", "ROW", "MAX_ROUTES", "CELL", "SIZE",
    )  # fmt: skip
    expected = {name: getattr(counter_layout, name) for name in names}
    expected |= {
        name: str(getattr(counter_layout, name)) for name in ("MAGIC", "NO_CONFIG", "TO_NOWHERE", "NOT_BELIEVED")
    }
    expected["ENDS"] = list(counter_layout.ENDS)
    expected["COUNTER_CELLS"] = [[name, cell] for name, cell in counter_layout.COUNTER_CELLS.items()]
    assert value_of(node, "lib('layout')") == expected


@newest_node
def test_the_guards_are_those_of_the_python_package(node: str) -> None:
    found = value_of(node, "lib('guards')")
    assert set(found["DISABLED"]) == guards._DISABLED
    assert set(found["PRODUCTION"]) == guards._PRODUCTION
    assert found["PRODUCTION_VARIABLES"] == list(guards._PRODUCTION_VARIABLES)
    assert found["CI_VARIABLES"] == list(guards._CI_VARIABLES)
    assert found["CLOUD_VARIABLES"] == list(guards._CLOUD_VARIABLES)
    assert found["MAX_SHOWN"] == guards._MAX_SHOWN
    assert found["DAEMON_MARK"] == guards.DAEMON_MARK


@newest_node
def test_the_fields_are_those_of_the_schema(node: str) -> None:
    assert value_of(node, "lib('fields')") == list(SESSION_FIELDS)


@newest_node
def test_a_producer_keeps_as_much_as_that_of_the_python_package(node: str) -> None:
    source = read(PACKAGE, "lib", "unsent_state.cjs")
    found = {name: int(number) for name, number in re.findall(r"^const (\w+) = (\d+);", source, re.MULTILINE)}
    assert found == {name: getattr(unsent_state, name) for name in found}
    assert set(found) == {name for name in dir(unsent_state) if name.startswith(("MAX_", "ITEMS_"))}


AN_ID = "6f0c1f2e-7f0a-4b53-9d0c-2a4b7a3e5d11"
CONFIGS: dict[str, bytes | None] = {
    "missing": None,
    "on": f'{{"telemetry": true, "anonymousId": "{AN_ID}"}}'.encode(),
    "on in capitals": f'{{"telemetry": true, "anonymousId": "{AN_ID.upper()}"}}'.encode(),
    "off": f'{{"telemetry": false, "anonymousId": "{AN_ID}"}}'.encode(),
    "without an id": b'{"telemetry": true}',
    "an id in braces": f'{{"telemetry": true, "anonymousId": "{{{AN_ID}}}"}}'.encode(),
    "an id that is a number": b'{"telemetry": true, "anonymousId": 7}',
    "without telemetry": b"{}",
    "telemetry is 1": b'{"telemetry": 1}',
    "telemetry is a text": b'{"telemetry": "true"}',
    "said twice": b'{"telemetry": true, "telemetry": false}',
    "with a BOM": b'\xef\xbb\xbf{"telemetry": true}',
    "empty": b"",
    "cut off": b'{"telemetry": tr',
    "not UTF-8": b'{"telemetry": true, "x": "\xff"}',
    "a list": b"[true]",
    "null": b"null",
    "large": b'{"telemetry": true}' + b" " * 65_536,
    "just not large": b'{"telemetry": true}' + b" " * (65_536 - 19),
}
ENVIRONMENTS: list[dict[str, str]] = [
    {}, {"BRAKIT_TELEMETRY": "true"}, {"BRAKIT_TELEMETRY": " ON "}, {"BRAKIT_TELEMETRY": "No"},
    {"BRAKIT_TELEMETRY": "0"}, {"BRAKIT_TELEMETRY": "maybe"}, {"BRAKIT_TELEMETRY": ""}, {"DO_NOT_TRACK": "1"},
    {"DO_NOT_TRACK": "0"}, {"DO_NOT_TRACK": " False "}, {"DO_NOT_TRACK": ""}, {"DO_NOT_TRACK": "1", "CI": "1"},
    {"CI": "false"}, {"CI": ""}, {"NODE_ENV": "PRODUCTION"}, {"NODE_ENV": "development"}, {"FLASK_ENV": "staging"},
    {"BRAKIT_DISABLE": "True"}, {"BRAKIT_DISABLE": "yes"}, {"VERCEL": "x" * 100}, {"KUBERNETES_SERVICE_HOST": "::1"},
    {"BRAKIT_TELEMETRY": "true", "DO_NOT_TRACK": "yes"}, {"BRAKIT_TELEMETRY": "true", "RENDER": "1"},
]  # fmt: skip


@newest_node
@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_consent_is_decided_as_in_the_python_package(node: str, tmp_path: Path, content: bytes | None) -> None:
    home = {"HOME": str(tmp_path)}
    (tmp_path / ".brakit").mkdir(mode=0o700)
    if content is not None:
        (tmp_path / ".brakit" / "config.json").write_bytes(content)
    config = consent.read_config(home)
    decisions = [consent.decide(environ, config) for environ in ENVIRONMENTS]
    expected = [
        {
            "on": decision.on,
            "why": decision.why,
            "dormant": decision.dormant,
            "unreadable": decision.unreadable,
            "anonymousId": decision.anonymous_id,
            "stamp": str(decision.stamp or 0),  # Node does not tell an unknown one from one that is not believed
        }
        for decision in decisions
    ]
    code = f"{json.dumps(ENVIRONMENTS)}.map((environ) => {{ const c = lib('consent'); "
    code += f"const found = c.decide(environ, c.readConfig({json.dumps(home)})); "
    code += "return {...found, stamp: String(found.stamp)} })"
    found = value_of(node, code)
    for decided in (*found, *expected):  # without a config, the stamp has the time
        if int(decided["stamp"]) >= counter_layout.NO_CONFIG:
            decided["stamp"] = "no config"
    assert found == expected


@newest_node
@pytest.mark.parametrize("key", ["", "phc_a", "phc_\u00e9"])
@pytest.mark.parametrize("endpoint", ["", "https://a.example", "https://a.example//", "http://127.0.0.1:8000/base/"])
def test_a_destination_has_the_digest_that_the_python_package_finds(node: str, endpoint: str, key: str) -> None:
    environ = {"BRAKIT_TELEMETRY_ENDPOINT": endpoint, "BRAKIT_TELEMETRY_KEY": key}
    found = value_of(node, f"lib('destination').destinationDigest({json.dumps(environ)})")
    assert found == Destination(environ).digest


def obstruct(home: Path, obstacle: str) -> None:
    """Make a home whose config is not a plain file in a plain directory."""
    directory, elsewhere = home / ".brakit", home / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "config.json").write_text('{"telemetry": true}', encoding="utf-8")
    if obstacle == "link to a directory":
        directory.symlink_to("elsewhere")
        return
    if obstacle == "directory below one of everybody":
        (elsewhere / "below").mkdir(mode=0o700)
        elsewhere.chmod(0o777)
        directory.symlink_to("elsewhere/below")
        return
    if obstacle == "link to a missing directory":
        directory.symlink_to("nowhere")
        return
    if obstacle == "file in place of the directory":
        directory.write_text("")
        return
    directory.mkdir(mode=0o700)
    path = directory / "config.json"
    if obstacle == "directory":
        path.mkdir()
    elif obstacle == "hard link":
        path.hardlink_to(elsewhere / "config.json")
    elif obstacle == "link into a directory of everybody":
        elsewhere.chmod(0o777)
        path.symlink_to("../elsewhere/config.json")
    elif obstacle == "file of everybody":
        path.write_text('{"telemetry": true}', encoding="utf-8")
        path.chmod(0o666)
    elif obstacle == "directory of everybody":
        path.write_text('{"telemetry": true}', encoding="utf-8")
        directory.chmod(0o777)
    elif obstacle == "home of everybody":
        home.chmod(0o777)
    else:
        targets = {"link": "../elsewhere/config.json", "dangling link": "nowhere", "link to itself": "config.json"}
        path.symlink_to(targets[obstacle])


OBSTACLES = (
    "link to a directory", "link to a missing directory", "file in place of the directory", "directory", "hard link",
    "link into a directory of everybody", "file of everybody", "directory of everybody", "home of everybody", "link",
    "dangling link", "link to itself", "directory below one of everybody",
)  # fmt: skip


@newest_node
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_config_that_is_not_a_plain_file_is_read_as_in_the_python_package(
    node: str, tmp_path: Path, obstacle: str
) -> None:
    obstruct(tmp_path, obstacle)
    environ = {"HOME": str(tmp_path)}
    config = consent.read_config(environ)
    found = value_of(
        node, f"((c) => ({{...c, stamp: String(c.stamp)}}))(lib('consent').readConfig({json.dumps(environ)}))"
    )
    assert (found["content"], found["missing"], bool(found["problem"]), found["stamp"]) == (
        config.content, config.missing, bool(config.problem), str(config.stamp or 0),
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the runtime directory of Linux")
@newest_node
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777, 0o1700])
def test_the_socket_and_the_config_are_where_the_python_package_finds_them(
    node: str, tmp_path: Path, mode: int
) -> None:
    private, link = tmp_path / "r", tmp_path / "link"
    private.mkdir()
    private.chmod(mode)
    link.symlink_to(private)
    environments: list[dict[str, str]] = [
        {"XDG_RUNTIME_DIR": str(private)},
        {"XDG_RUNTIME_DIR": f" {private}/ "},
        {"XDG_RUNTIME_DIR": str(link)},
        {"XDG_RUNTIME_DIR": str(tmp_path / "missing")},
        {"XDG_RUNTIME_DIR": "/proc/missing"},
        {"XDG_RUNTIME_DIR": "not/absolute"},
        {"XDG_RUNTIME_DIR": ""},
        {},
        {"XDG_RUNTIME_DIR": "/dev/null"},
        {"XDG_RUNTIME_DIR": "/dev/null/missing"},
        {"XDG_RUNTIME_DIR": str(tmp_path / "missing" / "missing")},
    ]
    homes = [{"HOME": str(tmp_path)}, {"HOME": "/"}, {"HOME": "not/absolute"}, {"HOME": ""}, {}]
    code = (
        f"[{json.dumps(environments)}.map(lib('paths').socketPath), {json.dumps(homes)}.map(lib('paths').configPath)]"
    )
    sockets, configs = value_of(node, code)
    assert sockets == [paths.socket_path(environ) for environ in environments]
    assert configs == [paths.config_path(environ) for environ in homes]


@newest_node
def test_a_path_that_is_too_long_for_a_socket_is_no_path(node: str, tmp_path: Path) -> None:
    """The Python package has a short fallback, whose name needs a digest that Node does not have."""
    longest = tmp_path / ("x" * (paths.MAX_SOCKET_PATH - len("/brakit/sidecar-1.sock") - len(str(tmp_path)) - 1))
    environments = [{"XDG_RUNTIME_DIR": str(directory)} for directory in (longest, f"{longest}x")]
    found = value_of(node, f"{json.dumps(environments)}.map(lib('paths').socketPath)")
    assert found == [f"{longest}/brakit/sidecar-1.sock", None]


@newest_node
def test_a_relative_path_is_not_a_socket(node: str) -> None:
    """It would be another path in each working directory, and a counter file would land there."""
    assert value_of(node, "lib('paths').socketPath({ BRAKIT_SIDECAR_SOCKET: 'sidecar.sock' })") is None


@newest_node
def test_the_counter_file_has_the_name_that_the_python_package_looks_for(node: str) -> None:
    producer = new_id()
    found = value_of(node, f"lib('paths').counterFilePath('/run/brakit/sidecar-1.sock', '{producer}')")
    assert found == paths.counter_file_path("/run/brakit/sidecar-1.sock", producer)


@newest_node
@pytest.mark.parametrize("spelling", ["{}", "{{{}}}", "urn:uuid:{}"], ids=["plain", "in braces", "as URN"])
def test_a_session_id_is_read_as_in_the_python_package(node: str, spelling: str) -> None:
    session = spelling.format(new_id().upper())
    with Place() as place, FakeDaemon(place) as daemon:
        value_of(
            node, f"require({CLIENT!r}).connect().constructor.name", {**place.environ, "BRAKIT_SESSION_ID": session}
        )
        wait_until(lambda: daemon.frames, "the hello")
        assert daemon.frames[0]["hello"]["session"] == str(uuid.UUID(session))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the group's id needs /proc")
@newest_node
def test_the_process_group_has_the_id_that_the_python_package_finds(node: str) -> None:
    with Place() as place, FakeDaemon(place) as daemon:
        value_of(node, f"require({CLIENT!r}).connect().constructor.name", place.environ)
        wait_until(lambda: daemon.frames, "the hello")
        hello = daemon.frames[0]["hello"]
    assert (hello["group"], "session" in hello) == (str(joining._process_group()), False)


@newest_node
def test_a_duration_has_the_bucket_of_the_python_package(node: str) -> None:
    durations = [0, 0.1, 199.999, 200, 499.9, 500, 999, 1000, 1999, 2000, 4999.9, 5000, 86_400_000]
    found = value_of(node, f"{json.dumps(durations)}.map(lib('limits').bucketOf)")
    assert found == [limits.bucket_of(duration) for duration in durations]
