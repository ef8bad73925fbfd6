"""The units under a real systemd: its analysis, its socket activation, and a private user manager."""

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

needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
needs_activate = pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed"
)

COUNT = "import brakit_sidecar; brakit_sidecar.connect().incr('request_count', 3)"

# If systemd is not the first process, root makes the files that a user manager needs. They are in a mount namespace, so
# that no other process sees them. Start the manager in its own control group, because it would otherwise manage every
# process of the group that it shares with the tests.
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
def test_systemd_finds_no_fault_in_the_units(place: Place) -> None:
    assert analyze(place, "verify", os.path.join(UNITS, SOCKET), os.path.join(UNITS, SERVICE)) == ""


@needs_analyze
def test_with_the_sandbox_the_exposure_is_at_most_one_and_a_half_of_ten(place: Place) -> None:
    assert exposure(place, os.path.join(UNITS, SERVICE)) <= 1.5


@needs_analyze
def test_without_the_sandbox_the_exposure_is_at_most_six_and_a_half_of_ten(place: Place, tmp_path: Path) -> None:
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
        assert activating.wait(PATIENCE_S) == 0  # the idle daemon exits
        assert os.path.exists(place.socket_path)
    finally:
        activating.kill()
        activating.wait(PATIENCE_S)


def test_without_a_user_manager_each_command_fails_with_one_line(place: Place) -> None:
    for command in ("install", "uninstall", "status"):
        ran = place.run("systemd", command)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
        assert "commands start the daemon themselves" in ran.stderr
    assert os.listdir(place.home) == []


def test_the_launchd_agent_runs_the_daemon_and_restarts_it() -> None:
    """Read the agent's file without launchd, because launchd exists only on macOS."""
    with open(os.path.join(REPOSITORY, "launchd", "dev.brakit.sidecar.plist"), "rb") as file:
        agent = plistlib.load(file)
    assert agent["ProgramArguments"] == ["COMMAND", "serve"]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


# --- under a private user manager --------------------------------------------------------------------------


