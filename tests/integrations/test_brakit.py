from __future__ import annotations

import importlib
import json
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import brakit_sidecar
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Endpoint, Place

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def integration() -> Iterator[ModuleType]:
    """Imported where brakit is dormant: its parts are there to be tested, and nothing of this process is patched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAKIT_DISABLE", "1")
        yield importlib.import_module("brakit_sidecar.integrations.brakit")


# --- routes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("", ""),
        ("/users", "/users"),
        ("/users/", "/users/"),
        # Numbers.
        ("/users/17", "/users/:id"),
        ("/users/17/", "/users/:id/"),
        ("/users/17/orders/4", "/users/:id/orders/:id"),
        ("/0", "/:id"),
        ("/99999999999999999999", "/:id"),
        ("/v1/users", "/v1/users"),
        ("/2fa", "/2fa"),
        ("/-17", "/-17"),
        ("/3.14", "/3.14"),
        # UUIDs.
        ("/a/6f9d4c1e-3c56-5b0e-9a55-0b6f3d6a1c7e", "/a/:id"),
        ("/a/6F9D4C1E-3C56-5B0E-9A55-0B6F3D6A1C7E/b", "/a/:id/b"),
        ("/6f9d4c1e-3c56-5b0e-9a55-0b6f3d6a1c7", "/6f9d4c1e-3c56-5b0e-9a55-0b6f3d6a1c7"),
        # Hex of twelve and more, also where it is letters only.
        ("/abcdefabcdef", "/:id"),
        ("/ABCDEFABCDEFABCDEF", "/:id"),
        ("/abcdefabcde", "/abcdefabcde"),
        ("/5f1d7a84b2c90e6d3f2a1b0c", "/:id"),
        # Tokens of letters and digits, eight and more.
        ("/k3jd92ms", "/:id"),
        ("/K3JD92MSX", "/:id"),
        ("/zzzzzzz1", "/:id"),
        ("/1zzzzzzz", "/:id"),
        ("/k3jd92m", "/k3jd92m"),
        ("/settings", "/settings"),
        ("/notifications", "/notifications"),
        ("/release-2024", "/release-2024"),
        ("/user_12345678", "/user_12345678"),
        # The query goes.
        ("/search?q=secret", "/search"),
        ("/users/17?token=abc/def/12", "/users/:id"),
        ("/?", "/"),
        ("?a=1", ""),
    ],
)
def test_a_route_has_no_ids_and_no_query(integration: ModuleType, path: str, route: str) -> None:
    assert integration.route_of("GET", path) == f"GET {route}"


def test_a_route_is_of_one_method(integration: ModuleType) -> None:
    assert integration.route_of("POST", "/users") == "POST /users"


# --- the listener ----------------------------------------------------------------------------------------------------


class Noted(brakit_sidecar.Telemetry):
    """Notes each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def incr(self, field: str, n: int = 1) -> None:
        self.calls.append(("incr", field, n))

    def request(self, route: str, duration_ms: float | None = None) -> None:
        self.calls.append(("request", route, duration_ms))

    def set(self, **fields: Any) -> None:
        self.calls.append(("set", fields))

    def event(self, name: str, /, **fields: Any) -> None:
        self.calls.append(("event", name, fields))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [call[2] for call in self.calls if call[:2] == ("event", name)]

    def requests(self) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == "request"]


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def listener(integration: ModuleType, noted: Noted) -> Any:
    """Of an application that is set up."""
    listener = integration._Listener(noted, 20.0)
    listener.application_entered("flask", 1.5)
    return listener


def request(url: str = "/users/17", **more: Any) -> SimpleNamespace:
    """As brakit describes one that is complete."""
    said: dict[str, Any] = {"method": "GET", "url": url, "duration_ms": 12.5, "headers": {"Host": "localhost:8000"}}
    return SimpleNamespace(**{**said, "is_static": False, "is_health_check": False, **more})


def hear(listener: Any, data: Any, channel: str = "request:completed") -> None:
    listener.hear(channel, data, "brakit.frameworks.flask")


@pytest.mark.parametrize("kind", ["query", "fetch", "error"])
def test_each_query_fetch_and_error_is_counted(listener: Any, noted: Noted, kind: str) -> None:
    before = len(noted.calls)
    hear(listener, object(), f"telemetry:{kind}")
    assert noted.calls[before:] == [("incr", f"{kind}_count", 1)]


def test_a_request_is_its_route_and_its_duration(listener: Any, noted: Noted) -> None:
    hear(listener, request())
    assert noted.requests() == [("GET /users/:id", 12.5)]


