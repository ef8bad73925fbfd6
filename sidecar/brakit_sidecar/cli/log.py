"""``log``: the receipts."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..daemon import receipts

if TYPE_CHECKING:
    from argparse import Namespace

_FOLLOW_S = 0.2  # as `tail -f` looks a few times a second


def log(arguments: Namespace) -> int:
    for receipt in receipts.follow() if arguments.follow else receipts.read():
        if receipt is None:
            sys.stdout.flush()
            time.sleep(_FOLLOW_S)
        else:
            print(json.dumps(receipt) if arguments.json else _as_text(receipt))
    return 0


def _as_text(receipt: dict[str, Any]) -> str:
    reason = f" ({receipt['reason']})" if receipt["reason"] else ""
    body = receipt["body"]
    with suppress(ValueError):  # as it is, then
        body = json.dumps(json.loads(body), indent=2)
    return f"{receipt['at']}  {receipt['event']}  {receipt['outcome']}{reason}\n{_indented(body)}\n"


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
