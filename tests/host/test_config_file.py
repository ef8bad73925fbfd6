"""How the config is read and written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.core.counter_layout import NO_CONFIG
from brakit_sidecar.host import config_file, consent

from tests.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AN_ID = "6f0c1f2e-7f0a-4b53-9d0c-2a4b7a3e5d11"


class Home:
    """A home directory and its environment."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.state = path / "state"
        self.environ = {"HOME": str(path)}
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("HOME", str(path))
        monkeypatch.setenv("XDG_STATE_HOME", str(self.state))

    @property
    def config_path(self) -> Path:
        return self.path / ".brakit" / "config.json"

    @property
    def bad_copy(self) -> Path:
        return self.config_path.with_name("config.json.bad")

    @property
    def config(self) -> Any:
        return json.loads(self.config_path.read_bytes())

    def write(self, content: object) -> bytes:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.config_path.parent.mkdir(mode=0o700, exist_ok=True)
        self.config_path.write_bytes(raw)
        return raw

    def files(self) -> set[str]:
        return {str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file()}

    def current(self, **environ: str) -> consent.Consent:
        return consent.current({**self.environ, **environ})

    def decided(self, **environ: str) -> consent.Consent:
        return config_file.decided({**self.environ, **environ})

    def switch(self, *, on: bool) -> None:
        config_file.switch(self.environ, on=on)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


BROKEN = {
    "empty": b"",
    "invalid JSON": b'{"telemetry": true',
    "a list": b"[]",
    "a text": b'"telemetry"',
    "null": b"null",
    "invalid UTF-8": b'{"telemetry": true, "anonymousId": "\xff"}',
    "deeply nested": b"[" * 60_000,
    "too large": b'{"telemetry": true, "x": "' + b"x" * 100_000 + b'"}',
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_a_broken_config_means_off_and_is_not_changed(home: Home, raw: bytes) -> None:
    home.write(raw)
    assert not home.decided().on
    assert not home.decided(BRAKIT_TELEMETRY="true").on
    assert home.config_path.read_bytes() == raw


def test_a_config_that_is_a_directory_means_off(home: Home) -> None:
    home.config_path.mkdir(parents=True)
    assert not home.decided().on


def test_a_config_that_is_a_pipe_means_off_without_waiting(home: Home) -> None:
    home.config_path.parent.mkdir()
    os.mkfifo(home.config_path)
    assert not home.decided().on


def test_a_config_that_is_a_loop_of_links_means_off(home: Home) -> None:
    home.config_path.parent.mkdir()
    home.config_path.symlink_to(home.config_path)
    assert not home.decided().on


def test_a_config_that_is_a_dangling_link_means_off(home: Home) -> None:
    home.config_path.parent.mkdir(mode=0o700)
    home.config_path.symlink_to(home.path / "elsewhere.json")
    assert not config_file.decided(home.environ).on
    assert not (home.path / "elsewhere.json").exists()


def test_a_config_that_may_not_be_read_means_off(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID})
    really_open = os.open

    def refuse(path: str, *more: Any, **keywords: Any) -> int:  # refuses root, because the kernel does not
        if path == str(home.config_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really_open(path, *more, **keywords)

    monkeypatch.setattr(os, "open", refuse)
    decision = home.decided()
    assert not decision.on
    assert "cannot be read" in decision.why


def test_a_config_that_cannot_be_created_means_off(home: Home) -> None:
    (home.path / ".brakit").write_text("a file where the directory should be")
    assert not home.decided().on


def test_reading_the_decision_writes_nothing(home: Home) -> None:
    assert home.current().on
    assert not home.current(BRAKIT_TELEMETRY="off").on
    assert home.files() == set()


def test_the_first_decision_without_an_opt_out_writes_a_config_with_an_id(home: Home) -> None:
    decision = home.decided()
    assert home.config == {"telemetry": True, "anonymousId": decision.anonymous_id}
    assert str(uuid.UUID(decision.anonymous_id)) == decision.anonymous_id


def test_the_config_and_its_directory_are_private(home: Home) -> None:
    home.decided()
    assert mode(home.config_path) == 0o600
    assert mode(home.config_path.parent) == 0o700


def test_no_temporary_file_is_left(home: Home) -> None:
    home.decided()
    home.switch(on=False)
    home.switch(on=True)
    assert [path.name for path in home.config_path.parent.iterdir()] == ["config.json"]


def test_a_valid_id_is_kept(home: Home) -> None:
    raw = home.write({"telemetry": True, "anonymousId": AN_ID})
    assert home.decided().anonymous_id == AN_ID
    assert home.config_path.read_bytes() == raw


@pytest.mark.parametrize("invalid_id", [..., None, 7, "", "me", "anonymous", AN_ID + "0", AN_ID.replace("-", "")])
def test_a_config_without_a_valid_id_gets_a_new_id(home: Home, invalid_id: object) -> None:
    content: dict[str, Any] = {"telemetry": True, "theme": "dark"}
    if invalid_id is not ...:
        content["anonymousId"] = invalid_id
    home.write(content)
    decision = home.decided()
    assert decision.on
    assert str(uuid.UUID(decision.anonymous_id)) == decision.anonymous_id
    assert home.config == {"telemetry": True, "theme": "dark", "anonymousId": decision.anonymous_id}


def test_threads_that_make_the_config_at_the_same_time_agree_on_one_id(home: Home) -> None:
    decisions: list[consent.Consent] = []
    threads = [threading.Thread(target=lambda: decisions.append(home.decided())) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {decision.anonymous_id for decision in decisions} == {home.config["anonymousId"]}


# --- an opt-out is written to the config -----------------------------------------------------------------------


OPT_OUTS: list[dict[str, str]] = [{"BRAKIT_TELEMETRY": "Off"}, {"DO_NOT_TRACK": "1"}]


@pytest.mark.parametrize("opt_out", OPT_OUTS)
def test_an_opt_out_by_environment_is_written_to_the_config(home: Home, opt_out: dict[str, str]) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID, "theme": "dark"})
    assert not home.decided(**opt_out).on
    assert (home.config["telemetry"], home.config["theme"]) == (False, "dark")
    uuid.UUID(home.config["anonymousId"])
    assert not home.current().on  # the opt-out outlasts the environment


