"""The command ``log``: print the receipts."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..daemon import receipts
from .terminal import show

if TYPE_CHECKING:
    from argparse import Namespace

_POLL_S = 0.2  # between two reads of the file with --follow; a person does not notice the delay


def log(arguments: Namespace) -> int:
    """Print every receipt, the oldest first. With ``--follow``, print new receipts until interrupted."""
    for receipt in receipts.follow() if arguments.follow else receipts.read():
        if receipt is None:
            sys.stdout.flush()
            time.sleep(_POLL_S)
        else:
            show([json.dumps(receipt)] if arguments.json else _as_text(receipt))
    return 0


def _as_text(receipt: dict[str, Any]) -> list[str]:
    reason = f" ({receipt['reason']})" if receipt["reason"] else ""
    body = str(receipt["body"])
    with suppress(ValueError):  # a body that is not JSON is printed unchanged
        body = json.dumps(json.loads(body), indent=2)
    head = f"{receipt['at']}  {receipt['event']}  {receipt['outcome']}{reason}"
    named = f"    destination {receipt.get('destination', 'unknown')}"
    return [head, named, *("    " + line for line in body.splitlines()), ""]
