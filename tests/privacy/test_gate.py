"""Tests of the gate alone. For any values, the gate's body is in the grammar, and holds only texts of the gate's own
tables.

These are plain functions without fixtures, because ``test_mutations`` calls each of them for each mutant of the gate.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid5

import orjson
import pytest
from brakit_sidecar.core import domains, payload
from brakit_sidecar.core.endpoint import is_plausible_key
from brakit_sidecar.core.schema import EVENTS, JOURNEY, SESSION, EventSpec

from tests.core import page
from tests.privacy.grammar import broken_grammar

AN_ID, A_UUID = "d15719c7-0000-4000-8000-00000000000a", "e7e47000-0000-4000-8000-00000000000b"
A_TIME = "2026-11-22T14:08:28.998Z"
KEY = "phc_key"
SECRET = "sk-live-4eC39HqLyjWDarjtT1zdp7dc"


class Text(str):
    """A producer's text that compares as equal to any other text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("flask")


HOSTILE: tuple[Any, ...] = (
    SECRET, "", "GET /users?token=" + SECRET, "/home/ada/app.py", "flask " + SECRET, Text(SECRET), "1.2.3.4.5" + SECRET,
    f"linux-{SECRET}", None, [], {}, [SECRET], [None], ["pg", 1], [["pg"]], ("pg",), {"pg": SECRET}, b"flask",
    -1, 2**53, 2**64, 10**400, 0.5, -0.5, 1e300, float("nan"), float("inf"), True, False, 1, 65_536, 86_400_001,
    "true", "unknown", "other", object, lambda: SECRET,
)  # fmt: skip

# A field, a reported value, and the value in the body.
ADMITTED: tuple[tuple[str, Any, Any], ...] = (
    ("framework", "flask", "flask"),
    ("framework", "Flask", "other"),
    ("framework", 1, "unknown"),
    ("package_manager", SECRET, "other"),
    ("exit_reason", "sigterm", "sigterm"),
    ("exit_reason", SECRET, "unknown"),
    ("arch", "x64", "x64"),
    ("arch", None, "other"),
    ("sdk", "node", "node"),
    ("sdk", SECRET, "unknown"),
    ("slowest_endpoint_bucket", ">5000ms", ">5000ms"),
    ("slowest_endpoint_bucket", SECRET, "none"),
    ("adapters_detected", ["prisma", "pg", "pg"], ["pg", "prisma"]),
    ("adapters_detected", ["pg", SECRET], ["other", "pg"]),
    ("adapters_detected", ["pg", 1], []),
    ("adapters_detected", "pg", []),
    ("is_custom_command", True, True),
    ("is_custom_command", 1, False),
    ("is_custom_command", SECRET, False),
    ("request_count", 0, 0),
    ("request_count", 2**53 - 1, 2**53 - 1),
    ("request_count", 2**53, 0),
    ("request_count", -1, 0),
    ("request_count", True, 0),
    ("request_count", 3.0, 0),
    ("session_duration_s", 7, 7),
    ("avg_duration_ms", 0, 0),
    ("avg_duration_ms", 2.5, 3),
    ("avg_duration_ms", 2.49, 2),
    ("avg_duration_ms", 0.49999999999999994, 0),
    ("avg_duration_ms", 86_400_000, 86_400_000),
    ("avg_duration_ms", 86_400_000.5, 0),
    ("avg_duration_ms", 86_400_001, 0),
    ("avg_duration_ms", -0.5, 0),
    ("avg_duration_ms", True, 0),
    ("avg_duration_ms", "7", 0),
    ("time_to_dashboard_ms", 7, 7),
    ("time_to_dashboard_ms", 0, 0),
    ("time_to_dashboard_ms", 0.4, 0),
    ("time_to_dashboard_ms", SECRET, None),
    ("brakit_version", "0.1.7", "0.1.7"),
    ("brakit_version", "v00.010.7-" + SECRET, "0.10.7"),
    ("brakit_version", "99.99.99", "99.99.99"),
    ("brakit_version", "100.1.1", "unknown"),
    ("brakit_version", "1.100.1", "unknown"),
    ("brakit_version", "1.1.100", "unknown"),
    ("brakit_version", "10.0.0.7", "unknown"),
    ("brakit_version", SECRET + " 1.2.3", "unknown"),
    ("brakit_version", "1a2b3", "unknown"),
    ("brakit_version", "/home/ada/1.2.3", "unknown"),
    ("brakit_version", "1.2.3.dev4", "1.2.3"),
    ("brakit_version", "1.2b3", "unknown"),
    ("brakit_version", "٣.٣.٣", "unknown"),
    ("brakit_version", 1, "unknown"),
    ("node_version", "20.11.0", "v20.11.0"),
    ("node_version", SECRET, None),
    ("python_version", "3.13.0rc1", "3.13.0"),
    ("os", "linux-6.18.44-" + SECRET, "linux-6.18.44"),
    ("os", "linux-06.018", "linux-6.18.0"),
    ("os", "linux-5.15.167.4", "linux-5.15.167"),
    ("os", "linux-" + SECRET + "6.1.2", "linux-0.0.0"),
    ("os", "linux-4.9.337", "linux-4.9.337"),
    ("os", "linux-1234.7", "linux-0.7.0"),
    ("os", "linux-123456.7", "linux-0.7.0"),
    ("os", "linux-6..1", "linux-6.1.0"),
    ("os", "linux-6.1x2.3", "linux-6.1.0"),
    ("os", "linux", "linux-0.0.0"),
    ("os", SECRET, "other-0.0.0"),
    ("os", 6, "other-0.0.0"),
)
PORTS = ((1, 1), (65_535, 65_535), (0, 0), (65_536, 0), (SECRET, 0))


