"""The fields in the output of `schema`, in the README and in the events that arrive are the same."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest

from tests.core import page
from tests.e2e.serving import REPOSITORY
from tests.harness import Endpoint, Place, Wire, join_once, new_id

EVENTS = sorted(page.EVENTS)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    with Place() as place:
        printed: dict[str, Any] = json.loads(place.run("schema", "--json").stdout)
    return printed


@pytest.fixture(scope="module")
def shown() -> str:
    """Return the part of the README between the schema's markers."""
    with open(os.path.join(REPOSITORY, "README.md"), encoding="utf-8") as file:
        between = re.findall(r"<!-- schema -->\n(.*?)<!-- /schema -->", file.read(), re.DOTALL)
    assert len(between) == 1, "the README must have the markers once"
    part: str = between[0]
    return part


def table(shown: str, head: str) -> dict[str, list[str]]:
    """Return the rows of a table of the README, by their first cell without backquotes. ``head`` is the head of the
    table's first column.
    """
    (rows,) = re.findall(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", shown, re.MULTILINE)
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows.splitlines()]
    return {name.strip("`"): rest for name, *rest in cells}


def arriving(place: Place, endpoint: Endpoint, event: str) -> dict[str, Any]:
    """Report the event without any field, and return the properties that arrive."""
    with Wire(place.start()["socket"]) as owner:
        session = new_id()
        owner.hello(session, role="owner")
        if event != "session":
            owner.send(event={"name": event})
        join_once(place.socket_path, session)
        owner.send(end={"exit_reason": "clean"})
        (body,) = endpoint.wait_for(event)
    properties: dict[str, Any] = body["properties"]
    return properties


def test_the_schema_has_the_events_of_the_page(schema: dict[str, Any]) -> None:
    assert sorted(schema["events"]) == EVENTS


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_arrives_with_the_fields_that_the_schema_prints(
    schema: dict[str, Any], place: Place, endpoint: Endpoint, event: str
) -> None:
    printed = [*schema["events"][event]["fields"], *schema["fixed"]]
    assert list(arriving(place, endpoint, event)) == printed


def test_the_fixed_properties_arrive_as_the_schema_prints_them(
    schema: dict[str, Any], place: Place, endpoint: Endpoint
) -> None:
    properties = arriving(place, endpoint, "session")
    assert {name: properties[name] for name in schema["fixed"]} == schema["fixed"] == page.FIXED


def test_the_readme_shows_the_markdown_that_schema_prints(shown: str, place: Place) -> None:
    assert shown.strip() == place.run("schema", "--markdown").stdout.strip()


def test_the_readme_lists_the_same_fields_for_each_event_as_the_schema(schema: dict[str, Any], shown: str) -> None:
    common = set(page.COMMON)
    in_readme = {event: set(re.findall(r"`(\w+)`", " ".join(cells))) for event, cells in table(shown, "event").items()}
    in_schema = {event: set(about["fields"]) - common for event, about in schema["events"].items()}
    assert in_readme == in_schema


def test_the_readme_and_the_schema_describe_each_field_in_the_same_way(schema: dict[str, Any], shown: str) -> None:
    in_schema = {name: field for about in schema["events"].values() for name, field in about["fields"].items()}
    in_readme = table(shown, "field")
    assert in_readme == {name: [field["domain"], field["rule"], field["purpose"]] for name, field in in_schema.items()}


def test_the_readme_and_the_schema_have_the_same_fixed_properties(schema: dict[str, Any], shown: str) -> None:
    assert list(table(shown, "property")) == list(schema["fixed"])