@pytest.mark.parametrize("opt_out", OPT_OUTS)
def test_an_opt_out_without_a_config_writes_a_config_and_no_other_file(home: Home, opt_out: dict[str, str]) -> None:
    home.decided(**opt_out)
    assert home.files() == {".brakit/config.json"}
    assert home.config["telemetry"] is False
    uuid.UUID(home.config["anonymousId"])


def test_an_opt_out_changes_nothing_if_the_config_already_opts_out(home: Home) -> None:
    raw = home.write({"telemetry": False, "anonymousId": AN_ID})
    home.decided(BRAKIT_TELEMETRY="0")
    assert home.config_path.read_bytes() == raw


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_an_opt_out_by_environment_leaves_a_broken_config_as_it_is_and_says_why(home: Home, raw: bytes) -> None:
    home.write(raw)
    written = config_file.decide_and_write({**home.environ, "BRAKIT_TELEMETRY": "0"})
    assert not written.decision.on
    assert written.problem
    assert home.files() == {".brakit/config.json"}
    assert home.config_path.read_bytes() == raw


@pytest.mark.parametrize("opt_out", [{}, *OPT_OUTS])
@pytest.mark.parametrize("content", [None, {"telemetry": True, "anonymousId": AN_ID}])
def test_a_dormant_environment_writes_no_file(home: Home, content: object, opt_out: dict[str, str]) -> None:
    raw = None if content is None else home.write(content)
    assert not home.decided(GITHUB_ACTIONS="true", **opt_out).on
    assert home.files() == (set() if raw is None else {".brakit/config.json"})
    assert raw is None or home.config_path.read_bytes() == raw