def default_values(event: EventSpec) -> dict[str, Any]:
    return {name: promise.default for name, promise in page.EVENTS[event.name].items()}


def body(event: EventSpec, values: dict[str, Any], **envelope: str) -> bytes:
    valid = {"api_key": KEY, "distinct_id": AN_ID, "uuid": A_UUID, "timestamp": A_TIME}
    return payload.body(event, values, **{**valid, **envelope})


def rebuilt(event: EventSpec, frozen: bytes, **envelope: str) -> bytes | None:
    valid = {"api_key": KEY, "distinct_id": AN_ID, "uuid": A_UUID}
    return payload.rebuild(event.name, frozen, **{**valid, **envelope})


def test_each_value_becomes_a_value_of_its_domain() -> None:
    for name, raw, admitted in ADMITTED:
        found = payload.admitted(SESSION, {**default_values(SESSION), name: raw})[name]
        assert (type(found), found) == (type(admitted), admitted), (name, raw)
    for raw, admitted in PORTS:
        assert payload.admitted(JOURNEY["first_request"], {**default_values(JOURNEY["first_request"]), "port": raw})[
            "port"
        ] == (admitted)


def test_the_bounds_are_the_bounds_in_the_documentation() -> None:
    assert (domains.COUNT.admit(0), domains.SECONDS.admit(0), domains.PORT.admit(0)) == (0, 0, None)
    assert domains.COUNT.text == "count, 0 to 9007199254740991"
    assert domains.SECONDS.text == "whole seconds, 0 to 9007199254740991"
    assert domains.PORT.text == "port, 1 to 65535"
    assert domains.BUCKET.text == "one of " + page.VOCABULARY["slowest_endpoint_bucket"].replace(" ", ", ")


def test_each_default_value_is_the_default_value_of_the_page() -> None:
    for event in EVENTS.values():
        assert payload.admitted(event, dict.fromkeys(event.fields)) == default_values(event)


def test_for_any_value_the_body_is_in_the_grammar_and_holds_no_producers_text() -> None:
    for event in EVENTS.values():
        for raw in HOSTILE:
            made = body(event, dict.fromkeys(event.fields, raw))
            assert broken_grammar(made) == {}, (event.name, raw)
            assert SECRET.encode() not in made


def test_a_text_that_equals_any_other_text_becomes_the_tables_own_text() -> None:
    found = payload.admitted(SESSION, {**default_values(SESSION), "framework": Text(SECRET)})["framework"]
    assert type(found) is str
    assert found == "flask"


