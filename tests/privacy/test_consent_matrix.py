"""Every combination of sources, contents, links and owners, against an oracle that is written by hand.

The oracle knows nothing of the implementation: it lists the few values of each dimension under which telemetry may be
on. Python's and Node's worker and the command must agree with it.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
from brakit_sidecar.host import consent

from tests.harness import Place
from tests.node.nodes import PACKAGE, newest_node

if TYPE_CHECKING:
    from pathlib import Path

AN_ID = "6f0c1f2e-7f0a-4b53-9d0c-2a4b7a3e5d11"

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "an opt-in": {"BRAKIT_TELEMETRY": "true"},
    "an unknown value": {"BRAKIT_TELEMETRY": "disable"},
    "an opt-out": {"BRAKIT_TELEMETRY": "Off"},
    "DO_NOT_TRACK": {"DO_NOT_TRACK": "1"},
    "both": {"DO_NOT_TRACK": "1", "BRAKIT_TELEMETRY": "true"},
    "a guard": {"CI": "1"},
    "a guard and an opt-in": {"NODE_ENV": "production", "BRAKIT_TELEMETRY": "1"},
}
CONTENTS: dict[str, bytes | None] = {
    "missing": None,
    "yes": json.dumps({"telemetry": True, "anonymousId": AN_ID}).encode(),
    "yes without an id": b'{"telemetry": true}',
    "no": json.dumps({"telemetry": False, "anonymousId": AN_ID}).encode(),
    "neither": b"{}",
    "yes as a text": b'{"telemetry": "true"}',
    "not JSON": b'{"telemetry": tr',
    "not an object": b"[true]",
}
LINKS = ("none", "the directory", "the file", "both", "to itself", "a hard link")
OWNERS = (
    "this user", "file of another user", "directory of another user", "home of another user", "file of everybody",
    "directory of everybody", "home of everybody", "file of a group", "directory of a group", "file that is read-only",
)  # fmt: skip

# The oracle. Telemetry may be on only if all four of these hold.
MAY_BE_ON_IN = {"nothing", "an opt-in", "an unknown value"}
MAY_BE_ON_WITH = {"missing", "yes", "yes without an id"}
MAY_BE_ON_BEHIND = {"none", "the directory", "the file", "both"}
MAY_BE_ON_OF = {"this user"}


class Case(NamedTuple):
    content: str
    links: str
    owner: str
    home: str

    def may_be_on(self, environment: str) -> bool:
        """Return what the oracle says."""
        is_dangling = self.content == "missing" and self.links in ("the file", "both")
        # A file that is missing has no owner and no mode, so only its directories matter.
        is_owned = self.owner in MAY_BE_ON_OF or (self.content == "missing" and self.owner.startswith("file"))
        return (
            environment in MAY_BE_ON_IN
            and self.content in MAY_BE_ON_WITH
            and (self.links in MAY_BE_ON_BEHIND or (self.links == "a hard link" and self.content == "missing"))
            and is_owned
            and not is_dangling
        )


def make_home(home: Path, content: str, links: str, owner: str) -> None:
    """Make the config at its real place, the links that lead there, and the faults of the owner."""
    home.mkdir(mode=0o700)
    directory, dotfiles = home / ".brakit", home / "dotfiles"
    dotfiles.mkdir(mode=0o700)
    real = (directory if links in ("none", "a hard link") else dotfiles) / "config.json"
    if links == "the directory":
        directory.symlink_to("dotfiles")
    elif links == "both":
        (home / "middle").mkdir(mode=0o700)
        directory.symlink_to(home / "middle")
        (home / "middle" / "config.json").symlink_to("../dotfiles/config.json")
    else:
        directory.mkdir(mode=0o700)
    if links == "the file":
        (directory / "config.json").symlink_to(real)
    elif links == "to itself":
        (directory / "config.json").symlink_to("config.json")
    raw = CONTENTS[content]
    if raw is not None:
        real.write_bytes(raw)
        real.chmod(0o600)
        if links == "a hard link":
            (home / "second").hardlink_to(real)
    thing, _, fault = owner.partition(" ")
    for path in {"file": [real], "directory": [real.parent], "home": [home]}.get(thing, []):
        if path.exists():
            spoil(path, fault)


def spoil(path: Path, fault: str) -> None:
    if fault == "of another user":
        os.chown(path, 12345, 12345)
    else:
        mode = path.stat().st_mode & 0o777
        path.chmod({"of everybody": mode | 0o022, "of a group": mode | 0o020, "that is read-only": 0o400}[fault])


def is_possible(owner: str) -> bool:
    """Return whether this user can make the fault, and is subject to it."""
    is_root = os.getuid() == 0
    return is_root if "another user" in owner else not is_root if "read-only" in owner else True


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    root, made = tmp_path_factory.mktemp("homes"), []
    owners = [owner for owner in OWNERS if is_possible(owner)]
    for number, (content, links, owner) in enumerate(itertools.product(CONTENTS, LINKS, owners)):
        home = root / str(number)
        make_home(home, content, links, owner)
        made.append(Case(content, links, owner, str(home)))
    return made


def environ_of(case: Case, environment: str) -> dict[str, str]:
    return {"HOME": case.home, **ENVIRONMENTS[environment]}


def expected(cases: list[Case]) -> list[tuple[Case, str, bool]]:
    return [(case, name, case.may_be_on(name)) for case in cases for name in ENVIRONMENTS]


def test_the_oracle_says_yes_and_no(cases: list[Case]) -> None:
    answers = [may_be_on for _case, _name, may_be_on in expected(cases)]
    assert 20 < answers.count(True) < answers.count(False)


def test_a_python_worker_counts_only_if_no_source_says_no(cases: list[Case]) -> None:
    found = [(case, name, consent.current(environ_of(case, name)).on) for case in cases for name in ENVIRONMENTS]
    assert found == expected(cases)


@newest_node
def test_a_node_worker_counts_only_if_no_source_says_no(cases: list[Case], node: str) -> None:
    environments = [environ_of(case, name) for case in cases for name in ENVIRONMENTS]
    code = """
        const { current } = require(process.argv[1]);
        const environments = JSON.parse(require('node:fs').readFileSync(0));
        console.log(JSON.stringify(environments.map((environ) => current(environ).on)));
    """
    ran = subprocess.run(
        [node, "-e", code, os.path.join(PACKAGE, "lib", "consent.cjs")],
        input=json.dumps(environments),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout) == [may_be_on for _case, _name, may_be_on in expected(cases)]


@pytest.mark.slow
def test_commands_agree_and_start_a_daemon_only_if_no_source_says_no(cases: list[Case]) -> None:
    """One environment for each home, so that a hundred commands stand for all combinations."""
    names = itertools.cycle(ENVIRONMENTS)
    for case, name in list(zip(cases, names, strict=False))[::5]:
        with Place() as place:
            place.environ |= environ_of(case, name)
            before = {path for path, _, _ in os.walk(case.home)}
            shown = json.loads(place.run("telemetry", "--json").stdout)
            assert shown["on"] is case.may_be_on(name), (case, name)
            place.run("start")
            assert bool(os.listdir(place.runtime)) == shown["on"], (case, name)
            if not shown["on"]:  # an opt-out may have written the config, and nothing else
                made = {path for path, _, _ in os.walk(case.home)} - before
                assert made <= {os.path.join(case.home, ".brakit")}
