from __future__ import annotations

import json
from typing import Any

import pytest
from brakit_sidecar.core import limits
from brakit_sidecar.core.counter_layout import NOT_BELIEVED
from brakit_sidecar.core.destination import NOWHERE
from brakit_sidecar.core.frames import PARTS, UNKNOWN_DESTINATION, Frame, Hello, Occurred, parse
from brakit_sidecar.core.refusal import Refusal
from brakit_sidecar.core.schema import JOURNEY, SESSION_FIELDS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import page
from tests.core.strategies import lines

SESSION = "2f1c9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01"
PRODUCER = "3e4d5c6b-7a89-4b0c-8d1e-2f3a4b5c6d7e"
ROUTE = "9f3a61c2d4e5b607"
HELLO = {"protocol": 1, "session": SESSION, "producer": PRODUCER, "sdk": "python", "role": "worker"}

EMPTY: dict[str, Any] = {name: getattr(Frame(), name) for name in Frame.__slots__}


def parts_of(frame: Frame) -> dict[str, Any]:
    """Return the parts of a frame that are not empty, by name."""
    parts = {name: getattr(frame, name) for name in Frame.__slots__}
    return {name: part for name, part in parts.items() if part != EMPTY[name]}


def parsed(**keys: Any) -> dict[str, Any]:
    return parts_of(parse(json.dumps(keys).encode()))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in HELLO.items() if key != name}


# --- lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"not json",
        b"{'a': 1}",
        b"\xff",
        b'{"ask": NaN}',
        b"\xef\xbb\xbf{}",
        b'"\\ud800"',
        b"[" * 5000,
        b"{}{}",
    ],
    ids=repr,
)
def test_a_line_that_is_not_json_is_refused_once(line: bytes) -> None:
    assert parts_of(parse(line)) == {"refused": [Refusal.BAD_JSON]}


@pytest.mark.parametrize("line", [b"null", b"1", b"[]", b'"hello"', b"true", b'[{"incr":{"request_count":1}}]'])
def test_json_that_is_not_an_object_is_refused_once(line: bytes) -> None:
    assert parts_of(parse(line)) == {"refused": [Refusal.NOT_AN_OBJECT]}


@pytest.mark.parametrize(
    "line", [b"{}", b" {} \r", b'{"incr":{},"set":{},"observe":{}}', b'{"add":{"insight_types":[]}}']
)
def test_a_line_may_be_empty(line: bytes) -> None:
    assert parts_of(parse(line)) == {}


def test_an_unknown_key_is_refused_and_the_rest_of_the_line_applies() -> None:
    assert parsed(colour="red", incr={"request_count": 1}, more=[]) == {
        "increments": [("request_count", 1)],
        "refused": [Refusal.UNKNOWN_KEY, Refusal.UNKNOWN_KEY],
    }


@pytest.mark.parametrize("key", sorted(PARTS.keys() - {"hello", "ask"}))
@pytest.mark.parametrize("value", [None, 1, "request_count", ["request_count"], True])
def test_a_part_that_is_not_an_object_is_refused_once_as_a_bad_value(key: str, value: object) -> None:
    assert parsed(**{key: value}) == {"refused": [Refusal.BAD_VALUE]}


@pytest.mark.parametrize("key", ["incr", "total", "set", "add", "mark"])
def test_each_field_that_does_not_exist_is_refused(key: str) -> None:
    frame = parsed(**{key: {"password": "hunter2", "port": 8000}})
    assert frame == {"refused": [Refusal.UNKNOWN_FIELD, Refusal.UNKNOWN_FIELD]}


RULES_BY_KEY = {
    "incr": {"sum", "distinct"},
    "total": {"sum", "distinct"},
    "set": {"first", "max", "min", "any", "all"},
    "add": {"union"},
    "mark": {"distinct"},
}


@pytest.mark.parametrize("key", RULES_BY_KEY)
@pytest.mark.parametrize("field", page.SESSION)
def test_a_field_may_be_reported_only_under_the_keys_of_its_rule(key: str, field: str) -> None:
    refused = parsed(**{key: {field: None}})["refused"]
    assert refused == [Refusal.BAD_VALUE if page.SESSION[field].rule in RULES_BY_KEY[key] else Refusal.WRONG_KEY]


