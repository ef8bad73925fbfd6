"""A remote endpoint in a process of its own, so that what it does costs the measuring process nothing."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from tests.bench.child import serve_requests
from tests.harness import Endpoint, wait_until


class _DroppingEndpoint(Endpoint):
    """Accepts, and closes at once."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return False


def main(behaviour: str) -> None:
    endpoint = _DroppingEndpoint() if behaviour == "drops" else Endpoint()
    if behaviour == "silent":
        endpoint.may_answer.clear()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["ask"] == "url":
            return {"url": endpoint.url}
        wait_until(lambda: len(endpoint.bodies) >= request["at_least"], "the arrival of all events")
        counted = sum(body["properties"].get("request_count", 0) for body in endpoint.bodies_of("session"))
        return {"request_count": counted, "events": Counter(body["event"] for body in endpoint.bodies)}

    serve_requests(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
