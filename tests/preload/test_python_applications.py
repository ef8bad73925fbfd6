"""Unmodified applications with PyPI's brakit, in environments without brakit-sidecar, join below ``run`` and count."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from abc import abstractmethod
from contextlib import suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.e2e.served_session import ServedSessionTests
from tests.e2e.serving import NOT_COUNTED, REPOSITORY, SHARED, SHARED_ROUTES, Server
from tests.e2e.users import ask_at_once, ask_in_turn
from tests.harness import Endpoint, Place, wait_until
from tests.preload import interpreters

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.serving import Ran

pytestmark = pytest.mark.slow

# Brakit's handler at the root logger keeps Flask's own server from logging its port.
MAIN = """
import logging
logging.getLogger("werkzeug").addHandler(logging.StreamHandler())
logging.getLogger("werkzeug").setLevel(logging.INFO)

if __name__ == "__main__":
    app.run(port=0)
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, environment: str) -> str:
    """Return the directory of a project: the applications of the other end-to-end tests without their line for the
    sidecar, and the environment in which they run.
    """
    directory = tmp_path_factory.mktemp("project")
    for name in ("flask_app.py", "fastapi_app.py"):
        with open(os.path.join(REPOSITORY, "tests", "e2e", "apps", name), encoding="utf-8") as file:
            lines = file.readlines()
        unmodified = [line for line in lines if "brakit_sidecar" not in line]
        assert len(unmodified) == len(lines) - 1
        (directory / name).write_text("".join(unmodified), encoding="utf-8")
    with open(directory / "flask_app.py", "a", encoding="utf-8") as file:
        file.write(MAIN)
    (directory / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n', encoding="utf-8")
    (directory / ".venv").symlink_to(os.path.dirname(os.path.dirname(environment)))
    return str(directory)


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the program uv, from PyPI if it is not installed."""
    installed = shutil.which("uv")
    if installed is not None:
        return installed
    directory = tmp_path_factory.mktemp("uv")
    venv.create(directory, symlinks=True)
    _run(sys.executable, "-m", "pip", "--python", str(directory / "bin" / "python"), "install", "uv")
    return str(directory / "bin" / "uv")


def _run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="class")
def ran(request: pytest.FixtureRequest, project: str, environment: str) -> Ran:
    """Serve the class's application below ``run``, let users make 48 requests that count, and end it by SIGTERM."""
    tests: type[UnmodifiedTests] = request.cls
    command = [part.format(project=project) for part in tests.command]
    python = [request.getfixturevalue("uv"), *command] if command[0] == "run" else [environment, *command]
    endpoint = Endpoint()
    with (
        Place(endpoint.url) as place,
        Server(place, "brakit_sidecar", "run", "--", *python, by_itself=True) as server,
    ):
        tests.ask(server)
        ran = server.stop(endpoint)
    endpoint.close()
    return ran


def test_the_environment_has_no_brakit_sidecar(environment: str) -> None:
    ran = subprocess.run([environment, "-c", "import brakit_sidecar"], capture_output=True, text=True, check=False)
    assert "No module named 'brakit_sidecar'" in ran.stderr


class UnmodifiedTests(ServedSessionTests):
    command: ClassVar[list[str]]
    routes = SHARED_ROUTES + 1

    @classmethod
    @abstractmethod
    def ask(cls, server: Server) -> None:
        """Make the requests that this application is to count."""

    def test_the_setup_duration_is_that_of_brakits_import_and_of_its_entry(self, ran: Ran) -> None:
        assert ran.session["setup_duration_ms"] >= ran.properties("setup_completed")["setup_duration_ms"] > 0


class UnmodifiedFlaskTests(UnmodifiedTests):
    framework = "flask"
    workers = 1

    @classmethod
    def ask(cls, server: Server) -> None:
        meeting = [("GET", f"/meet/{cls.workers}")] * 4  # answered when each worker has one
        ask_at_once(server, meeting, users=4)
        ask_at_once(server, SHARED + NOT_COUNTED, users=4)


class EndedBySigterm:
    """The server has no handler of SIGTERM."""

    exit_code = 128 + signal.SIGTERM


class TestGunicorn(UnmodifiedFlaskTests):
    command: ClassVar = ["-m", "gunicorn", "-b", "127.0.0.1:0", "-w", "4", "--pythonpath", "{project}", "flask_app:app"]
    workers = 4


class TestGunicornWithPreload(TestGunicorn):
    command: ClassVar = [*TestGunicorn.command, "--preload"]


class TestPython(EndedBySigterm, UnmodifiedFlaskTests):
    command: ClassVar = ["{project}/flask_app.py"]


class TestFlaskRun(EndedBySigterm, UnmodifiedFlaskTests):
    command: ClassVar = ["-m", "flask", "--app", "{project}/flask_app.py", "run", "-p", "0"]


class TestUvRun(EndedBySigterm, UnmodifiedFlaskTests):
    command: ClassVar = ["run", "--project", "{project}", "--no-sync", "{project}/flask_app.py"]


class UnmodifiedFastAPITests(UnmodifiedTests):
    framework = "fastapi"
    requests = (("GET", "/relayed"), *[("GET", "/relayed")] * 3, *SHARED)

    def test_all_fetches_are_counted(self, ran: Ran) -> None:
        assert ran.session["fetch_count"] == 4


UVICORN = ["-m", "uvicorn", "--port", "0", "--app-dir", "{project}", "fastapi_app:app"]


class TestUvicornWithWorkers(UnmodifiedFastAPITests):
    command: ClassVar = [*UVICORN, "--workers", "2", "--timeout-keep-alive", "300"]
    workers = 2

    @classmethod
    def ask(cls, server: Server) -> None:
        ask_in_turn(server, cls.requests + NOT_COUNTED, cls.workers)


class TestUvicornThatReloads(UnmodifiedFastAPITests):
    command: ClassVar = [*UVICORN, "--reload"]
    workers = 2  # the second replaces the first

    @classmethod
    def ask(cls, server: Server) -> None:
        first = _await_worker(server, unlike=b"")
        ask_at_once(server, cls.requests[::2], users=4)
        wait_until(lambda: server.requests_counted() == len(cls.requests[::2]), "the count of the requests so far")
        _await_worker(server, unlike=first)
        ask_at_once(server, cls.requests[1::2] + NOT_COUNTED, users=4)


def _await_worker(server: Server, unlike: bytes) -> bytes:
    """Return the pid of the worker that answers health checks, as soon as it is another one. Touches the file at which
    the server reloads before each, because a change before the server first reads the file's time has no effect.
    """
    answers = [unlike]

    def another_answers() -> bool:
        if unlike:
            later = time.time() + 10
            os.utime(os.path.join(server.directory, "touched.py"), (later, later))
        with suppress(OSError, HTTPException):  # no worker listens at this moment
            answers.append(server.request("GET", "/health"))
        return answers[-1] != unlike

    wait_until(another_answers, "a worker's answer")
    return answers[-1]


# --- on each Python --------------------------------------------------------------------------------------------------

APPLICATION = """
import brakit
from flask import Flask

app = Flask("shop")
app.add_url_rule("/users/<user>", "user", lambda user: user)
app.add_url_rule("/health", "health", lambda: "well")
app.add_url_rule("/broken", "broken", lambda: 1 / 0)
client = app.test_client()
for path in ("/users/1", "/users/2", "/users/3", "/health", "/broken"):
    client.get(path, base_url="http://localhost:8000")
print(app.name)
"""


@pytest.mark.parametrize("version", interpreters.JOINING)
def test_an_application_joins_on_each_python(
    version: str, uv: str, tmp_path: Path, endpoint: Endpoint, place: Place
) -> None:
    interpreter = interpreters.find(version)
    if interpreter is None:
        pytest.skip(f"no python{version} was found")
    _run(uv, "venv", "--python", interpreter, str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    _run(uv, "pip", "install", "--python", python, "brakit==0.1.7", "flask")
    ran = place.run("run", "--", python, "-c", APPLICATION, BRAKIT_PORT="none")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "shop\n", "")
    session = endpoint.only_session()
    fields = ("request_count", "error_count", "endpoint_count", "framework", "setup_succeeded", "brakit_version")
    assert [session[field] for field in fields] == [4, 1, 2, "flask", True, "0.1.7"]
    assert session["python_version"].startswith(f"{version}.")
    assert session["setup_duration_ms"] > 0