class Managed(Place):
    """A place with a user manager. It is not below /tmp, because a sandboxed service has a private /tmp."""

    within = "/run" if os.access("/run", os.W_OK) else "/tmp"

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.units = os.path.join(self.home, ".config", "systemd", "user")
        settings = os.path.join(self.home, ".config", "brakit", "sidecar.env")
        os.makedirs(os.path.dirname(settings))
        with open(settings, "w", encoding="utf-8") as file:
            sending = ("BRAKIT_TELEMETRY_ENDPOINT", "BRAKIT_TELEMETRY_KEY")
            file.writelines(f"{name}={self.environ[name]}\n" for name in sending)
        self._log = open(os.path.join(self.root, "log"), "wb")  # noqa: SIM115 (the place closes it)
        booted = os.path.isdir("/run/systemd/system")
        self._manager = subprocess.Popen(
            [*(() if booted else ("unshare", "--mount", "sh", "-ec", AS_IF_BOOTED, "sh")), _systemd(), "--user"],
            env=self.environ,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def show_tmp_to_the_sandbox(self) -> None:
        """Let the service read an interpreter and a checkout in /tmp, although the sandbox gives it a private /tmp."""
        shown = [path for path in (sys.prefix, sys.base_prefix, REPOSITORY) if path.startswith("/tmp/")]
        os.makedirs(os.path.join(self.units, f"{SERVICE}.d"), exist_ok=True)
        with open(os.path.join(self.units, SHOWN), "w", encoding="utf-8") as file:
            file.write("".join(["[Service]\n", *(f"BindReadOnlyPaths={path}\n" for path in shown)]))

    def leave_the_sandbox(self) -> None:
        """Restart the service without the sandbox and without any other namespace."""
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
        """Return the paths of all files below the directory of the units."""
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
                with suppress(OSError):  # a process of the group has not exited yet
                    os.rmdir(directory)


def _systemd() -> str:
    return shutil.which("systemd", path="/usr/lib/systemd:/lib/systemd") or "systemd"


@pytest.fixture(scope="module")
def managed(remote: Endpoint) -> Iterator[Managed]:
    runs_here = os.path.isdir("/run/systemd/system") or (os.getuid() == 0 and shutil.which("unshare"))
    if not shutil.which("systemctl") or not runs_here:
        pytest.skip("there is no systemd, or no user manager can run")
    place = Managed(remote.url)
    with place:
        try:
            if not place.runs():
                pytest.skip("no user manager starts here")
            yield place
        finally:
            place.end()


@pytest.fixture
def installed(managed: Managed) -> Iterator[Managed]:
    managed.show_tmp_to_the_sandbox()
    ran = managed.run("systemd", "install")
    assert (ran.returncode, ran.stderr) == (0, "")
    yield managed
    managed.run("systemd", "uninstall")


def test_the_sandbox_is_installed_if_it_starts_here(installed: Managed) -> None:
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


def test_a_session_under_the_service_arrives_and_the_idle_daemon_exits(installed: Managed, remote: Endpoint) -> None:
    ran = installed.run(
        "run", "--", sys.executable, "-c", f"{COUNT}; import os; print(os.environ['BRAKIT_SESSION_ID'])"
    )
    assert remote.session_of(ran.stdout.strip())["request_count"] == 3
    wait_until(lambda: installed.show("ActiveState") == "inactive", "the daemon's exit")
    assert installed.show("Result") == "success"
    assert installed.start()["pid"] == int(installed.show("MainPID"))


def test_the_service_has_the_settings_of_the_unit(installed: Managed) -> None:
    installed.start()
    if shutil.which("systemd-analyze"):
        assert analyze(installed, "verify", os.path.join(installed.units, SERVICE)) == ""
    assert installed.show("Type") == "notify"
    assert installed.show("WatchdogUSec") == "30s"
    assert installed.show("Environment") == "BRAKIT_SIDECAR_DAEMON=1"
    socket = os.stat(installed.socket_path)
    assert (socket.st_mode & 0o777, os.stat(os.path.dirname(installed.socket_path)).st_mode & 0o777) == (0o600, 0o700)


def test_a_stopped_service_starts_again_with_the_next_connection(installed: Managed) -> None:
    before = installed.start()["pid"]
    assert installed.systemctl("stop", SERVICE) == 0
    assert os.path.exists(installed.socket_path)
    assert installed.start()["pid"] != before


@pytest.mark.parametrize("sandboxed", [True, False], ids=["with the sandbox", "without"])
def test_no_count_of_a_session_is_lost_if_the_daemon_is_killed(
    installed: Managed, remote: Endpoint, sandboxed: bool
) -> None:
    """One worker is killed before the daemon, and another worker counts during the restart. No count is lost."""
    if sandboxed and SANDBOX not in installed.files():
        pytest.skip("the sandbox does not start here")
    if not sandboxed:
        installed.leave_the_sandbox()
    assert_no_count_is_lost(installed, remote, f"killed-{sandboxed}", signal.SIGKILL)


def test_a_daemon_that_hangs_is_replaced_by_the_watchdog(installed: Managed, remote: Endpoint) -> None:
    shorter = os.path.join(installed.units, f"{SERVICE}.d", "shorter.conf")
    with open(shorter, "w", encoding="utf-8") as file:
        file.write("[Service]\nWatchdogSec=3s\nTimeoutAbortSec=3s\nLimitCORE=0\n")
    try:
        assert installed.systemctl("daemon-reload") == installed.systemctl("restart", SERVICE) == 0
        assert_no_count_is_lost(installed, remote, "hangs", signal.SIGSTOP)
    finally:
        os.unlink(shorter)


def assert_no_count_is_lost(installed: Managed, remote: Endpoint, name: str, number: signal.Signals) -> None:
    """Send the daemon a signal during a session. systemd must replace the daemon once, and every count must arrive."""
    flags = {flag: os.path.join(installed.root, f"{flag}-{name}") for flag in ("counted", "killed", "restarted")}
    command = (sys.executable, "-m", "brakit_sidecar", "run", "--", sys.executable, "-c", KILLED_WORKERS)
    application = installed.popen(*command, **flags, cwd=REPOSITORY)
    wait_until(lambda: os.path.exists(flags["counted"]), "the counting")
    with open(flags["counted"], encoding="utf-8") as file:
        session = file.read()
    before = int(installed.show("MainPID"))
    os.kill(before, number)
    set_flag(flags["killed"])
    wait_until(lambda: installed.show("MainPID") not in ("0", str(before)), "the restart")
    set_flag(flags["restarted"])
    assert application.wait(PATIENCE_S) == 128 + signal.SIGKILL
    ended = remote.session_of(session)
    assert (ended["request_count"], ended["exit_reason"]) == (KILLED_WORKERS_COUNTS, "crash")
    assert installed.show("NRestarts") == "1"


# The first worker counts and is killed. The second worker counts before, during and after the daemon's restart, and
# then kills itself.
KILLED_WORKERS = """
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
KILLED_WORKERS_COUNTS = 700 + 30 + 4 + 4


def set_flag(path: str) -> None:
    with open(path, "w", encoding="utf-8"):
        pass


def test_installing_again_changes_no_file(installed: Managed) -> None:
    before = installed.files()
    assert installed.run("systemd", "install").returncode == 0
    assert installed.files() == before


def test_nothing_is_installed_while_a_session_is_open(managed: Managed) -> None:
    session = json.loads(managed.run("session", "start", "--json").stdout)["session"]
    ran = managed.run("systemd", "install")
    assert (ran.returncode, "a session is open" in ran.stderr) == (1, True)
    assert managed.run("session", "end", session).returncode == 0
    assert managed.run("stop").returncode == 0


def test_a_foreign_unit_is_left_unchanged(managed: Managed) -> None:
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


def test_uninstalling_removes_the_installed_files_and_nothing_else(managed: Managed) -> None:
    before = managed.files()
    assert managed.run("systemd", "install").returncode == 0
    assert managed.run("systemd", "uninstall").returncode == 0
    assert managed.files() == before
    assert managed.run("systemd", "status").returncode == 1
    assert managed.show("LoadState", SOCKET) == "not-found"
    assert managed.show("ActiveState") == "inactive"
