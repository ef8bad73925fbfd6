"""The documentation's diagram of a worker's phases is the table of transitions."""

from __future__ import annotations

from pathlib import Path

from brakit_sidecar.core.session.worker import as_mermaid

PAGE = Path(__file__).parents[3] / "docs" / "architecture.md"


def test_the_diagram_in_the_documentation_is_generated_from_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("<!-- phases: begin -->\n```mermaid\n")[2].partition("```\n<!-- phases: end -->")[0]
    assert shown == as_mermaid()


def test_the_walk_names_each_file_once() -> None:
    text = PAGE.read_text(encoding="utf-8")
    walk = text.partition("## One request")[2].partition("\n## ")[0]
    files = [part for part in walk.split("`")[1::2] if "/" in part]
    assert len(files) > 20
    assert sorted(files) == sorted(set(files))


def test_every_file_of_the_walk_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    walk = text.partition("## One request")[2].partition("\n## ")[0]
    package = PAGE.parents[1] / "sidecar" / "brakit_sidecar"
    missing = [part for part in walk.split("`")[1::2] if "/" in part and not (package / f"{part}.py").exists()]
    assert missing in ([], ["client/link"])
