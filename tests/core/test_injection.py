"""How NODE_OPTIONS and PYTHONPATH are extended: each known case in which an extension would break a program."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from brakit_sidecar.core.injection import Preload, Surroundings, inject
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brakit_sidecar.core.injection import Injection

PRELOAD = Preload("/s/node/brakit.cjs", "/s/python")
REQUIRE = "--require /s/node/brakit.cjs"


def injected(
    *command: str,
    preload: Preload = PRELOAD,
    has_plug_n_play: bool = False,
    package_json: str = "",
    node_version: tuple[int, ...] | None = (22, 11, 0),
    **environ: str,
) -> Injection:
    surroundings = Surroundings(has_plug_n_play, package_json, lambda: node_version)
    return inject(environ, preload, command or ("npm", "run", "dev"), surroundings)


def node_options(existing: str = "", preload: Preload = PRELOAD, **surroundings: object) -> str | None:
    found = injected(NODE_OPTIONS=existing, preload=preload, **surroundings)  # type: ignore[arg-type]
    return found.variables.get("NODE_OPTIONS")


def python_path(existing: str, preload: Preload = PRELOAD) -> str:
    """Return the value of PYTHONPATH below the command."""
    return injected(PYTHONPATH=existing, preload=preload).variables.get("PYTHONPATH", existing)


def split_as_node_does(value: str) -> list[str]:
    """Split NODE_OPTIONS by the rules of Node's documentation, in another way than the code: by hand, with an index."""
    options, position, option = [], 0, ""
    started = False
    while position < len(value):
        character = value[position]
        if character == '"':
            position += 1
            while value[position] != '"':
                position += value[position] == "\\"
                option, started = option + value[position], True
                position += 1
        elif character == " ":
            if started:
                options.append(option)
            option, started = "", False
        else:
            option, started = option + character, True
        position += 1
    return [*options, option] if started else options


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ("", "/s/python"),  # not "/s/python:", whose empty part would be the working directory
        ("/a", "/s/python:/a"),
        ("/a:", "/s/python:/a:"),  # the user's own empty part keeps its meaning
        (":/a", "/s/python::/a"),
        ("/s/python:/a", "/s/python:/a"),
        ("/s/python", "/s/python"),
        ("/s/python3", "/s/python:/s/python3"),
    ],
)
def test_the_directory_is_put_before_the_users_own_pythonpath(existing: str, expected: str) -> None:
    assert python_path(existing) == expected


def test_pythonpath_is_left_alone_if_the_directory_cannot_be_a_part_of_it() -> None:
    assert python_path("/a", Preload("/s/node/brakit.cjs", "/s:t/python")) == "/a"


def test_pythonpath_is_set_if_the_environment_has_none() -> None:
    assert injected().variables["PYTHONPATH"] == "/s/python"


# --- Node: the usual case --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", ["", " ", "  "])
def test_node_options_is_one_require_if_there_was_no_option(existing: str) -> None:
    assert node_options(existing) == REQUIRE


def test_an_option_is_appended_to_the_users_own_options() -> None:
    assert node_options("--max-old-space-size=4096") == f"--max-old-space-size=4096 {REQUIRE}"


def test_a_require_is_added_beside_an_import() -> None:
    assert node_options("--import /a.mjs") == f"--import /a.mjs {REQUIRE}"


def test_the_version_of_node_is_not_asked_for_in_the_usual_case() -> None:
    def asked() -> None:
        pytest.fail("asking costs a process")

    inject({}, PRELOAD, ["node"], Surroundings(node_version=asked))


@pytest.mark.parametrize("path", ["/a b/brakit.cjs", '/a"b/brakit.cjs', "/a\\b c/brakit.cjs", "/ü/brakit.cjs"])
@pytest.mark.parametrize("existing", ["", "--no-warnings", '--title "a b"'])
def test_node_reads_the_path_as_it_is_whatever_it_contains(path: str, existing: str) -> None:
    value = node_options(existing, Preload(path, "/s/python"))
    assert value is not None
    assert split_as_node_does(value)[-2:] == ["--require", path]


def test_a_path_without_special_characters_has_no_quotes() -> None:
    assert '"' not in str(node_options())


# --- Node: a --require of its own ------------------------------------------------------------------------------------


def imported(value: str | None) -> str:
    """Return the JavaScript of the only ``--import`` in a value."""
    assert value is not None
    (option,) = [after for before, after in pairwise(options(value)) if before == "--import"]
    kind, _, script = option.partition(",")
    assert kind == "data:text/javascript"
    return unquote(script)


def options(value: str) -> Sequence[str]:
    return split_as_node_does(value)


