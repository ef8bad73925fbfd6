"""The producers of this process, held weakly. A fork resets each of them in the child.

The interpreter keeps a function that it calls after a fork until the very end. It also keeps the module that the
function names, and such a module takes longer to tear down. So this module is small, and names no large one.
"""

from __future__ import annotations

from weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Registered(Protocol):
        """Describes a producer as the registry needs it."""

        def reset(self) -> None:
            """Drop connection and counter file, because they belong to the parent process."""

        def finish(self) -> None:
            """Report that the interpreter exits."""


_producers: set[ref[Registered]] = set()


def add(producer: Registered) -> None:
    """Register a producer until it is garbage-collected."""
    _producers.add(ref(producer, _producers.discard))


def alive() -> list[Registered]:
    """Return the producers that still exist."""
    return [producer for known in list(_producers) if (producer := known()) is not None]


def _after_fork_in_child() -> None:
    for producer in alive():
        producer.reset()


try:
    from os import register_at_fork
except ImportError:  # a platform without fork
    pass
else:
    register_at_fork(after_in_child=_after_fork_in_child)
