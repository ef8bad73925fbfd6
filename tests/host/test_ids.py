"""Ids made by hand are the UUIDs that the module ``uuid`` makes."""

from __future__ import annotations

import sys
import uuid

import pytest
from brakit_sidecar.host import ids
from hypothesis import given
from hypothesis import strategies as st


def test_a_new_id_is_a_random_uuid_in_its_usual_spelling() -> None:
    made = {ids.new() for _ in range(100)}
    assert len(made) == 100
    for text in made:
        assert (str(uuid.UUID(text)), uuid.UUID(text).version, uuid.UUID(text).variant) == (text, 4, uuid.RFC_4122)


@pytest.mark.parametrize("has_sha1", [True, False], ids=["with its C module", "without"])
@given(namespace=st.uuids(), name=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_named_id_is_the_uuid_of_that_name(has_sha1: bool, namespace: uuid.UUID, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not has_sha1:
            patch.setitem(sys.modules, "_sha1", None)
        assert ids.named(namespace.bytes, name) == uuid.uuid5(namespace, name).bytes


@given(st.uuids())
def test_an_id_is_spelled_as_a_uuid(it: uuid.UUID) -> None:
    assert ids.spelled(it.bytes) == str(it)


AN_ID = "2F1C9a52-6b1e-4c1a-9d0f-7a3b5c8d9e01"
SPELLINGS = [
    AN_ID, AN_ID.replace("-", ""), "{" + AN_ID + "}", f"urn:uuid:{AN_ID}", AN_ID + "0", AN_ID[1:], "", "no uuid",
    "-" * 36, "g" + AN_ID[1:],
    " " + AN_ID[1:], "0x" + AN_ID[2:], "+" + AN_ID[1:], "\u0661" + AN_ID[1:], "1_" * 16, "_" * 32,
]  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS)
def test_an_id_is_read_in_every_spelling_of_a_uuid(text: str) -> None:
    try:
        expected = uuid.UUID(text).bytes
    except ValueError:
        expected = None
    assert ids.read(text) == expected


@given(st.text())
def test_what_is_no_uuid_is_no_id(text: str) -> None:
    test_an_id_is_read_in_every_spelling_of_a_uuid(text)
