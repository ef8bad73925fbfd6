from __future__ import annotations

import json
from uuid import UUID, uuid5

import pytest
from brakit_sidecar.core import payload
from brakit_sidecar.core.schema import EVENTS, JOURNEY, SESSION, EventSpec

from tests.core import page

SESSION_ID = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01"
each_event = pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: event.name)


def neutral(event: EventSpec) -> dict[str, object]:
    return {name: promise.default for name, promise in page.EVENTS[event.name].items()}


AROUND = {
    "api_key": "phc_key",
    "distinct_id": "d15719c7-0000-4000-8000-000000000001",
    "uuid": "e7e47000-0000-4000-8000-000000000002",
    "timestamp": "2026-11-22T14:08:28.998Z",
}


def body(event: EventSpec, values: dict[str, object], **around: str) -> bytes:
    return payload.body(event, values, **{**AROUND, **around})


def rebuilt(frozen: bytes, **around: str) -> bytes | None:
    """Rebuild a stored body, in a daemon whose current key and ids are ``around``. The body's own timestamp is used."""
    now = {**AROUND, **around}
    return payload.rebuild("session", frozen, api_key=now["api_key"], distinct_id=now["distinct_id"], uuid=now["uuid"])


def test_the_body_of_cli_invoked_has_exactly_these_bytes() -> None:
    values = {"command": "install", "has_package_json": True, "sdk": "node", "os": "linux-6.18.44", "arch": "x64"}
    assert body(JOURNEY["cli_invoked"], neutral(JOURNEY["cli_invoked"]) | values) == (
        b'{"api_key":"phc_key","event":"cli_invoked","distinct_id":"d15719c7-0000-4000-8000-000000000001",'
        b'"uuid":"e7e47000-0000-4000-8000-000000000002","timestamp":"2026-11-22T14:08:28.998Z",'
        b'"properties":{"brakit_version":"unknown","node_version":null,"python_version":null,"os":"linux-6.18.44",'
        b'"arch":"x64","sdk":"node","command":"install","has_package_json":true,"cwd_has_node_modules":false,'
        b'"$lib":"brakit","$process_person_profile":false,"$geoip_disable":true,"$ip":"0.0.0.0"}}'
    )


@each_event
def test_the_properties_are_the_fields_in_schema_order_and_the_four_fixed_properties(event: EventSpec) -> None:
    properties = json.loads(body(event, neutral(event)))["properties"]
    assert [*properties] == [*event.fields, *page.FIXED]
    assert properties == neutral(event) | page.FIXED


@each_event
def test_a_value_for_a_field_that_the_event_does_not_have_is_not_in_the_body(event: EventSpec) -> None:
    assert body(event, neutral(event) | {"route": "GET /users", "$ip": "192.0.2.7"}) == body(event, neutral(event))


@each_event
@pytest.mark.parametrize("field", page.COMMON)
def test_a_missing_field_raises_key_error(event: EventSpec, field: str) -> None:
    values = neutral(event)
    del values[field]
    with pytest.raises(KeyError):
        body(event, values)


def test_the_uuid_of_a_once_only_event_depends_only_on_session_and_event() -> None:
    assert payload.event_uuid(SESSION_ID, SESSION) == str(uuid5(UUID(SESSION_ID), "session"))


def test_two_events_of_a_session_have_different_uuids() -> None:
    assert len({payload.event_uuid(SESSION_ID, event) for event in EVENTS.values()}) == len(EVENTS)


def test_the_same_event_of_two_sessions_has_different_uuids() -> None:
    assert payload.event_uuid(SESSION_ID.replace("2", "3"), SESSION) != payload.event_uuid(SESSION_ID, SESSION)


@pytest.mark.parametrize("around", ["distinct_id", "uuid", "timestamp"])
def test_an_id_or_timestamp_without_its_shape_raises(around: str) -> None:
    with pytest.raises(payload.InadmissibleError):
        body(SESSION, neutral(SESSION), **{around: "GET /users"})


def test_a_stored_body_is_rebuilt_with_the_current_key() -> None:
    frozen = body(SESSION, neutral(SESSION))
    assert rebuilt(frozen) == frozen
    assert rebuilt(frozen, api_key="phc_new") == body(SESSION, neutral(SESSION), api_key="phc_new")


@pytest.mark.parametrize("stored", [b"", b"[]", b'{"properties":{}}'])
def test_stored_bytes_that_are_not_a_body_are_not_rebuilt(stored: bytes) -> None:
    assert rebuilt(stored) is None


def test_the_stored_body_of_another_session_is_not_rebuilt() -> None:
    assert rebuilt(body(SESSION, neutral(SESSION), uuid=payload.event_uuid(SESSION_ID, SESSION))) is None
