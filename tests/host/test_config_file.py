"""How the config is read and written."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.host import config_file, consent

if TYPE_CHECKING:
    from pathlib import Path

AN_ID = "6f0c1f2e-7f0a-4b53-9d0c-2a4b7a3e5d11"


class Home:
    """A home directory and its environment."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.state = path / "state"
        self.environ = {"HOME": str(path)}
        monkeypatch.setenv("HOME", str(path))
        monkeypatch.setenv("XDG_STATE_HOME", str(self.state))

    @property
    def config_path(self) -> Path:
        return self.path / ".brakit" / "config.json"

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

    def settled(self, **environ: str) -> consent.Consent:
        return config_file.settled({**self.environ, **environ})

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
    assert not home.settled().on
    assert not home.settled(BRAKIT_TELEMETRY="true").on
    assert home.config_path.read_bytes() == raw


def test_a_config_that_is_a_directory_means_off(home: Home) -> None:
    home.config_path.mkdir(parents=True)
    assert not home.settled().on


def test_a_config_that_is_a_pipe_means_off_without_waiting(home: Home) -> None:
    home.config_path.parent.mkdir()
    os.mkfifo(home.config_path)
    assert not home.settled().on


def test_a_config_that_is_a_loop_of_links_means_off(home: Home) -> None:
    home.config_path.parent.mkdir()
    home.config_path.symlink_to(home.config_path)
    assert not home.settled().on


def test_a_config_that_is_a_dangling_link_means_off(home: Home) -> None:
    home.config_path.parent.mkdir(parents=True)
    home.config_path.symlink_to(home.path / "elsewhere.json")
    assert not config_file.settled(home.environ).on
    assert not (home.path / "elsewhere.json").exists()


def test_a_config_that_may_not_be_read_means_off(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID})
    really_open = os.open

    def refuse(path: str, *more: Any) -> int:  # refuses root, because the kernel does not
        if path == str(home.config_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really_open(path, *more)

    monkeypatch.setattr(os, "open", refuse)
    decision = home.settled()
    assert not decision.on
    assert "cannot be read" in decision.why


def test_a_config_that_cannot_be_created_means_off(home: Home) -> None:
    (home.path / ".brakit").write_text("a file where the directory should be")
    assert not home.settled().on


def test_reading_the_decision_writes_nothing(home: Home) -> None:
    assert home.current().on
    assert not home.current(BRAKIT_TELEMETRY="off").on
    assert home.files() == set()


def test_the_first_decision_without_an_opt_out_writes_a_config_with_an_id(home: Home) -> None:
    decision = home.settled()
    assert home.config == {"telemetry": True, "anonymousId": decision.anonymous_id}
    assert str(uuid.UUID(decision.anonymous_id)) == decision.anonymous_id


def test_the_config_and_its_directory_are_private(home: Home) -> None:
    home.settled()
    assert mode(home.config_path) == 0o600
    assert mode(home.config_path.parent) == 0o700


def test_no_temporary_file_is_left(home: Home) -> None:
    home.settled()
    home.switch(on=False)
    home.switch(on=True)
    assert [path.name for path in home.config_path.parent.iterdir()] == ["config.json"]


def test_a_valid_id_is_kept(home: Home) -> None:
    raw = home.write({"telemetry": True, "anonymousId": AN_ID})
    assert home.settled().anonymous_id == AN_ID
    assert home.config_path.read_bytes() == raw


@pytest.mark.parametrize("invalid_id", [..., None, 7, "", "me", "anonymous", AN_ID + "0", AN_ID.replace("-", "")])
def test_a_config_without_a_valid_id_gets_a_new_id(home: Home, invalid_id: object) -> None:
    content: dict[str, Any] = {"telemetry": True, "theme": "dark"}
    if invalid_id is not ...:
        content["anonymousId"] = invalid_id
    home.write(content)
    decision = home.settled()
    assert decision.on
    assert str(uuid.UUID(decision.anonymous_id)) == decision.anonymous_id
    assert home.config == {"telemetry": True, "theme": "dark", "anonymousId": decision.anonymous_id}


def test_threads_that_make_the_config_at_the_same_time_agree_on_one_id(home: Home) -> None:
    decisions: list[consent.Consent] = []
    threads = [threading.Thread(target=lambda: decisions.append(home.settled())) for _ in range(12)]
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
    assert not home.settled(**opt_out).on
    assert (home.config["telemetry"], home.config["theme"]) == (False, "dark")
    uuid.UUID(home.config["anonymousId"])
    assert not home.current().on  # the opt-out outlasts the environment


@pytest.mark.parametrize("opt_out", OPT_OUTS)
def test_an_opt_out_without_a_config_writes_a_config_and_no_other_file(home: Home, opt_out: dict[str, str]) -> None:
    home.settled(**opt_out)
    assert home.files() == {".brakit/config.json"}
    assert home.config["telemetry"] is False
    uuid.UUID(home.config["anonymousId"])


def test_an_opt_out_changes_nothing_if_the_config_already_opts_out(home: Home) -> None:
    raw = home.write({"telemetry": False, "anonymousId": AN_ID})
    home.settled(BRAKIT_TELEMETRY="0")
    assert home.config_path.read_bytes() == raw


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_an_opt_out_replaces_a_broken_config(home: Home, raw: bytes) -> None:
    home.write(raw)
    home.settled(BRAKIT_TELEMETRY="0")
    assert home.config["telemetry"] is False


@pytest.mark.parametrize("opt_out", [{}, *OPT_OUTS])
@pytest.mark.parametrize("content", [None, {"telemetry": True, "anonymousId": AN_ID}])
def test_a_dormant_environment_writes_no_file(home: Home, content: object, opt_out: dict[str, str]) -> None:
    raw = None if content is None else home.write(content)
    assert not home.settled(GITHUB_ACTIONS="true", **opt_out).on
    assert home.files() == (set() if raw is None else {".brakit/config.json"})
    assert raw is None or home.config_path.read_bytes() == raw


def test_an_opt_in_by_environment_does_not_change_the_config(home: Home) -> None:
    raw = home.write({"telemetry": False, "anonymousId": AN_ID})
    decision = home.settled(BRAKIT_TELEMETRY="yes")
    assert (decision.on, decision.anonymous_id) == (True, AN_ID)
    assert home.config_path.read_bytes() == raw


def test_an_opt_in_by_environment_keeps_the_opt_out_of_a_config_without_an_id(home: Home) -> None:
    home.write({"telemetry": False})
    home.settled(BRAKIT_TELEMETRY="yes")
    assert home.config["telemetry"] is False


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
    decision = home.settled()
    assert decision.on
    uuid.UUID(decision.anonymous_id)


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("on", [True, False])
def test_a_persons_decision_replaces_a_broken_config(home: Home, raw: bytes, on: bool) -> None:
    home.write(raw)
    home.switch(on=on)
    assert home.current().on is on


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
    home.settled()
    assert [config_file.take_first_session() for _ in range(3)] == [True, False, False]


def test_no_session_under_an_earlier_config_is_the_first_session(home: Home) -> None:
    home.write({"telemetry": True, "anonymousId": AN_ID})
    home.settled()
    assert config_file.take_first_session() is False


def test_a_config_without_an_id_counts_as_an_earlier_config(home: Home) -> None:
    home.write({"telemetry": True})
    home.settled()
    assert config_file.take_first_session() is False