@pytest.mark.parametrize(
    "left_out",
    [
        request("/app.css", is_static=True),
        request("/health", is_health_check=True),
        request("/__brakit/api/ingest", method="POST"),
    ],
    ids=lambda left_out: str(left_out.url),
)
def test_files_health_checks_and_brakits_own_requests_are_none(listener: Any, noted: Noted, left_out: Any) -> None:
    before = len(noted.calls)
    hear(listener, left_out)
    assert noted.calls[before:] == []


def test_a_path_that_only_looks_like_a_file_counts(listener: Any, noted: Noted) -> None:
    hear(listener, request("/app.css/edit"))
    assert noted.requests() == [("GET /app.css/edit", 12.5)]


@pytest.mark.parametrize("channel", ["telemetry:log", "request:started", ""])
def test_what_is_said_on_other_channels_is_left_out(listener: Any, noted: Noted, channel: str) -> None:
    before = len(noted.calls)
    hear(listener, object(), channel)
    assert noted.calls[before:] == []


def test_the_first_request_is_said_once(listener: Any, noted: Noted) -> None:
    for _ in range(3):
        hear(listener, request())
    assert len(noted.events("first_request")) == 1


def test_a_health_check_is_no_first_request(listener: Any, noted: Noted) -> None:
    hear(listener, request("/health", is_health_check=True))
    assert noted.events("first_request") == []


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"Host": "localhost:8000"}, {"port": 8000}),
        ({"host": "127.0.0.1:65535"}, {"port": 65535}),
        ({"Host": "[::1]:5000"}, {"port": 5000}),
        ({"Host": "[::1]"}, {}),
        ({"Host": "example.org"}, {}),
        ({"Host": "example.org:0"}, {}),
        ({"Host": "example.org:65536"}, {}),
        ({"Host": "example.org:http"}, {}),
        ({"Host": ""}, {}),
        ({}, {}),
    ],
)
def test_the_port_is_the_one_in_the_host_header_if_there_is_one(
    listener: Any, noted: Noted, headers: dict[str, str], fields: dict[str, int]
) -> None:
    hear(listener, request(headers=headers))
    assert noted.events("first_request") == [fields]


def test_the_setup_is_said_once_however_many_applications_there_are(listener: Any, noted: Noted) -> None:
    listener.application_entered("fastapi", 2.0)
    (said,) = noted.events("setup_completed")
    assert said["framework"] == "flask"


def test_the_setup_took_what_brakits_import_and_its_entrance_took(listener: Any, noted: Noted) -> None:
    (said,) = noted.events("setup_completed")
    assert said["setup_duration_ms"] == 21.5


def test_a_setup_that_was_over_before_has_no_duration(integration: ModuleType, noted: Noted) -> None:
    integration._Listener(noted, None).application_entered("flask", 1.5)
    (said,) = noted.events("setup_completed")
    assert "setup_duration_ms" not in said


def test_a_setup_succeeded_when_brakit_is_in_the_application(listener: Any, noted: Noted) -> None:
    assert ("set", {"setup_succeeded": True}) in noted.calls


def test_an_application_made_before_is_known_by_who_speaks_of_its_first_request(
    integration: ModuleType, noted: Noted
) -> None:
    integration._Listener(noted, 20.0).hear("request:completed", request(), "brakit.frameworks.fastapi")
    (said,) = noted.events("setup_completed")
    assert said["framework"] == "fastapi"


def test_nothing_but_the_route_and_the_duration_of_a_request_is_handed_on(listener: Any, noted: Noted) -> None:
    secret = "hunter2"
    hear(
        listener,
        request(
            f"/login?password={secret}",
            headers={"Host": "localhost:8000", "Cookie": secret},
            request_body=secret,
            response_body=secret,
        ),
    )
    assert secret not in repr(noted.calls)


# --- on brakit's bus -------------------------------------------------------------------------------------------------


class Bus:
    """As brakit's."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, object]] = []

    def emit(self, channel: str, data: object) -> None:
        self.emitted.append((channel, data))


@pytest.fixture
def bus(integration: ModuleType, listener: Any, monkeypatch: pytest.MonkeyPatch) -> Bus:
    bus_class = type("EventBus", (Bus,), {"emit": Bus.emit})
    monkeypatch.setitem(sys.modules, "brakit.core.event_bus", SimpleNamespace(EventBus=bus_class))
    integration._wrap_bus(listener)
    bus: Bus = bus_class()
    return bus


def test_what_is_counted_still_reaches_brakits_own_listeners(bus: Bus, noted: Noted) -> None:
    bus.emit("telemetry:query", 1)
    assert (noted.calls[-1], bus.emitted) == (("incr", "query_count", 1), [("telemetry:query", 1)])


def test_what_cannot_be_counted_still_reaches_brakits_own_listeners(bus: Bus) -> None:
    """Such as the objects of a brakit of another shape."""
    bus.emit("request:completed", None)
    assert bus.emitted == [("request:completed", None)]


# --- in processes of their own ---------------------------------------------------------------------------------------


IN_ORDER = {
    "the integration before brakit": "integrate(); import brakit; app = make_app()",
    "brakit before the integration": "import brakit; integrate(); app = make_app()",
    "the integration after the application was made": "import brakit; app = make_app(); integrate()",
}
_APPLICATION = """
import importlib

