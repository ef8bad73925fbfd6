from __future__ import annotations

from typing import Any

import pytest
from brakit_sidecar.core import domains, limits, rules, schema
from brakit_sidecar.core.limits import ONCE_A_SESSION
from brakit_sidecar.core.schema import COMMON, EVENTS, FIXED, JOURNEY, SESSION, SESSION_FIELDS, EventSpec, Field

from tests.core import page

ALL_FIELDS = {(event.name, field.name): field for event in EVENTS.values() for field in event.fields.values()}
each_field = pytest.mark.parametrize(("event", "field"), ALL_FIELDS)
each_event = pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: event.name)


def test_the_events_are_exactly_the_events_of_the_page() -> None:
    assert set(EVENTS) == set(page.EVENTS)


@each_event
def test_the_fields_of_an_event_are_exactly_its_fields_on_the_page(event: EventSpec) -> None:
    assert set(event.fields) == set(page.EVENTS[event.name])


@each_event
def test_the_fields_of_an_event_begin_with_the_common_fields(event: EventSpec) -> None:
    assert tuple(event.fields.values())[: len(COMMON)] == COMMON


@each_field
def test_a_field_is_listed_under_its_own_name(event: str, field: str) -> None:
    assert ALL_FIELDS[event, field].name == field


@each_field
def test_a_field_has_the_merge_rule_of_the_page(event: str, field: str) -> None:
    assert ALL_FIELDS[event, field].rule.name == page.EVENTS[event][field].rule


@each_field
def test_a_field_has_the_default_value_of_the_page(event: str, field: str) -> None:
    default = ALL_FIELDS[event, field].domain.default
    assert (type(default), default) == (type(page.EVENTS[event][field].default), page.EVENTS[event][field].default)


@each_field
def test_a_field_and_its_event_have_a_purpose(event: str, field: str) -> None:
    assert ALL_FIELDS[event, field].purpose
    assert EVENTS[event].purpose


VOCABULARIES: list[tuple[str, tuple[str, ...]]] = [
    ("framework", schema.FRAMEWORKS),
    ("package_manager", schema.PACKAGE_MANAGERS),
    ("adapters", schema.ADAPTERS),
    ("framework_detection_candidates", schema.CANDIDATES),
    ("insight_types", schema.INSIGHTS),
    ("rules_triggered", schema.SECURITY_RULES),
    ("tabs_viewed", schema.TABS),
    ("command", schema.COMMANDS),
    ("sdk", schema.SDKS),
    ("arch", schema.ARCHITECTURES),
    ("os_platform", schema.PLATFORMS),
    ("exit_reason", schema.EXIT_REASONS),
    ("slowest_endpoint_bucket", ("none", *limits.BUCKETS)),
]


@pytest.mark.parametrize(("name", "words"), VOCABULARIES, ids=[name for name, _ in VOCABULARIES])
def test_a_vocabulary_has_the_words_of_the_page_in_order(name: str, words: tuple[str, ...]) -> None:
    assert list(words) == page.VOCABULARY[name].split()


def words_of(field: Field) -> tuple[str, ...]:
    domain = field.domain
    if isinstance(domain, domains.Words):
        return domain.member.words
    return domain.words if isinstance(domain, domains.Word) else ()


@each_field
def test_every_word_of_a_field_is_allowed_by_the_page(event: str, field: str) -> None:
    for word in words_of(ALL_FIELDS[event, field]):
        value: Any = [word] if isinstance(ALL_FIELDS[event, field].domain, domains.Words) else word
        assert page.EVENTS[event][field].holds(value)


def test_every_vocabulary_of_the_page_is_checked() -> None:
    assert {name for name, _ in VOCABULARIES} == set(page.VOCABULARY)


@each_field
def test_the_domain_of_a_field_is_a_set_of_words_exactly_if_its_rule_is_union(event: str, field: str) -> None:
    found = ALL_FIELDS[event, field]
    assert isinstance(found.domain, domains.Words) == (found.rule is rules.UNION)


@each_field
def test_the_rule_of_a_field_is_in_the_table_of_rules(event: str, field: str) -> None:
    assert ALL_FIELDS[event, field].rule in rules.RULES


@pytest.mark.parametrize(
    ("name", "once"),
    [
        ("cli_invoked", False),
        ("setup_completed", True),
        ("first_request", True),
        ("dashboard_viewed", True),
        ("cli_uninstall", False),
        ("session", True),
    ],
)
def test_a_session_sends_these_events_only_once(name: str, once: bool) -> None:
    assert EVENTS[name].once is once