def test_a_value_for_a_field_that_the_event_does_not_have_is_dropped() -> None:
    for event in EVENTS.values():
        more = {**default_values(event), "route": SECRET, "$ip": SECRET, SECRET: 1}
        assert body(event, more) == body(event, default_values(event))


def test_an_admitted_value_is_admitted_unchanged() -> None:
    for event in EVENTS.values():
        for raw in HOSTILE:
            once = payload.admitted(event, dict.fromkeys(event.fields, raw))
            assert payload.admitted(event, once) == once


def test_an_id_or_timestamp_in_a_wrong_form_raises_an_error() -> None:
    for wrong in ("", SECRET, AN_ID.upper(), AN_ID + "\n", " " + AN_ID, AN_ID + SECRET, AN_ID.replace("-", "")):
        for name in ("distinct_id", "uuid"):
            with pytest.raises(payload.InadmissibleError):
                body(SESSION, default_values(SESSION), **{name: wrong})
    for wrong in ("", SECRET, A_TIME + SECRET, A_TIME[:-1], "٢" + A_TIME[1:], A_TIME.replace(".", "x"), A_TIME + "\n"):
        with pytest.raises(payload.InadmissibleError):
            body(SESSION, default_values(SESSION), timestamp=wrong)


def test_an_invalid_key_is_left_out() -> None:
    for key, expected in (
        (KEY, KEY), ("p", "p"), ("p" * 64, "p" * 64), ("p" * 65, ""), ("", ""), ("phx_personal", ""), ("ключ", ""),
        ("a\nb", ""), ("PHX_", "PHX_"),
    ):  # fmt: skip
        assert json.loads(body(SESSION, default_values(SESSION), api_key=key))["api_key"] == expected
        assert is_plausible_key(key) == bool(expected)


def test_an_events_uuid_is_derived_from_the_session_and_the_event() -> None:
    assert payload.event_uuid(AN_ID, SESSION) == str(uuid5(UUID(AN_ID), "session"))


def test_a_frozen_body_is_rebuilt_byte_for_byte() -> None:
    for event in EVENTS.values():
        made = body(event, default_values(event))
        assert rebuilt(event, made) == made
        assert rebuilt(event, body(event, default_values(event), api_key="")) == made  # frozen without a key


def test_a_frozen_body_is_rebuilt_with_the_current_key() -> None:
    made = body(SESSION, default_values(SESSION))
    assert rebuilt(SESSION, made, api_key="phc_new") == body(SESSION, default_values(SESSION), api_key="phc_new")
    assert rebuilt(SESSION, made, api_key="") == body(SESSION, default_values(SESSION), api_key="")


def test_a_changed_body_is_not_rebuilt() -> None:
    made = body(SESSION, default_values(SESSION))
    content = json.loads(made)
    for changed in (
        {**content, "event": SECRET},
        {**content, "event": "cli_invoked"},
        {**content, "uuid": AN_ID},
        {**content, "distinct_id": A_UUID},
        {**content, "timestamp": SECRET},
        {**content, "timestamp": 7},
        {**content, "api_key": "phx_" + SECRET},
        {**content, "api_key": 7},
        {**content, SECRET: 1},
        {**content, "properties": {**content["properties"], "framework": SECRET}},
        {**content, "properties": {**content["properties"], "request_count": -1}},
        {**content, "properties": {**content["properties"], "$ip": "203.0.113.7"}},
        {**content, "properties": {**content["properties"], "route": SECRET}},
        {**content, "properties": {"framework": SECRET}},
        {**content, "properties": SECRET},
        {**content, "properties": None},
        [content],
        SECRET,
        None,
    ):
        assert rebuilt(SESSION, orjson.dumps(changed)) is None, changed
    for broken in (b"", made[:-1], made + b" ", b" " + made, made + made, made.replace(b":", b": ", 1), b"\xff" + made):
        assert rebuilt(SESSION, broken) is None
    doubled = made.replace(b'{"api_key"', b'{"api_key":"' + SECRET.encode() + b'","api_key"', 1)
    assert rebuilt(SESSION, doubled) is None
    assert rebuilt(JOURNEY["cli_invoked"], made) is None
    assert payload.rebuild(SECRET, made, api_key=KEY, distinct_id=AN_ID, uuid=A_UUID) is None
