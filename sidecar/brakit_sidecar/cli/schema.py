"""The command ``schema``: list every event and every field that can be sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..core.schema import as_json, as_markdown

if TYPE_CHECKING:
    from argparse import Namespace


def schema(arguments: Namespace) -> int:
    """Print the schema as JSON, or as the README's tables."""
    print(as_markdown() if arguments.markdown else json.dumps(as_json(), indent=2))
    return 0
