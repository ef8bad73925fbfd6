"""These tests try every way to opt out, with every config. An application that uses the client, with and without
``run``, behaves as if the sidecar were not installed. No process connects to the endpoint. The config is the only file
that is written, and it never holds an id that was sent before. Upstream's Node SDK reads the same config, and is then
also off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from brakit_sidecar.host import guards

from tests.harness import Endpoint, Place
from tests.privacy import node_sdk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SENT_ID = "6f0c1f2e-7f0a-4b53-9d0c-2a4b7a3e5d11"
OPT_OUTS: list[dict[str, str]] = [
    *(
        {"BRAKIT_TELEMETRY": word}
        for word in ("false", "0", "off", "no", "FALSE", "False", "Off", "OFF", "NO", " off ")
    ),
    *({"DO_NOT_TRACK": word} for word in ("1", "true", "yes", "no", "off", "x", "2", "00")),
    {"DO_NOT_TRACK": "1", "BRAKIT_TELEMETRY": "true"},
]
SET = (
    "CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "CIRCLECI", "TRAVIS", "BUILDKITE", "CODEBUILD_BUILD_ID",
    "TF_BUILD", "BITBUCKET_BUILD_NUMBER", "DRONE", "SEMAPHORE", "VERCEL", "VERCEL_ENV", "NETLIFY",
    "AWS_LAMBDA_FUNCTION_NAME", "AWS_EXECUTION_ENV", "ECS_CONTAINER_METADATA_URI", "GOOGLE_CLOUD_PROJECT",
    "GCP_PROJECT", "K_SERVICE", "AZURE_FUNCTIONS_ENVIRONMENT", "WEBSITE_SITE_NAME", "FLY_APP_NAME",
    "RAILWAY_ENVIRONMENT", "RENDER", "HEROKU_APP_NAME", "DYNO", "CF_INSTANCE_GUID", "CF_PAGES",
    "KUBERNETES_SERVICE_HOST",
)  # fmt: skip
# The list of the telemetry page and of both SDKs, written by hand so that it is independent of the guards' own list.
DORMANT: list[dict[str, str]] = [
    {"BRAKIT_DISABLE": "true"},
    {"BRAKIT_DISABLE": "1"},
    *(
        {name: word}
        for name, word in zip(
            ["FLASK_ENV", "ENVIRONMENT", "NODE_ENV", "APP_ENV", "DJANGO_SETTINGS_MODULE"] * 3,
            ["production"] * 5 + ["STAGING"] * 5 + ["Prod"] * 5,
            strict=True,
        )
    ),
    *({name: "1"} for name in SET),
]
CONFIGS: dict[str, bytes | None] = {
    "none": None,
    "on": json.dumps({"telemetry": True, "anonymousId": SENT_ID, "theme": "dark"}).encode(),
    "on, without an id": b'{"telemetry": true, "theme": "dark"}',
    "off, without an id": b'{"telemetry": false, "theme": "dark"}',
    "empty": b"",
    "no JSON": b'{"telemetry": tr',
    "a list": b"[true]",
    "null": b"null",
    "no UTF-8": b'{"telemetry": true, "anonymousId": "\xff"}',
    "nested": b"[" * 50_000,
}
UNUSABLE = [name for name in CONFIGS if name in ("empty", "no JSON", "a list", "null", "no UTF-8", "nested")]

APPLICATION = """
import sys, brakit_sidecar
telemetry = brakit_sidecar.connect(start=True)
telemetry.set(framework="flask")
telemetry.counter("request_count").inc()
telemetry.request("GET /users", duration_ms=3.0)
telemetry.event("first_request", port=8000)
telemetry.close()
print("said", sys.argv[1:])
sys.exit(7)
"""


class CountingEndpoint(Endpoint):
    """An endpoint that counts its connections, including connections without a request."""

    connections = 0

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()


@pytest.fixture
def endpoint() -> Iterator[CountingEndpoint]:
    endpoint = CountingEndpoint()
    yield endpoint
    endpoint.close()


def files(place: Place) -> set[str]:
    """Return the paths of all files in the place."""
    return {
        os.path.relpath(os.path.join(directory, name), place.root)
        for directory, _, names in os.walk(place.root)
        for name in names
    }


def write_config(place: Place, config: bytes | None) -> None:
    """Write these bytes as the place's config, unless ``config`` is None."""
    if config is not None:
        os.mkdir(os.path.dirname(place.config_path), 0o700)
        with open(place.config_path, "wb") as file:
            file.write(config)


def try_everything(
    endpoint: CountingEndpoint,
    config: bytes | None,
    environ: dict[str, str],
    check: Callable[[Place], None],
    warning: str = "",
) -> None:
    """Run the application in every way that could start a daemon, and an ``emit``, then check the place.

    ``warning`` is a part of the only line that each command prints on stderr.
    """
    with Place(endpoint.url) as place:
        write_config(place, config)
        assert_it_runs_unaffected(place, environ, warning)
        emitted = place.run("emit", "cli_invoked", "command=run", **environ)
        assert (emitted.returncode, emitted.stdout) == (0, "")
        assert_warns(emitted.stderr, warning)
        check(place)


def assert_warns(stderr: str, warning: str) -> None:
    assert stderr.count("\n") == bool(warning)
    assert warning in stderr