@pytest.mark.parametrize(
    ("keys", "needs_a_session"),
    [
        ({"incr": {"request_count": 1}}, True),
        ({"total": {"request_count": 1}}, True),
        ({"set": {"framework": "flask"}}, True),
        ({"add": {"insight_types": ["n1"]}}, True),
        ({"mark": {"insight_count": [ROUTE]}}, True),
        ({"observe": {ROUTE: [1]}}, True),
        ({"histogram": {ROUTE: [1, 1, 0, 0, 0, 0, 0]}}, True),
        ({"end": {"exit_reason": "clean"}}, True),
        ({"event": {"name": "cli_invoked"}, "ask": "status", "hello": {"protocol": 1}}, False),
        ({"incr": {"password": 1}}, False),
        ({}, False),
    ],
)
def test_a_frame_with_a_part_for_a_session_needs_a_session(keys: dict[str, Any], needs_a_session: bool) -> None:
    assert parse(json.dumps(keys).encode()).needs_a_session is needs_a_session


@pytest.mark.parametrize(
    ("line", "only"),
    [
        (b'{"incr":{"request_count":1}}', True),
        (b'{"incr":{"request_count":1,"insight_count":2}}', True),
        (b'{"incr":{}}', False),
        (b'{"incr":{"request_count":0,"query_count":1}}', False),
        (b'{"incr":{"request_count":1},"colour":"red"}', False),
        (b'{"incr":{"request_count":1},"total":{"request_count":1}}', False),
        (b'{"incr":{"request_count":1},"set":{"framework":"flask"}}', False),
        (b'{"incr":{"request_count":1},"add":{"insight_types":["n1"]}}', False),
        (b'{"incr":{"request_count":1},"mark":{"insight_count":["9f3a61c2d4e5b607"]}}', False),
        (b'{"incr":{"request_count":1},"observe":{"9f3a61c2d4e5b607":[1]}}', False),
        (b'{"incr":{"request_count":1},"histogram":{"9f3a61c2d4e5b607":[1,1,0,0,0,0,0]}}', False),
        (b'{"incr":{"request_count":1},"event":{"name":"cli_invoked"}}', False),
        (b'{"incr":{"request_count":1},"hello":{"protocol":1}}', False),
        (b'{"incr":{"request_count":1},"end":{}}', False),
        (b'{"incr":{"request_count":1},"ask":null}', False),
    ],
)
def test_only_increments_is_true_if_the_line_has_increments_and_nothing_else(line: bytes, only: bool) -> None:
    assert parse(line).only_increments is only


# --- hello --------------------------------------------------------------------------------------------------


def test_a_hello_names_the_session_the_producer_its_sdk_and_its_role() -> None:
    assert parsed(hello=HELLO) == {"hello": Hello(SESSION, None, PRODUCER, "python", is_owner=False)}


def test_a_hello_may_name_a_process_group_instead_of_a_session() -> None:
    hello = {**without("session"), "group": SESSION}
    assert parsed(hello=hello) == {"hello": Hello(None, SESSION, PRODUCER, "python", is_owner=False)}


def test_a_hello_without_session_or_group_needs_no_producer() -> None:
    assert parsed(hello={"protocol": 1}) == {"hello": Hello(None, None, None, "unknown", is_owner=False)}


def test_a_null_id_in_a_hello_is_treated_as_a_missing_id() -> None:
    hello = {"protocol": 1, "session": None, "group": None, "producer": None}
    assert parsed(hello=hello) == {"hello": Hello(None, None, None, "unknown", is_owner=False)}


def test_the_role_in_a_hello_is_worker_unless_owner_is_given() -> None:
    assert parse(json.dumps({"hello": {**HELLO, "role": "owner"}}).encode()).hello == Hello(
        SESSION, None, PRODUCER, "python", is_owner=True
    )
    assert parsed(hello=without("role")) == parsed(hello=HELLO)


@pytest.mark.parametrize("digest", [NOWHERE, "0123456789abcdef"])
def test_a_hello_may_name_the_destination_of_the_producers_environment(digest: str) -> None:
    hello = Hello(SESSION, None, PRODUCER, "python", is_owner=False, destination=digest)
    assert parsed(hello={**HELLO, "destination": digest}) == {"hello": hello}


@pytest.mark.parametrize("digest", ["", "None", "0123456789ABCDEF", "0" * 15, 7, False, [NOWHERE], "https://a.example"])
def test_a_destination_that_is_no_digest_is_refused_and_is_nowhere_the_daemon_sends(digest: object) -> None:
    frame = parse(json.dumps({"hello": {**HELLO, "destination": digest}}).encode())
    assert frame.refused == [Refusal.BAD_VALUE]
    assert frame.hello is not None
    assert frame.hello.destination == UNKNOWN_DESTINATION


