"""The endpoints that are accepted."""

from __future__ import annotations

import pytest
from brakit_sidecar.core.destination import DEFAULT_ENDPOINT, Destination
from brakit_sidecar.core.endpoint import describe, is_acceptable_endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        DEFAULT_ENDPOINT,
        "https://telemetry.example/capture",
        "https://telemetry.example:8443",
        "http://localhost:8000",
        "http://127.0.0.1:8000",
        "http://127.8.9.10",
        "http://[::1]:8000",
    ],
)
def test_https_and_loopback_are_accepted(endpoint: str) -> None:
    assert is_acceptable_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "https://",
        "telemetry.example",
        "http://telemetry.example",
        "http://192.168.0.1",
        "http://localhost.telemetry.example",
        "ftp://127.0.0.1",
        "https://telemetry.example:0",
        "https://telemetry.example:65536",
        "https://telemetry.example:port",
        "https://[::1",
        "https://telemetry.example/?key=value",
        "https://telemetry.example/#part",
        "https://user@telemetry.example",
        "https://:password@telemetry.example",
    ],
)
def test_other_endpoints_are_refused(endpoint: str) -> None:
    assert not is_acceptable_endpoint(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "key", "description"),
    [
        ("", "", "none: no project key"),
        ("https://a.example", "", "none: no project key"),
        ("http://a.example", "phc_1", "none: the endpoint is not valid"),
        ("", "phx_personal", "none: the project key is not valid"),
        ("", "phc_1", f"{DEFAULT_ENDPOINT}, project key phc_1"),
        ("https://a.example/", "phc_0123456789", "https://a.example, project key phc_01234567..."),
    ],
)
def test_a_destination_is_described_for_a_person(endpoint: str, key: str, description: str) -> None:
    environ = {"BRAKIT_TELEMETRY_ENDPOINT": endpoint, "BRAKIT_TELEMETRY_KEY": key}
    assert describe(Destination(environ)) == description