def test_every_name_in_once_a_session_is_an_event() -> None:
    assert set(EVENTS) >= ONCE_A_SESSION


def test_the_session_event_is_not_a_journey_event() -> None:
    assert set(JOURNEY) == set(EVENTS) - {"session"}
    assert SESSION.fields is SESSION_FIELDS


def test_the_daemon_fills_in_times_and_the_request_count_of_these_events() -> None:
    filled = {event.name: (event.elapsed_in, event.requests_in) for event in EVENTS.values()}
    assert {name: names for name, names in filled.items() if any(names)} == {
        "first_request": ("time_to_first_request_ms", None),
        "dashboard_viewed": ("time_to_dashboard_ms", "request_count_at_open"),
    }


@each_event
def test_the_fields_that_an_event_implies_or_that_the_daemon_fills_in_exist(event: EventSpec) -> None:
    assert set(event.implies) <= set(SESSION_FIELDS)
    assert {event.elapsed_in, event.requests_in} - {None} <= set(event.fields)


def test_only_dashboard_viewed_implies_a_session_field() -> None:
    assert {event.name: dict(event.implies) for event in EVENTS.values() if event.implies} == {
        "dashboard_viewed": {"dashboard_opened": True}
    }


@each_field
def test_a_field_that_a_journey_event_shares_with_the_session_is_the_same_object(event: str, field: str) -> None:
    assert SESSION_FIELDS.get(field, ALL_FIELDS[event, field]) is ALL_FIELDS[event, field]


def test_an_event_may_not_report_the_fields_that_the_daemon_fills_in() -> None:
    assert {name for name, field in SESSION_FIELDS.items() if not schema.said_in_event(field)} == {
        "os",
        "arch",
        "first_session",
        "session_duration_s",
        "exit_reason",
    }


def test_the_four_fixed_properties_are_the_properties_of_the_page() -> None:
    assert dict(FIXED) == page.FIXED


@pytest.mark.parametrize(
    "table", [EVENTS, JOURNEY, FIXED, SESSION_FIELDS, *(event.fields for event in EVENTS.values())]
)
def test_the_tables_cannot_be_changed_at_run_time(table: Any) -> None:
    with pytest.raises(TypeError):
        table["more"] = 1


def test_the_json_has_each_event_and_each_field_with_domain_rule_and_purpose() -> None:
    printed = schema.as_json()
    assert set(printed) == {"events", "fixed"}
    assert printed["fixed"] == page.FIXED
    assert {name: set(event["fields"]) for name, event in printed["events"].items()} == {
        name: set(fields) for name, fields in page.EVENTS.items()
    }
    for event in printed["events"].values():
        assert set(event) == {"purpose", "fields"}
        assert all(set(field) == {"domain", "rule", "purpose"} for field in event["fields"].values())


def test_the_json_describes_a_field_with_the_texts_of_the_schema() -> None:
    assert schema.as_json()["events"]["session"]["fields"]["request_count"] == {
        "domain": "count, 0 to 9007199254740991",
        "rule": "sum",
        "purpose": "Usage volume",
    }


def test_the_markdown_has_a_row_for_every_event_field_and_fixed_property() -> None:
    rows = [line.split(" | ")[0] for line in schema.as_markdown().splitlines() if line.startswith("| `")]
    fields = {name for event in page.EVENTS.values() for name in event}
    assert sorted(rows) == sorted(f"| `{name}`" for name in (*page.EVENTS, *page.FIXED, *fields))


def test_each_table_of_the_markdown_has_the_same_number_of_cells_in_every_row() -> None:
    blocks = [block.splitlines() for block in schema.as_markdown().split("\n\n")]
    tables = [block for block in blocks if block[0].startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_the_markdown_names_the_common_properties_only_once() -> None:
    text = schema.as_markdown()
    assert "Every event also has `brakit_version`, `node_version`, `python_version`, `os`, `arch`, `sdk`" in text
    assert (
        "| `first_request` | The first HTTP request is captured | once a session | `port`, `time_to_first_request_ms` |"
        in text
    )
    assert "| `cli_invoked` | A command of the CLI starts | each time |" in text


def test_the_markdown_shows_the_fixed_values_as_json() -> None:
    assert "| `$process_person_profile` | `false` |" in schema.as_markdown()
