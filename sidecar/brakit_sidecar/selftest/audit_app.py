"""The audit's application. It passes every secret to every call of the client, and to every field of ``emit``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import brakit_sidecar

from .. import cli
from ..core.domains import Word
from ..core.schema import EVENTS, JOURNEY, SESSION_FIELDS, said_in_event
from .audit_texts import TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def work() -> None:
    """Pass the secrets to every call of two workers, and print the number of calls.

    The first worker's exit reason is a secret. The second worker's SDK name is a secret, and an exception ends the
    worker.
    """
    calls = 0
    workers = []
    for sdk, counts in (("python", 1), (next(iter(TEXTS.values())), 0)):
        telemetry: Any = brakit_sidecar.connect(sdk=sdk)
        workers.append(telemetry)
        telemetry.incr("request_count", 1 + counts)
        for text in TEXTS.values():
            for call in _calls(telemetry, text):
                call()
                calls += 1
    workers[0].close(exit_reason=next(iter(TEXTS.values())))
    print(calls + 1, flush=True)
    raise RuntimeError(next(iter(TEXTS.values())))


def hash_texts() -> None:
    """Report each secret as a route and as a mark, as ``work`` does, and print the number of calls."""
    telemetry: Any = brakit_sidecar.connect()
    for text in TEXTS.values():
        telemetry.request(text, duration_ms=12.5)
        telemetry.mark("insight_count", text)
    print(2 * len(TEXTS))


def _calls(telemetry: Any, text: str) -> Iterator[Callable[[], object]]:
    for field in (*SESSION_FIELDS, text):
        for value in (text, [text], {text: text}, text.encode(), object()):
            yield partial(telemetry.set, **{field: value})
            yield partial(telemetry.add, field, value)
            yield partial(telemetry.mark, field, value)
            yield partial(telemetry.incr, field, value)
            yield partial(telemetry.counter(field).inc, value)
    yield partial(telemetry.request, text, duration_ms=12.5)
    yield partial(telemetry.request, text, duration_ms=text)
    yield partial(telemetry.mark, "insight_count", text)
    for event in (*EVENTS, text):
        fields = EVENTS[event].fields if event in EVENTS else ()
        yield partial(telemetry.event, event, **dict.fromkeys(fields, text))
        yield partial(telemetry.event, event, **{name: [text] for name in (*fields, text)})


def emissions() -> Iterator[list[str]]:
    """Yield the arguments of each ``emit``.

    The fields whose domain is a vocabulary are in one command, because they accept any text. Each other field is in a
    command of its own, because the command ends when it refuses the field's text.
    """
    for text in TEXTS.values():
        yield [text]
        for event in JOURNEY.values():
            fields = {name: field for name, field in event.fields.items() if said_in_event(field)}
            words = [f"{name}={text}" for name, field in fields.items() if isinstance(field.domain, Word)]
            others = [[f"{name}={text}"] for name, field in fields.items() if not isinstance(field.domain, Word)]
            for arguments in (words, *others, [f"{text}=1"], [text]):
                yield [event.name, *arguments]


def emit() -> None:
    """Run every ``emit`` of ``emissions``, and print their number."""
    # Error messages are discarded, because they may repeat the arguments for the user's own terminal.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    commands = list(emissions())
    for arguments in commands:
        with suppress(SystemExit):
            cli.main(["emit", *arguments])
    print(len(commands))


def main() -> None:
    """Run the part of the application that the first argument names."""
    {"work": work, "hash": hash_texts, "emit": emit}[sys.argv[1]]()