def test_a_hello_may_have_the_stamp_of_the_config() -> None:
    hello = Hello(SESSION, None, PRODUCER, "python", is_owner=False, stamp=0x18A2)
    assert parsed(hello={**HELLO, "config": "00000000000018a2"}) == {"hello": hello}


@pytest.mark.parametrize("stamp", ["", 7, "18a2", "0x000000000018a2", ["00000000000018a2"]])
def test_a_stamp_that_is_not_16_hex_digits_is_refused_and_is_none_of_the_config(stamp: object) -> None:
    frame = parse(json.dumps({"hello": {**HELLO, "config": stamp}}).encode())
    assert frame.refused == [Refusal.BAD_VALUE]
    assert frame.hello is not None
    assert frame.hello.stamp == NOT_BELIEVED  # so that nothing is sent


def test_ids_in_a_hello_are_case_insensitive() -> None:
    upper_case = {**HELLO, "session": SESSION.upper(), "producer": PRODUCER.upper()}
    assert parsed(hello=upper_case) == parsed(hello=HELLO)


@pytest.mark.parametrize(
    "hello",
    [
        None,
        [],
        "hello",
        {},
        without("protocol"),
        {**HELLO, "protocol": 2},
        {**HELLO, "protocol": "1"},
        {**HELLO, "protocol": 1.0},
        {**HELLO, "protocol": True},
        {**HELLO, "session": "7"},
        {**HELLO, "session": 7},
        {**HELLO, "session": SESSION + "0"},
        {**HELLO, "session": SESSION + "\n"},
        {**HELLO, "session": SESSION.replace("-", "")},
        {**HELLO, "session": SESSION.replace("2", "g")},
        {**HELLO, "producer": ""},
        {**HELLO, "producer": None},
        {**HELLO, "group": "my-group"},
        without("producer"),
        {"protocol": 1, "group": SESSION},
        {"protocol": 1, "producer": "me"},
    ],
    ids=json.dumps,
)
def test_a_mistake_in_the_protocol_or_an_id_refuses_the_whole_hello(hello: object) -> None:
    assert parsed(hello=hello) == {"refused": [Refusal.BAD_HELLO]}


@pytest.mark.parametrize(
    "mistake", [{"sdk": 3}, {"sdk": None}, {"sdk": ["python"]}, {"role": "boss"}, {"role": ["owner"]}], ids=json.dumps
)
def test_a_mistake_in_the_sdk_or_the_role_does_not_refuse_the_hello(mistake: dict[str, Any]) -> None:
    frame = parsed(hello={**HELLO, **mistake})
    sdk = "unknown" if "sdk" in mistake else "python"
    assert frame == {"hello": Hello(SESSION, None, PRODUCER, sdk, is_owner=False), "refused": [Refusal.BAD_VALUE]}


def test_an_sdk_outside_the_vocabulary_becomes_unknown_without_a_refusal() -> None:
    assert parsed(hello={**HELLO, "sdk": "cobol"}) == {
        "hello": Hello(SESSION, None, PRODUCER, "unknown", is_owner=False)
    }


@pytest.mark.parametrize(
    ("raw", "counter_file"), [(1, 1), (2, 2), (None, None), ("1", None), (True, None), (1.0, None)]
)
def test_a_hello_has_the_layout_version_of_its_counter_file(raw: object, counter_file: int | None) -> None:
    hello = parse(json.dumps({"hello": {**HELLO, "counter_file": raw}}).encode()).hello
    assert hello == Hello(SESSION, None, PRODUCER, "python", is_owner=False, counter_file=counter_file)


# --- counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "part"), [("incr", "increments"), ("total", "totals")])
def test_counts_keep_the_order_of_the_line(key: str, part: str) -> None:
    counts = {"request_count": 3, "insight_count": page.COUNT_MAX, "query_count": 1}
    assert parsed(**{key: counts}) == {part: [*counts.items()]}


@pytest.mark.parametrize("key", ["incr", "total"])
@pytest.mark.parametrize("count", [0, -1, page.COUNT_MAX + 1, 2**64, 1.0, 1.5, True, "1", None, [1]])
def test_a_value_that_is_not_a_count_is_refused_and_its_neighbour_applies(key: str, count: object) -> None:
    frame = parsed(**{key: {"error_count": count, "request_count": 2}})
    assert frame.pop("refused") == [Refusal.BAD_VALUE]
    assert [*frame.values()] == [[("request_count", 2)]]


