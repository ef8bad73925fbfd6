"""How commands print text that quotes a file, the environment, an argument or an answer.

Such a text may hold escape sequences, which would command the person's terminal. JSON needs none of this, because it is
printed in ASCII.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


def show(lines: Iterable[str]) -> None:
    """Print the lines to stdout. A line break within a line is shown as an escape."""
    print("\n".join(map(printable, lines)))


def complain(message: str) -> None:
    """Print a message of one line to stderr."""
    print(f"brakit-sidecar: {printable(message)}", file=sys.stderr)