@pytest.mark.parametrize("content", [{"telemetry": False, "anonymousId": AN_ID}, {"telemetry": False}])
def test_an_opt_in_by_environment_does_not_undo_a_no_of_the_config(home: Home, content: object) -> None:
    raw = home.write(content)
    assert not home.decided(BRAKIT_TELEMETRY="yes").on
    assert home.config_path.read_bytes() == raw


# --- a person's decision ------------------------------------------------------------------------------


def test_switching_off_replaces_the_id(home: Home) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID, "theme": "dark"})
    home.switch(on=False)
    assert home.config["telemetry"] is False
    assert home.config["theme"] == "dark"
    assert str(uuid.UUID(home.config["anonymousId"])) != AN_ID
    assert not home.current().on


def test_switching_on_keeps_an_id_that_was_never_sent(home: Home) -> None:
    home.switch(on=False)
    fresh = home.config["anonymousId"]
    home.switch(on=True)
    assert home.config == {"telemetry": True, "anonymousId": fresh}
    assert home.current().on


def test_switching_on_replaces_an_invalid_id(home: Home) -> None:
    home.write({"telemetry": False, "anonymousId": "me"})
    home.switch(on=True)
    decision = home.decided()
    assert decision.on
    uuid.UUID(decision.anonymous_id)


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("on", [True, False])
def test_a_persons_decision_replaces_a_broken_config(home: Home, raw: bytes, on: bool) -> None:
    home.write(raw)
    home.switch(on=on)
    assert home.current().on is on
    assert home.bad_copy.read_bytes() == raw


def test_switching_raises_an_error_if_the_config_cannot_be_written(home: Home) -> None:
    (home.path / ".brakit").write_text("a file where the directory should be")
    with pytest.raises(config_file.ConfigError, match=r"config\.json"):
        home.switch(on=False)


def test_a_directory_with_a_wider_mode_is_made_private(home: Home) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID})
    home.config_path.parent.chmod(0o755)
    home.switch(on=False)
    assert mode(home.config_path.parent) == 0o700
    assert mode(home.config_path) == 0o600


# --- the first session --------------------------------------------------------------------------------


def test_only_one_session_under_a_config_that_we_made_is_the_first_session(home: Home) -> None:
    home.decided()
    assert [config_file.take_first_session() for _ in range(3)] == [True, False, False]


def test_no_session_under_an_earlier_config_is_the_first_session(home: Home) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID})
    home.decided()
    assert config_file.take_first_session() is False


def test_a_config_without_an_id_counts_as_an_earlier_config(home: Home) -> None:
    home.write({"telemetry": True})
    home.decided()
    assert config_file.take_first_session() is False


# --- links ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["file", "directory", "both", "chain"])
def linked(home: Home, request: pytest.FixtureRequest) -> Path:
    """Give the real place of a config to which ``~/.brakit`` or ``config.json`` in it is a link."""
    repository = home.path / "dotfiles" / "brakit"
    repository.mkdir(mode=0o755, parents=True)
    real = repository / "config.json"
    if request.param == "directory":
        home.config_path.parent.symlink_to(repository)
        return real
    if request.param == "both":
        elsewhere = home.path / "elsewhere"
        elsewhere.mkdir()
        home.config_path.parent.symlink_to("elsewhere")
        (elsewhere / "config.json").symlink_to("../dotfiles/brakit/config.json")
        return real
    home.config_path.parent.mkdir(mode=0o700)
    if request.param == "chain":
        (home.path / "middle").mkdir()
        (home.path / "middle" / "link").symlink_to("../dotfiles/brakit/config.json")
        home.config_path.symlink_to(home.path / "middle" / "link")
    else:
        home.config_path.symlink_to(real)
    return real


def test_a_config_is_read_through_links(home: Home, linked: Path) -> None:
    linked.write_text(json.dumps({"telemetry": False}))
    assert not home.current().on
    linked.write_text(json.dumps({"telemetry": True, "anonymousId": AN_ID}))
    assert home.current().anonymous_id == AN_ID