# --- set, add, mark -----------------------------------------------------------------------------------------


def test_the_key_set_admits_each_value_by_the_domain_of_its_field() -> None:
    assert parsed(
        set={
            "framework": "cobol-on-cogs",
            "node_version": "20.11.0-ada",
            "setup_duration_ms": 4.5,
            "explain_used": True,
        }
    ) == {
        "scalars": [
            ("framework", "other"),
            ("node_version", "v20.11.0"),
            ("setup_duration_ms", 5),
            ("explain_used", True),
        ]
    }


def test_a_scalar_outside_its_domain_is_refused_and_its_neighbour_applies() -> None:
    assert parsed(set={"brakit_version": "newest", "explain_used": 1, "framework": "flask"}) == {
        "scalars": [("framework", "flask")],
        "refused": [Refusal.BAD_VALUE, Refusal.BAD_VALUE],
    }


def test_the_key_add_keeps_the_good_members_and_refuses_each_wrong_member() -> None:
    assert parsed(add={"insight_types": ["n1", 7, "new-kind", None], "tabs_viewed": "logs"}) == {
        "members": [("insight_types", "n1"), ("insight_types", "other")],
        "refused": [Refusal.BAD_VALUE] * 3,
    }


def test_the_key_mark_keeps_the_opaque_ids_and_refuses_every_other_mark() -> None:
    assert parsed(
        mark={"insight_count": [ROUTE, "GET /users", ROUTE.upper(), 7, ROUTE + "0"], "finding_count": ROUTE}
    ) == {
        "marks": [("insight_count", ROUTE)],
        "refused": [*[Refusal.BAD_ID] * 4, Refusal.BAD_VALUE],
    }


# --- observe, histogram -------------------------------------------------------------------------------------


def test_the_key_observe_holds_the_durations_of_each_opaque_route() -> None:
    assert parsed(observe={ROUTE: [12.5, 3, 0, 86_400_000]}) == {
        "durations": [(ROUTE, 12.5), (ROUTE, 3), (ROUTE, 0), (ROUTE, 86_400_000)]
    }


@pytest.mark.parametrize("key", ["observe", "histogram"])
@pytest.mark.parametrize("route", ["GET /users", "", ROUTE[:-1], ROUTE.upper(), ROUTE + "\n"])
def test_a_route_that_is_not_opaque_is_refused_with_all_its_values(key: str, route: str) -> None:
    assert parsed(**{key: {route: [1, 1, 0, 0, 0, 0, 0]}}) == {"refused": [Refusal.BAD_ID]}


def test_the_overflow_row_is_accepted_in_histogram_and_refused_in_observe() -> None:
    row = [7, 1, 0, 0, 0, 0, 0]
    assert parsed(histogram={limits.OVERFLOW_ROUTE: row}) == {"rows": [(limits.OVERFLOW_ROUTE, (*row,))]}
    assert parsed(observe={limits.OVERFLOW_ROUTE: [7]}) == {"refused": [Refusal.BAD_ID]}


def test_the_key_observe_keeps_the_good_durations_and_refuses_each_wrong_duration() -> None:
    assert parsed(observe={ROUTE: [-1, 1, "2", True, 86_400_001, None], "0" * 16: 5}) == {
        "durations": [(ROUTE, 1)],
        "refused": [Refusal.BAD_VALUE] * 6,
    }


def test_the_key_histogram_holds_the_running_row_of_a_route() -> None:
    assert parsed(histogram={ROUTE: [7, 1, 0, 0, 0, 0, limits.NS_MAX]}) == {
        "rows": [(ROUTE, (7, 1, 0, 0, 0, 0, limits.NS_MAX))]
    }


@pytest.mark.parametrize(
    "row",
    [[], [1] * 6, [1] * 8, [1, 1, 1, 1, 1, 1, -1], [1.0] * 7, [True] * 7, [2**63] * 7, "1111111", None, {}],
    ids=repr,
)
def test_a_row_of_another_shape_is_refused_and_its_neighbour_applies(row: object) -> None:
    assert parsed(histogram={ROUTE: row, "0" * 16: [0] * 7}) == {
        "rows": [("0" * 16, (0,) * 7)],
        "refused": [Refusal.BAD_VALUE],
    }


# --- event --------------------------------------------------------------------------------------------------