def integrate():
    importlib.import_module("brakit_sidecar.integrations.brakit")

def make_app():
    from flask import Flask
    app = Flask("shop")
    app.add_url_rule("/users/<user>", "user", lambda user: user)
    app.add_url_rule("/health", "health", lambda: "well")
    app.add_url_rule("/broken", "broken", lambda: 1 / 0)
    return app

{order}
client = app.test_client()
for path in ("/users/1", "/users/2", "/users/3", "/health", "/broken"):
    client.get(path, base_url="http://localhost:8000")
"""


@pytest.mark.parametrize("order", IN_ORDER.values(), ids=IN_ORDER)
def test_the_same_is_counted_in_whatever_order_things_are_imported(
    place: Place, endpoint: Endpoint, order: str
) -> None:
    ran = place.run("run", "--", sys.executable, "-c", _APPLICATION.format(order=order), BRAKIT_PORT="none")
    assert ran.returncode == 0, ran.stderr
    session = endpoint.only_session()
    fields = ("request_count", "error_count", "endpoint_count", "framework", "setup_succeeded")
    assert [session[field] for field in fields] == [4, 1, 2, "flask", True]
    assert [event["properties"]["port"] for event in endpoint.bodies_of("first_request")] == [8000]


def python(place: Place, code: str, **environ: str) -> None:
    ran = place.run_python(code, PYTHONPATH=REPOSITORY, BRAKIT_PORT="none", **environ)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_without_brakit_the_import_does_nothing(place: Place) -> None:
    python(place, _WITHOUT_BRAKIT)
    assert os.listdir(place.home) == os.listdir(place.runtime) == []


_WITHOUT_BRAKIT = """
import importlib.abc, sys, threading

class Blocking(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "brakit":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocking())
import brakit_sidecar.integrations.brakit
assert threading.active_count() == 1
"""


def test_a_brakit_of_another_shape_lets_the_application_be(place: Place) -> None:
    python(
        place,
        "import sys, types;"
        " sys.modules['brakit'] = types.ModuleType('brakit');"
        " sys.modules['brakit._telemetry'] = types.ModuleType('brakit._telemetry');"
        " import brakit_sidecar.integrations.brakit",
    )


def test_where_brakit_is_dormant_the_import_leaves_no_trace(place: Place) -> None:
    python(place, "import brakit_sidecar.integrations.brakit", CI="1")
    assert os.listdir(place.home) == os.listdir(place.runtime) == []


# --- brakit's own event at exit --------------------------------------------------------------------------------------


def tries_of_brakits_own(place: Place, code: str, **environ: str) -> int:
    """How often brakit's own telemetry tried to send, in a process that has the key which lets it."""
    place.start()  # else the process would start a daemon, which could outlive the place
    witness = os.path.join(place.root, "witness.jsonl")
    python(place, code, EVENT_RECORD_FILE=witness, POSTHOG_API_KEY="phc_the_users_own", **environ)
    if not os.path.exists(witness):
        return 0
    with open(witness, encoding="utf-8") as file:
        return [json.loads(line)["channel"] for line in file].count("brakit's own telemetry")


def test_brakit_alone_tries_to_send_its_own_event(place: Place) -> None:
    """So the witness would see it."""
    assert tries_of_brakits_own(place, "import brakit, tests.e2e.apps.event_recorder") == 1


@pytest.mark.parametrize(
    "order", ["brakit, brakit_sidecar.integrations.brakit", "brakit_sidecar.integrations.brakit, brakit"]
)
def test_with_the_integration_brakit_never_tries(place: Place, order: str) -> None:
    assert tries_of_brakits_own(place, f"import {order}, tests.e2e.apps.event_recorder") == 0


def test_with_the_integration_brakit_never_tries_where_the_config_opts_out(place: Place) -> None:
    """Which brakit itself does not read."""
    assert place.run("telemetry", "off").returncode == 0
    assert tries_of_brakits_own(place, "import brakit_sidecar.integrations.brakit, tests.e2e.apps.event_recorder") == 0