@pytest.mark.parametrize(
    "existing", ["--require /a.cjs", "--require=/a.cjs", "-r /a.cjs", '--no-warnings --require "/a b.cjs"']
)
def test_an_import_is_added_beside_a_require(existing: str) -> None:
    value = str(node_options(existing))
    assert value.startswith(existing + " --import ")
    assert json.dumps(PRELOAD.node) in imported(value)


def test_an_import_is_used_below_plug_n_play_because_yarn_adds_a_require() -> None:
    assert json.dumps(PRELOAD.node) in imported(node_options(has_plug_n_play=True))


def test_an_import_has_no_character_that_node_would_split_at() -> None:
    value = node_options(has_plug_n_play=True, preload=Preload('/a "b\\c/brakit.cjs', "/s/python"))
    assert len(options(str(value))) == 2


@pytest.mark.parametrize("version", [None, (16, 20, 2), (18, 17, 1)])
def test_node_is_left_alone_if_it_has_a_require_and_no_import(version: tuple[int, ...] | None) -> None:
    found = injected(NODE_OPTIONS="--require /a.cjs", node_version=version)
    assert "NODE_OPTIONS" not in found.variables
    assert found.node_left_out == "there is a --require of its own, and this Node has no --import"


@pytest.mark.parametrize(
    "command", [("sh", "-c", "nvm exec 16 node a.js"), ("npx", "node@16", "a.js"), ("volta", "run", "node")]
)
def test_node_is_left_alone_if_it_has_a_require_and_another_node_may_run(command: tuple[str, ...]) -> None:
    assert "NODE_OPTIONS" in injected(*command).variables
    assert "NODE_OPTIONS" not in injected(*command, NODE_OPTIONS="--require /a.cjs").variables


@pytest.mark.parametrize("script", ["node -r ./otel.js app.js", 'NODE_OPTIONS="--require ./otel.js" next dev'])
def test_an_import_is_used_if_a_script_adds_a_require(script: str) -> None:
    package_json = json.dumps({"scripts": {"dev": script}})
    assert "--import" in str(node_options(package_json=package_json))
    assert "--import" in str(injected("sh", "-c", script).variables["NODE_OPTIONS"])


@pytest.mark.parametrize("version", [(18, 18, 0), (20, 0, 0), (24, 1, 0)])
def test_node_18_18_and_newer_has_import(version: tuple[int, ...]) -> None:
    assert "--import" in str(node_options("--require /a.cjs", node_version=version))


# --- Node: left alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "existing",
    [REQUIRE, '--require "/another version/node/brakit.cjs"', "--require /a.cjs --import data:x,node/brakit.cjs"],
)
def test_nothing_is_added_below_another_run(existing: str) -> None:
    assert node_options(existing) == existing


@pytest.mark.parametrize(
    "flag",
    [
        "--permission",
        "--experimental-permission",
        "--experimental-policy=policy.json",
        "--policy-integrity=sha",
    ],
)
@pytest.mark.parametrize("place", ["NODE_OPTIONS", "the command", "a shell's script", "package.json"])
def test_node_is_left_alone_if_it_may_not_read_the_file(flag: str, place: str) -> None:
    if place == "NODE_OPTIONS":
        found = injected(NODE_OPTIONS=flag)
    elif place == "the command":
        found = injected("node", flag, "app.js")
    elif place == "a shell's script":
        found = injected("sh", "-c", f"exec node {flag} app.js")
    else:
        found = injected(package_json=json.dumps({"scripts": {"dev": f"node {flag} app.js"}}))
    assert "NODE_OPTIONS" not in found.variables
    assert "PYTHONPATH" in found.variables
    assert str(found.node_left_out).startswith("Node runs with --")


@pytest.mark.parametrize("command", [("sudo", "-E", "node"), ("sh", "-c", "exec /usr/sbin/gosu web node a.js")])
def test_node_is_left_alone_below_a_program_that_becomes_another_user(command: tuple[str, ...]) -> None:
    assert "NODE_OPTIONS" not in injected(*command).variables


def test_a_program_whose_name_only_begins_like_one_that_changes_the_user_is_not_one() -> None:
    assert "NODE_OPTIONS" in injected("subl", "sudoku.js").variables


def test_node_options_with_which_no_node_starts_is_left_alone() -> None:
    assert injected(NODE_OPTIONS='--title "a').node_left_out == "NODE_OPTIONS has a quote without its end"


@given(st.text(alphabet='ab-=/\\ "', max_size=30))
def test_the_users_options_mean_the_same_whatever_they_are(existing: str) -> None:
    value = node_options(existing)
    if value is not None:
        mine = options(existing)
        assert options(value)[: len(mine)] == mine
