"""The units under a real systemd: its analysis, its socket activation, and a user manager of the test's own."""

from __future__ import annotations

import glob
import json
import os
import plistlib
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.e2e.serving import REPOSITORY
from tests.harness import PATIENCE_S, Endpoint, Place, end_process, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

UNITS = os.path.join(REPOSITORY, "systemd")
SERVICE, SOCKET = "brakit-sidecar.service", "brakit-sidecar.socket"
SANDBOX, SHOWN = f"{SERVICE}.d/sandbox.conf", f"{SERVICE}.d/shown.conf"

needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
needs_activate = pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not here"
)

COUNT = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 3)"

# Where systemd is not the first process, root gives its user manager what it looks for: in a mount namespace, so that
# nobody else sees it, and in a control group of its own, as a manager takes in all others of its group.
AS_IF_BOOTED = """
for groups in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    ours=$groups/brakit-sidecar-$$
    if [ -e $groups/cgroup.procs ] && mkdir $ours; then echo $$ >$ours/cgroup.procs || :; fi
done 2>/dev/null
mount --make-rprivate / && mount --rbind /run /run && mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/system /run/systemd/inaccessible/dir && cd /run/systemd/inaccessible
touch reg && mkfifo fifo && mknod chr c 0 0 && mknod blk b 0 0 && chmod 0 *
cd / && exec "$@"
"""


# --- without a manager ------------------------------------------------------------------------------------


