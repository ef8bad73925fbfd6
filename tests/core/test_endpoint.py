"""The endpoints that are accepted."""

from __future__ import annotations

import pytest
from brakit_sidecar.core.endpoint import DEFAULT_ENDPOINT, is_acceptable_endpoint


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
