"""The grammar of a request's body, byte for byte. It is derived from the telemetry page's fields and values."""

from __future__ import annotations

import json
import re

from tests.core import page

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_AROUND = re.compile(
    r'\{"api_key":"(?P<key>phc_[a-z]+|)","event":"(?P<event>[a-z_]+)",'
    rf'"distinct_id":"{_UUID}","uuid":"{_UUID}",'
    r'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","properties":(?P<properties>\{.*\})\}',
    re.ASCII,
)


def broken_grammar(body: bytes) -> dict[str, object]:
    """Return the parts of the body that break the grammar, by their place. Returns an empty dict for a correct body.

    Every byte is checked: the parts follow each other without a space, in the schema's order.
    """
    found = _AROUND.fullmatch(body.decode())
    if found is None or found["event"] not in page.EVENTS:
        return {"around": body}
    properties = json.loads(found["properties"])
    promised = [*page.EVENTS[found["event"]], *page.FIXED]
    if json.dumps(properties, separators=(",", ":")) != found["properties"] or sorted(properties) != sorted(promised):
        return {"properties": found["properties"]}
    fixed = {name: properties.pop(name) for name in page.FIXED}
    wrong = {name: value for name, value in fixed.items() if json.dumps(value) != json.dumps(page.FIXED[name])}
    return {**wrong, **page.broken_promises(found["event"], properties)}