def analyze(place: Place, *arguments: str) -> str:
    ran = subprocess.run(
        ["systemd-analyze", "--user", *arguments], env=place.environ, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def exposure(place: Place, service: str) -> float:
    (found,) = re.findall(
        r"Overall exposure level for \S+: ([\d.]+)", analyze(place, "security", "--offline=yes", service)
    )
    return float(found)


@needs_analyze
def test_systemd_has_nothing_to_say_against_the_units(place: Place) -> None:
    assert analyze(place, "verify", os.path.join(UNITS, SOCKET), os.path.join(UNITS, SERVICE)) == ""


@needs_analyze
def test_with_the_sandbox_the_service_is_exposed_to_one_and_a_half_of_ten(place: Place) -> None:
    assert exposure(place, os.path.join(UNITS, SERVICE)) <= 1.5


@needs_analyze
def test_without_it_to_six_and_a_half(place: Place, tmp_path: Path) -> None:
    shutil.copy(os.path.join(UNITS, SERVICE), tmp_path)
    assert exposure(place, str(tmp_path / SERVICE)) <= 6.5


@needs_activate
def test_a_session_through_socket_activation_arrives(place: Place, endpoint: Endpoint) -> None:
    os.mkdir(os.path.dirname(place.socket_path), 0o700)
    passed = [f"--setenv={name}={value}" for name, value in place.environ.items()]
    command = [sys.executable, "-m", "brakit_sidecar", "serve"]
    activating = place.popen(
        "systemd-socket-activate", f"--listen={place.socket_path}", *passed, *command, cwd=REPOSITORY
    )
    try:
        wait_until(lambda: os.path.exists(place.socket_path), "the socket")
        assert place.run("run", "--", sys.executable, "-c", COUNT).returncode == 0
        assert endpoint.only_session()["request_count"] == 3
        assert activating.wait(PATIENCE_S) == 0  # the daemon, when nothing is left to do
        assert os.path.exists(place.socket_path)
    finally:
        activating.kill()
        activating.wait(PATIENCE_S)


def test_without_a_user_manager_one_line_says_so(place: Place) -> None:
    for command in ("install", "uninstall", "status"):
        ran = place.run("systemd", command)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
        assert "commands start the daemon themselves" in ran.stderr
    assert os.listdir(place.home) == []


def test_the_launchd_agent_runs_the_daemon_and_brings_it_back() -> None:
    """As far as that can be seen without a Mac."""
    with open(os.path.join(REPOSITORY, "launchd", "dev.brakit.sidecar.plist"), "rb") as file:
        agent = plistlib.load(file)
    assert agent["ProgramArguments"] == ["COMMAND", "serve"]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


# --- under a user manager of its own -----------------------------------------------------------------------


class Managed(Place):
    """A place with a user manager. Not below /tmp, where a service with the sandbox has a directory of its own."""

    within = "/run" if os.access("/run", os.W_OK) else "/tmp"

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.units = os.path.join(self.home, ".config", "systemd", "user")
        settings = os.path.join(self.home, ".config", "brakit", "sidecar.env")
        os.makedirs(os.path.dirname(settings))
        with open(settings, "w", encoding="utf-8") as file:
            sending = ("BRAKIT_TELEMETRY_ENDPOINT", "BRAKIT_TELEMETRY_KEY")
            file.writelines(f"{name}={self.environ[name]}\n" for name in sending)
        self._log = open(os.path.join(self.root, "log"), "wb")  # noqa: SIM115 (closed with the place)
        booted = os.path.isdir("/run/systemd/system")
        self._manager = subprocess.Popen(
            [*(() if booted else ("unshare", "--mount", "sh", "-ec", AS_IF_BOOTED, "sh")), _systemd(), "--user"],
            env=self.environ,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def show_what_lies_in_tmp(self) -> None:
        """To a service that has a /tmp of its own, in the sandbox: this interpreter may be there, or this checkout."""
        shown = [path for path in (sys.prefix, sys.base_prefix, REPOSITORY) if path.startswith("/tmp/")]
        os.makedirs(os.path.join(self.units, f"{SERVICE}.d"), exist_ok=True)
        with open(os.path.join(self.units, SHOWN), "w", encoding="utf-8") as file:
            file.write("".join(["[Service]\n", *(f"BindReadOnlyPaths={path}\n" for path in shown)]))

    def leave_the_sandbox(self) -> None:
        """And every other namespace."""
        for name in (SANDBOX, SHOWN):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.units, name))
        assert self.systemctl("daemon-reload") == self.systemctl("restart", SERVICE) == 0

    def runs(self) -> bool:
        wait_until(lambda: self.systemctl("show-environment") == 0 or self._manager.poll() is not None, "the manager")
        return self._manager.poll() is None

    def systemctl(self, *arguments: str) -> int:
        command = ["systemctl", "--user", *arguments]
        return subprocess.run(command, env=self.environ, capture_output=True, check=False).returncode

    def show(self, what: str, unit: str = SERVICE) -> str:
        command = ["systemctl", "--user", "show", "--value", f"--property={what}", unit]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True).stdout.strip()

    def files(self) -> set[str]:
        """Below the directory of the units."""
        return {
            os.path.relpath(os.path.join(directory, name), self.units)
            for directory, _, names in os.walk(self.units)
            for name in names
        }

    def end(self) -> None:
        if self._manager.poll() is None:
            end_process(self._manager)
        self._log.close()
        for group in glob.glob(f"/sys/fs/cgroup/**/brakit-sidecar-{self._manager.pid}", recursive=True):
            for directory, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):  # somebody is still leaving it
                    os.rmdir(directory)


def _systemd() -> str:
    return shutil.which("systemd", path="/usr/lib/systemd:/lib/systemd") or "systemd"


@pytest.fixture(scope="module")
def managed(remote: Endpoint) -> Iterator[Managed]:
    runs_here = os.path.isdir("/run/systemd/system") or (os.getuid() == 0 and shutil.which("unshare"))
    if not shutil.which("systemctl") or not runs_here:
        pytest.skip("no systemd here, or nothing it can run on")
    place = Managed(remote.url)
    with place:
        try:
            if not place.runs():
                pytest.skip("no user manager can be started here")
            yield place
        finally:
            place.end()


@pytest.fixture
def installed(managed: Managed) -> Iterator[Managed]:
    managed.show_what_lies_in_tmp()
    ran = managed.run("systemd", "install")
    assert (ran.returncode, ran.stderr) == (0, "")
    yield managed
    managed.run("systemd", "uninstall")