@pytest.mark.parametrize("on", [True, False])
def test_a_persons_decision_is_written_at_the_real_place(home: Home, linked: Path, on: bool) -> None:
    linked.write_text(json.dumps({"telemetry": not on, "anonymousId": AN_ID, "theme": "dark"}))
    links = {path: path.readlink() for path in home.path.rglob("*") if path.is_symlink()}
    home.switch(on=on)
    assert home.current().on is on
    assert json.loads(linked.read_text())["theme"] == "dark"
    assert {path: path.readlink() for path in links} == links
    assert mode(linked.parent) == 0o755  # the directory is a person's, and not this package's


def test_an_opt_out_by_environment_is_written_at_the_real_place(home: Home, linked: Path) -> None:
    linked.write_text(json.dumps({"telemetry": True, "anonymousId": AN_ID}))
    home.decided(BRAKIT_TELEMETRY="off")
    assert json.loads(linked.read_text())["telemetry"] is False


def test_a_persons_decision_is_written_to_the_target_of_a_dangling_link(home: Home, linked: Path) -> None:
    home.switch(on=False)
    assert json.loads(linked.read_text())["telemetry"] is False


# --- places that are not believed -----------------------------------------------------------------------------


def make_unbelievable(home: Home, place: str) -> None:
    """Let others write to one of the places on the way to the config, or let it belong to another user."""
    thing, _, fault = place.partition(" ")
    path = {"home": home.path, "directory": home.config_path.parent, "file": home.config_path}[thing]
    if fault == "of another user":
        os.chown(path, 12345, 12345)
    else:
        path.chmod(0o777 if fault == "of everybody" else 0o770)


PLACES = [f"{thing} {fault}" for thing in ("home", "directory", "file") for fault in ("of everybody", "of a group")]
FOREIGN = [f"{thing} of another user" for thing in ("home", "directory", "file")]
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")


@pytest.fixture(params=[*PLACES, *(pytest.param(place, marks=as_root) for place in FOREIGN)])
def unbelievable(home: Home, request: pytest.FixtureRequest) -> str:
    """Give a home whose config says yes, at a place that is not believed."""
    home.write({"telemetry": True, "anonymousId": AN_ID})
    place: str = request.param
    make_unbelievable(home, place)
    return place


def test_a_config_that_others_can_write_means_off(home: Home, unbelievable: str) -> None:
    decision = home.decided()
    assert not decision.on
    assert "is not believed" in decision.why


def test_nothing_is_made_at_a_place_that_is_not_believed(home: Home, unbelievable: str) -> None:
    before = home.files()
    written = config_file.decide_and_write({**home.environ, "BRAKIT_TELEMETRY": "off"})
    assert written.problem
    assert home.files() == before
    assert home.config["telemetry"] is True


def test_a_decision_is_not_written_to_a_directory_that_is_not_believed(home: Home, unbelievable: str) -> None:
    if unbelievable.startswith("file"):
        home.switch(on=False)  # a file in a private directory is replaced
        assert home.config["telemetry"] is False
        assert not home.current().on
        assert mode(home.config_path) == 0o600
    else:
        with pytest.raises(config_file.ConfigError, match="is not believed"):
            home.switch(on=False)


def test_a_hard_link_is_neither_believed_nor_replaced(home: Home) -> None:
    raw = home.write({"telemetry": True, "anonymousId": AN_ID})
    (home.path / "second").hardlink_to(home.config_path)
    assert not home.decided().on
    with pytest.raises(config_file.ConfigError, match="hard link"):
        home.switch(on=False)
    assert (home.path / "second").read_bytes() == raw


def test_a_home_that_is_missing_means_off_and_is_not_made(home: Home) -> None:
    missing = home.path / "missing"
    assert not config_file.decided({"HOME": str(missing)}).on
    assert not missing.exists()


# --- filesystems that lack something --------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_config_is_written_on_a_filesystem_without_locks(
    home: Home, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    def fail(_fd: int, _operation: int) -> None:
        raise OSError(missing, os.strerror(missing))

    monkeypatch.setattr(fcntl, "flock", fail)
    assert home.decided().on
    home.switch(on=False)
    assert not home.current().on


def test_a_config_is_written_on_a_filesystem_without_hard_links(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_keywords: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)
    assert home.decided().on
    assert home.current().anonymous_id


