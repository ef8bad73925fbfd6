"""The config lies where people really put it: behind links, on a bind mount, in another user's home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness import Place, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

AN_ID = "6f0c1f2e-7f0a-4b53-9d0c-2a4b7a3e5d11"
YES = {"telemetry": True, "anonymousId": AN_ID, "theme": "dark"}


@pytest.fixture
def place() -> Iterator[Place]:
    """Return a place without a key, whose events stay on this machine."""
    with Place() as place:
        yield place


def shown(place: Place, **environ: str) -> bool:
    is_on: bool = json.loads(place.run("telemetry", "--json", **environ).stdout)["on"]
    return is_on


def link_directory(place: Place) -> Path:
    """Do what ``stow`` does: ``~/.brakit`` is a link into a repository."""
    repository = Path(place.home, "dotfiles", "brakit", ".brakit")
    repository.mkdir(parents=True)
    Path(place.home, ".brakit").symlink_to("dotfiles/brakit/.brakit")
    return repository / "config.json"


def link_file(place: Place) -> Path:
    """Link ``config.json`` itself into a repository."""
    real = Path(place.home, "dotfiles", "brakit.json")
    real.parent.mkdir()
    Path(place.home, ".brakit").mkdir(mode=0o700)
    Path(place.config_path).symlink_to(real)
    return real


each_link = pytest.mark.parametrize("link", [link_directory, link_file], ids=lambda link: link.__name__)


@each_link
def test_an_opt_out_behind_a_link_stays_an_opt_out(place: Place, link: object) -> None:
    assert callable(link)
    real = link(place)
    real.write_text(json.dumps(YES))
    assert shown(place)
    assert place.run("telemetry", "off").returncode == 0
    assert not shown(place)
    assert json.loads(real.read_text())["telemetry"] is False
    assert json.loads(real.read_text())["theme"] == "dark"
    assert link_is_kept(place)


def link_is_kept(place: Place) -> bool:
    return os.path.islink(os.path.join(place.home, ".brakit")) or os.path.islink(place.config_path)


@each_link
def test_an_opt_out_by_environment_is_kept_behind_a_link(place: Place, link: object) -> None:
    assert callable(link)
    real = link(place)
    real.write_text(json.dumps(YES))
    assert place.run("run", "true", BRAKIT_TELEMETRY="off").stderr == ""
    assert json.loads(real.read_text())["telemetry"] is False
    assert link_is_kept(place)


MOUNT = """
mount --bind "$1" "$2" || exit 77
[ -z "$3" ] || mount -o "remount,bind,$3" "$2" || exit 77
shift 3
exec "$@"
"""


def run_mounted(place: Place, option: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours in a mount namespace in which the config is a bind mount."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    real = os.path.join(place.root, "real.json")
    sidecar = [sys.executable, "-m", "brakit_sidecar", *command]
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", MOUNT, "sh", real, place.config_path, option, *sidecar],
        env=place.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip("this user may not mount")
    return ran


@pytest.fixture
def mounted(place: Place) -> Path:
    """Give the file that will be mounted over the config."""
    os.mkdir(os.path.dirname(place.config_path), 0o700)
    Path(place.config_path).write_text(json.dumps(YES))
    real = Path(place.root, "real.json")
    real.write_text(json.dumps(YES))
    return real


def test_an_opt_out_is_written_into_a_bind_mount(place: Place, mounted: Path) -> None:
    assert run_mounted(place, "", "telemetry", "off").returncode == 0
    assert json.loads(mounted.read_text())["telemetry"] is False


def test_a_read_only_bind_mount_means_off_because_no_opt_out_can_be_kept(place: Place, mounted: Path) -> None:
    found = run_mounted(place, "ro", "telemetry", "--json")
    assert json.loads(found.stdout)["on"] is False
    refused = run_mounted(place, "ro", "telemetry", "off")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert json.loads(mounted.read_text()) == YES


def files(place: Place) -> set[str]:
    return {os.path.join(directory, name) for directory, _, names in os.walk(place.root) for name in names}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take another user's home")
@pytest.mark.parametrize("command", [("run", "true"), ("start",), ("emit", "cli_invoked"), ("session", "start")])
def test_nothing_is_made_in_the_home_of_another_user(place: Place, command: tuple[str, ...]) -> None:
    os.chown(place.home, 12345, 12345)
    assert place.run(*command).returncode == 0
    assert place.run(*command, BRAKIT_TELEMETRY="off").returncode == 0
    assert files(place) == set()
    assert place.run("telemetry", "off").returncode == 1


def test_switching_off_says_what_was_done(place: Place) -> None:
    place.serve()
    opened = place.run("session", "start").stdout.strip()
    assert place.run_python("import brakit_sidecar; brakit_sidecar.connect()", BRAKIT_SESSION_ID=opened).returncode == 0
    before = place.config["anonymousId"]
    text = place.run("telemetry", "off").stdout
    assert "1 unsent event was dropped" in text
    assert "the anonymous id was replaced" in text
    assert place.config["anonymousId"] != before


def test_receipts_outlive_an_opt_out_unless_they_are_forgotten(place: Place) -> None:
    place.serve()
    place.run("emit", "cli_invoked")
    wait_until(place.receipts, "the receipt")
    place.run("telemetry", "off")
    assert len(place.receipts()) == 1
    forgotten = json.loads(place.run("telemetry", "off", "--forget", "--json").stdout)
    assert forgotten["receipts_removed"] == 1
    assert place.receipts() == []


@pytest.mark.parametrize("action", [(), ("status",), ("on",)])
def test_only_switching_off_forgets(place: Place, action: tuple[str, ...]) -> None:
    refused = place.run("telemetry", *action, "--forget")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_a_spoilt_config_is_kept_as_a_copy_if_a_person_decides(place: Place) -> None:
    os.mkdir(os.path.dirname(place.config_path), 0o700)
    Path(place.config_path).write_text('{"telemetry": tr')
    assert place.run("run", "true", BRAKIT_TELEMETRY="off").stderr.count("\n") == 1
    assert Path(place.config_path).read_text() == '{"telemetry": tr'
    assert place.run("telemetry", "on").returncode == 0
    assert shown(place)
    assert Path(place.config_path + ".bad").read_text() == '{"telemetry": tr'