def assert_it_runs_unaffected(place: Place, environ: dict[str, str], warning: str = "") -> None:
    """Run the application below ``run`` and by itself. Both the client and ``run`` can start a daemon."""
    application = (sys.executable, "-c", APPLICATION, "a", "b")
    under_run = place.run("run", "--", *application, **environ)
    assert (under_run.returncode, under_run.stdout) == (7, "said ['a', 'b']\n")
    assert_warns(under_run.stderr, warning)
    by_itself = subprocess.run(application, env={**place.environ, **environ}, capture_output=True, check=False)
    assert (by_itself.returncode, by_itself.stdout, by_itself.stderr) == (7, b"said ['a', 'b']\n", b"")


def try_all(cases: list[tuple[Any, ...]]) -> None:
    """Try all cases, four at a time, because a case mostly waits for its processes."""
    with ThreadPoolExecutor(4) as threads:
        for tried in [threads.submit(try_everything, *case) for case in cases]:
            tried.result()


@pytest.mark.slow
def test_an_opt_out_writes_only_a_config_that_is_off_and_has_an_id_that_was_never_sent(
    endpoint: CountingEndpoint,
) -> None:
    def leaves_only_the_config(before: bytes | None) -> Callable[[Place], None]:
        def check(place: Place) -> None:
            assert files(place) == {"h/.brakit/config.json"}
            assert place.config["telemetry"] is False
            assert SENT_ID not in json.dumps(place.config)
            assert place.config.get("theme") == ("dark" if before and b"dark" in before else None)
            for environ in ({}, {"BRAKIT_TELEMETRY": "off"}):
                assert not node_sdk.is_on_when_started(place.config_path, environ)
            assert place.config["telemetry"] is False

        return check

    spelled = [(endpoint, CONFIGS["on"], out, leaves_only_the_config(CONFIGS["on"])) for out in OPT_OUTS]
    over_each = [
        (endpoint, config, out, leaves_only_the_config(config))
        for name, config in CONFIGS.items()
        if name not in UNUSABLE
        for out in ({"BRAKIT_TELEMETRY": "Off"}, {"DO_NOT_TRACK": "1"})
    ]
    try_all([*spelled, *over_each])
    assert endpoint.connections == 0


@pytest.mark.slow
def test_a_guard_changes_no_file(endpoint: CountingEndpoint) -> None:
    def is_as_it_was(place: Place) -> None:
        assert files(place) == {"h/.brakit/config.json"}
        assert place.config == json.loads(CONFIGS["on"] or b"")

    def is_empty(place: Place) -> None:
        assert files(place) == set()
        assert os.listdir(place.home) == os.listdir(place.runtime) == []

    try_all([(endpoint, CONFIGS["on"], guard, is_as_it_was) for guard in DORMANT[::2]])
    try_all([(endpoint, None, guard, is_empty) for guard in DORMANT[1::2]])
    assert endpoint.connections == 0
    assert {name for guard in DORMANT for name in guard} == {*guards.VARIABLES}


@pytest.mark.slow
def test_an_unusable_config_means_off_and_stays_unchanged(endpoint: CountingEndpoint) -> None:
    def stays(config: bytes | None) -> Callable[[Place], None]:
        def check(place: Place) -> None:
            assert files(place) == {"h/.brakit/config.json"}
            with open(place.config_path, "rb") as file:
                assert file.read() == config

        return check

    environments: tuple[tuple[dict[str, str], str], ...] = (
        ({}, ""),
        ({"BRAKIT_TELEMETRY": "on"}, ""),
        ({"BRAKIT_TELEMETRY": "off"}, "the opt-out was not written"),
        ({"DO_NOT_TRACK": "1"}, "the opt-out was not written"),
    )
    cases = [(CONFIGS[name], environ, warning) for name in UNUSABLE for environ, warning in environments]
    try_all([(endpoint, config, environ, stays(config), warning) for config, environ, warning in cases])
    assert endpoint.connections == 0


def test_a_value_that_is_not_understood_is_said_so_once(endpoint: CountingEndpoint) -> None:
    with Place(endpoint.url) as place:
        for command in (("run", "true"), ("start",), ("emit", "cli_invoked"), ("session", "start")):
            ran = place.run(*command, BRAKIT_TELEMETRY="disable")
            assert ran.returncode == 0
            assert_warns(ran.stderr, "BRAKIT_TELEMETRY=disable is not understood")


def test_telemetry_off_also_switches_the_node_sdk_off(endpoint: CountingEndpoint) -> None:
    for config in CONFIGS.values():
        with Place(endpoint.url) as place:
            write_config(place, config)
            place.run("telemetry", "off")
            assert not node_sdk.is_on_when_started(place.config_path, {})
            assert SENT_ID not in json.dumps(place.config)
    assert endpoint.connections == 0


@pytest.mark.slow
def test_the_same_commands_connect_to_the_endpoint_if_telemetry_is_on(endpoint: CountingEndpoint) -> None:
    """The control experiment: without it, the other tests would also pass if nothing ever connected."""
    with Place(endpoint.url) as place:
        assert_it_runs_unaffected(place, {})
        assert place.run("emit", "cli_invoked", "command=run").returncode == 0
        for event, count in (("first_request", 2), ("cli_invoked", 1), ("session", 2)):
            endpoint.wait_for(event, count)
        assert endpoint.connections == 5
