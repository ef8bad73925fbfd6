"""The producers of this process, held weakly, and told of its forks.

The interpreter keeps what it calls after a fork to its very end, and with that this whole file and whatever it names.
What is kept cannot be thrown away with the rest, but is taken apart by itself, which takes longer: so this file is
small, and names neither a producer's file nor ``os``.
"""

from __future__ import annotations

try:
    from _weakref import ref  # what weakref has
except ImportError:  # another implementation
    from weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .producer import Producer

_producers: set[ref[Producer]] = set()


def add(producer: Producer) -> None:
    _producers.add(ref(producer, _producers.discard))


def alive() -> list[Producer]:
    return [producer for known in list(_producers) if (producer := known()) is not None]


def _after_fork_in_child() -> None:
    for producer in alive():
        producer.forget()


try:
    from os import register_at_fork
except ImportError:  # a platform that does not fork
    pass
else:
    register_at_fork(after_in_child=_after_fork_in_child)
