"""The documentation of the architecture matches the code: its diagram of phases, and the files that it names."""

from __future__ import annotations

from pathlib import Path

from brakit_sidecar.core.session.worker import as_mermaid

PAGE = Path(__file__).parents[3] / "docs" / "architecture.md"


def test_the_diagram_in_the_documentation_is_generated_from_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition("<!-- phases: begin -->\n```mermaid\n")[2].partition("```\n<!-- phases: end -->")[0]
    assert shown == as_mermaid()


def files_of_a_request() -> list[str]:
    """Return the files that the page names in its section about one request."""
    text = PAGE.read_text(encoding="utf-8")
    walk = text.partition("## One request")[2].partition("\n## ")[0]
    return [part for part in walk.split("`")[1::2] if "/" in part]


def test_the_page_names_each_file_of_a_request_once() -> None:
    files = files_of_a_request()
    assert len(files) > 20
    assert sorted(files) == sorted(set(files))


def test_every_file_that_the_page_names_exists() -> None:
    package = PAGE.parents[1] / "sidecar" / "brakit_sidecar"
    missing = [file for file in files_of_a_request() if not (package / f"{file}.py").exists()]
    assert missing == []