def test_the_sandbox_is_chosen_where_it_starts(installed: Managed) -> None:
    starts_here = subprocess.run(
        ["systemd-run", "--user", "--wait", "--quiet", *properties_of_the_sandbox(), "true"],
        env=installed.environ,
        capture_output=True,
        check=False,
    )
    assert (SANDBOX in installed.files()) == (starts_here.returncode == 0)
    assert f"sandbox    {'on' if SANDBOX in installed.files() else 'off'}" in installed.run("systemd", "status").stdout


def properties_of_the_sandbox() -> list[str]:
    with open(os.path.join(UNITS, SANDBOX), encoding="utf-8") as file:
        found = [line.strip() for line in file if re.match(r"[A-Z]\w+=", line) and "%" not in line]
    return [f"--property={line}" for line in found]


def test_a_session_under_the_service_arrives_and_the_idle_daemon_leaves(installed: Managed, remote: Endpoint) -> None:
    said = installed.run(
        "run", "--", sys.executable, "-c", f"{COUNT}; import os; print(os.environ['BRAKIT_SESSION_ID'])"
    )
    assert remote.end_of(said.stdout.strip())["request_count"] == 3
    wait_until(lambda: installed.show("ActiveState") == "inactive", "the daemon's leaving")
    assert installed.show("Result") == "success"
    assert installed.start()["pid"] == int(installed.show("MainPID"))


def test_the_service_is_as_its_unit_says(installed: Managed) -> None:
    installed.start()
    if shutil.which("systemd-analyze"):
        assert analyze(installed, "verify", os.path.join(installed.units, SERVICE)) == ""
    assert installed.show("Type") == "notify"
    assert installed.show("WatchdogUSec") == "30s"
    assert installed.show("Environment") == "BRAKIT_SIDECAR_DAEMON=1"
    socket = os.stat(installed.socket_path)
    assert (socket.st_mode & 0o777, os.stat(os.path.dirname(installed.socket_path)).st_mode & 0o777) == (0o600, 0o700)


def test_a_stopped_service_comes_back_with_the_next_connect(installed: Managed) -> None:
    before = installed.start()["pid"]
    assert installed.systemctl("stop", SERVICE) == 0
    assert os.path.exists(installed.socket_path)
    assert installed.start()["pid"] != before


@pytest.mark.parametrize("sandboxed", [True, False], ids=["with the sandbox", "without"])
def test_nothing_is_lost_when_the_daemon_is_killed(installed: Managed, remote: Endpoint, sandboxed: bool) -> None:
    """Neither what was counted before by a worker that was killed first, nor what is counted meanwhile and after."""
    if sandboxed and SANDBOX not in installed.files():
        pytest.skip("the sandbox does not start here")
    if not sandboxed:
        installed.leave_the_sandbox()
    flags = {name: os.path.join(installed.root, f"{name}-{sandboxed}") for name in ("counted", "killed", "restarted")}
    application = installed.popen(
        sys.executable,
        "-m",
        "brakit_sidecar",
        "run",
        "--",
        sys.executable,
        "-c",
        KILLED_BESIDES,
        **flags,
        cwd=REPOSITORY,
    )
    wait_until(lambda: os.path.exists(flags["counted"]), "the counting")
    with open(flags["counted"], encoding="utf-8") as file:
        session = file.read()
    before = int(installed.show("MainPID"))
    os.kill(before, signal.SIGKILL)
    set_flag(flags["killed"])
    wait_until(lambda: installed.show("MainPID") not in ("0", str(before)), "the restart")
    set_flag(flags["restarted"])
    assert application.wait(PATIENCE_S) == 128 + signal.SIGKILL
    ended = remote.end_of(session)
    assert (ended["request_count"], ended["exit_reason"]) == (KILLED_BESIDES_COUNTS, "crash")
    assert installed.show("NRestarts") == "1"