def test_an_event_has_its_own_fields_and_the_common_fields() -> None:
    fields = {"port": 8000, "time_to_first_request_ms": 2.5, "python_version": "3.12.1+", "sdk": "python"}
    assert parsed(event={"name": "first_request", **fields}) == {
        "events": [
            Occurred(
                JOURNEY["first_request"],
                {"port": 8000, "time_to_first_request_ms": 3, "python_version": "3.12.1", "sdk": "python"},
            )
        ]
    }


@pytest.mark.parametrize("name", ["session", "pageview", "", None, 7, ["first_request"], {"a": 1}])
def test_an_event_that_is_not_a_journey_event_is_refused(name: object) -> None:
    assert parsed(event={"name": name, "port": 8000}) == {"refused": [Refusal.UNKNOWN_EVENT]}
    assert parsed(event={"port": 8000}) == {"refused": [Refusal.UNKNOWN_EVENT]}


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"framework": "flask"}, Refusal.UNKNOWN_FIELD),
        ({"cwd": "/home/ada"}, Refusal.UNKNOWN_FIELD),
        ({"os": "linux-6.1.0"}, Refusal.WRONG_KEY),
        ({"arch": "x64"}, Refusal.WRONG_KEY),
        ({"port": 0}, Refusal.BAD_VALUE),
        ({"port": None}, Refusal.BAD_VALUE),
        ({"time_to_first_request_ms": -1}, Refusal.BAD_VALUE),
    ],
    ids=json.dumps,
)
def test_only_the_wrong_field_of_an_event_is_refused(wrong: dict[str, Any], refusal: Refusal) -> None:
    assert parsed(event={"name": "first_request", "brakit_version": "0.1.7", **wrong}) == {
        "events": [Occurred(JOURNEY["first_request"], {"brakit_version": "0.1.7"})],
        "refused": [refusal],
    }


def test_a_null_in_a_nullable_field_is_treated_as_not_reported() -> None:
    assert parsed(event={"name": "first_request", "node_version": None, "time_to_first_request_ms": None}) == {
        "events": [Occurred(JOURNEY["first_request"], {})]
    }


# --- end, ask -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "end"),
    [({"exit_reason": reason}, reason) for reason in page.VOCABULARY["exit_reason"].split()]
    + [({}, "unknown"), ({"exit_reason": "tired"}, "unknown")],
    ids=json.dumps,
)
def test_an_exit_reason_outside_the_vocabulary_becomes_unknown(value: dict[str, Any], end: str) -> None:
    assert parsed(end=value) == {"end": end}


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ({"exit_reason": 9}, Refusal.BAD_VALUE),
        ({"exit_reason": None}, Refusal.BAD_VALUE),
        ({"code": 9}, Refusal.UNKNOWN_FIELD),
    ],
    ids=json.dumps,
)
def test_an_end_with_a_wrong_part_is_an_end_for_an_unknown_reason(value: dict[str, Any], refusal: Refusal) -> None:
    assert parsed(end=value) == {"end": "unknown", "refused": [refusal]}


@pytest.mark.parametrize("question", ["status", {"what": "log"}, 7, False, []])
def test_a_question_is_passed_on_unchanged(question: object) -> None:
    assert parsed(ask=question) == {"ask": question}


def test_a_null_question_becomes_an_empty_question_so_that_it_is_answered() -> None:
    assert parsed(ask=None) == {"ask": {}}


# --- arbitrary lines ----------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(lines)
def test_every_part_of_a_frame_has_only_values_that_the_page_allows(line: bytes) -> None:
    frame = parse(line)
    for name, count in (*frame.increments, *frame.totals):
        assert name in page.SESSION
        assert 1 <= count <= page.COUNT_MAX
    for name, word in frame.scalars:
        assert page.SESSION[name].holds(word)
    for name, word in frame.members:
        assert page.SESSION[name].holds([word])
    for event, fields in frame.events:
        assert all(page.JOURNEY[event.name][name].holds(value) for name, value in fields.items())
    for opaque in [mark for _, mark in frame.marks] + [route for route, _ in (*frame.durations, *frame.rows)]:
        assert len(opaque) == 16
        assert int(opaque, 16) >= 0
    assert frame.end is None or page.SESSION["exit_reason"].holds(frame.end)
    assert frame.hello is None or page.SESSION["sdk"].holds(frame.hello.sdk)


@given(st.binary())
def test_parsing_never_raises(line: bytes) -> None:
    assert isinstance(parse(line), Frame)


def test_every_key_that_a_rule_accepts_is_a_key_of_the_wire() -> None:
    assert {key for field in SESSION_FIELDS.values() for key in field.rule.said_by} <= PARTS.keys()