@pytest.mark.parametrize("refusal", [errno.EBUSY, errno.EXDEV, errno.EACCES])
def test_a_config_that_cannot_be_replaced_is_written_in_place(
    home: Home, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID, "theme": "x" * 500})
    inode = home.config_path.stat().st_ino

    def fail(_source: str, _target: str) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "rename", fail)
    home.switch(on=False)
    assert home.config["telemetry"] is False
    assert home.config_path.stat().st_ino == inode
    assert home.files() == {".brakit/config.json"}


def test_a_config_that_is_overwritten_is_json_at_every_moment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID, "theme": "x" * 500})
    seen: list[object] = []
    really_truncate = os.ftruncate

    def truncate(fd: int, length: int) -> None:
        seen.append(home.config["telemetry"])
        really_truncate(fd, length)

    def fail(_source: str, _target: str) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "rename", fail)
    monkeypatch.setattr(os, "ftruncate", truncate)
    home.config_path.write_text(json.dumps({"telemetry": True, "long": "x" * 900}))
    home.switch(on=True)
    assert {*seen} == {True}
    assert home.config_path.read_text().endswith("}\n")


# --- changes by which consent stands --------------------------------------------------------------------------


def is_continued(home: Home, before: int | None) -> bool:
    now = home.current().stamp
    assert before is not None
    assert now is not None
    return config_file.is_continued(home.environ, before, now)


def test_a_config_that_this_package_makes_continues_the_time_without_one(home: Home) -> None:
    home.decided()
    assert is_continued(home, NO_CONFIG + time.time_ns())


def test_a_config_that_gets_an_id_continues(home: Home) -> None:
    home.write({"telemetry": True})
    before = home.current().stamp
    home.decided()
    assert is_continued(home, before)


def test_a_config_that_changed_since_does_not_continue(home: Home) -> None:
    home.decided()
    home.write({"telemetry": True, "anonymousId": AN_ID})
    assert not is_continued(home, NO_CONFIG + time.time_ns())


def test_a_config_of_another_program_does_not_continue_anything(home: Home) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID})
    home.decided()
    assert not is_continued(home, NO_CONFIG + time.time_ns())


def test_a_config_that_this_package_makes_later_does_not_continue(home: Home) -> None:
    """It may have said no, and have been removed, since the process found none."""
    a_minute_ago = time.time_ns() - 60 * 10**9
    home.decided()
    assert not is_continued(home, NO_CONFIG + a_minute_ago)


def test_switching_on_after_a_no_does_not_continue(home: Home) -> None:
    home.switch(on=False)
    before = home.current().stamp
    home.switch(on=True)
    assert not is_continued(home, before)


def test_a_change_waits_only_for_a_moment_for_a_process_that_keeps_the_lock(home: Home) -> None:
    home.switch(on=True)
    directory = os.open(home.config_path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with pytest.raises(config_file.ConfigError, match="keeps its lock"):
            home.switch(on=False)
    finally:
        os.close(directory)
    home.switch(on=False)
    assert not home.current().on


# --- the stamp ------------------------------------------------------------------------------------------------


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def touch_back(path: Path) -> None:
    """Write, and restore the times that a person sees."""
    before = path.stat()
    rewrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def move_away_and_back(path: Path) -> None:
    path.rename(path.with_suffix(".off"))
    path.with_suffix(".off").rename(path)


@pytest.mark.parametrize("change", [rewrite, touch_back, move_away_and_back], ids=lambda change: change.__name__)
def test_every_write_changes_the_stamp_even_if_the_content_stays(home: Home, change: Callable[[Path], None]) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID})
    before = home.current().stamp

    def has_changed() -> bool:  # the filesystem's clock may tick only every few ms
        change(home.config_path)
        return home.current().stamp != before

    wait_until(has_changed, "another stamp")


def test_reading_does_not_change_the_stamp(home: Home) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID})
    before = home.current().stamp
    home.decided()
    home.switch(on=True)  # it is on already, so nothing is written
    assert home.current().stamp == before