def test_a_daemon_that_hangs_is_replaced_by_the_watchdog(installed: Managed, remote: Endpoint) -> None:
    hurried = os.path.join(installed.units, f"{SERVICE}.d", "hurried.conf")
    with open(hurried, "w", encoding="utf-8") as file:
        file.write("[Service]\nWatchdogSec=3s\nTimeoutAbortSec=3s\nLimitCORE=0\n")
    try:
        assert installed.systemctl("daemon-reload") == installed.systemctl("restart", SERVICE) == 0
        flags = {name: os.path.join(installed.root, f"{name}-hung") for name in ("counted", "killed", "restarted")}
        application = installed.popen(
            sys.executable,
            "-m",
            "brakit_sidecar",
            "run",
            "--",
            sys.executable,
            "-c",
            KILLED_BESIDES,
            **flags,
            cwd=REPOSITORY,
        )
        wait_until(lambda: os.path.exists(flags["counted"]), "the counting")
        with open(flags["counted"], encoding="utf-8") as file:
            session = file.read()
        before = int(installed.show("MainPID"))
        os.kill(before, signal.SIGSTOP)
        set_flag(flags["killed"])
        wait_until(lambda: installed.show("MainPID") not in ("0", str(before)), "the restart")
        set_flag(flags["restarted"])
        assert application.wait(PATIENCE_S) == 128 + signal.SIGKILL
        ended = remote.end_of(session)
        assert (ended["request_count"], ended["exit_reason"]) == (KILLED_BESIDES_COUNTS, "crash")
        assert installed.show("NRestarts") == "1"
    finally:
        os.unlink(hurried)


# A worker that counts and is killed, and one that counts before, while and after the daemon is killed, and then is too.
KILLED_BESIDES = """
import os, signal, subprocess, sys, time, brakit_sidecar
count = "import os, brakit_sidecar; brakit_sidecar.connect().incr('request_count', 700); os.kill(os.getpid(), 9)"
subprocess.run([sys.executable, "-c", count])
requests = brakit_sidecar.connect().counter("request_count")
requests.inc(30)
with open(os.environ["counted"] + ".new", "w") as file:
    file.write(os.environ["BRAKIT_SESSION_ID"])
os.rename(file.name, os.environ["counted"])
for flag in "killed", "restarted":
    while not os.path.exists(os.environ[flag]):
        time.sleep(0.01)
    requests.inc(4)
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BESIDES_COUNTS = 700 + 30 + 4 + 4


def set_flag(path: str) -> None:
    with open(path, "w", encoding="utf-8"):
        pass


def test_installing_again_is_the_same(installed: Managed) -> None:
    before = installed.files()
    assert installed.run("systemd", "install").returncode == 0
    assert installed.files() == before


def test_it_is_not_installed_amid_a_session(managed: Managed) -> None:
    session = json.loads(managed.run("session", "start", "--json").stdout)["session"]
    ran = managed.run("systemd", "install")
    assert (ran.returncode, "a session is open" in ran.stderr) == (1, True)
    assert managed.run("session", "end", session).returncode == 0
    assert managed.run("stop").returncode == 0


def test_a_file_that_is_not_ours_is_left(managed: Managed) -> None:
    path = os.path.join(managed.units, SERVICE)
    with open(path, "w", encoding="utf-8") as file:
        file.write("[Service]\nExecStart=/bin/true\n")
    before = managed.files()
    try:
        ran = managed.run("systemd", "install")
        assert (ran.returncode, f"{path} is not a file of brakit-sidecar; move it away" in ran.stderr) == (1, True)
        assert managed.run("systemd", "uninstall").returncode == 0
        assert managed.files() == before
    finally:
        os.unlink(path)


def test_uninstalling_removes_what_was_installed_and_nothing_else(managed: Managed) -> None:
    before = managed.files()
    assert managed.run("systemd", "install").returncode == 0
    assert managed.run("systemd", "uninstall").returncode == 0
    assert managed.files() == before
    assert managed.run("systemd", "status").returncode == 1
    assert managed.show("LoadState", SOCKET) == "not-found"
    assert managed.show("ActiveState") == "inactive"
