"""The methods by which the intake and the service call each other. Neither imports the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.session.member import Member


class Evictor(Protocol):
    """Tells which descriptors can be freed if they are short."""

    def release_descriptors(self) -> None:
        """Close the descriptors of all counter files that can be opened again by their names."""

    def may_evict(self, member: Member) -> bool:
        """Return True if the member loses nothing when its connection is closed."""


class Drainer(Protocol):
    """Reads all that was written to the connections."""

    def drain(self, expendable: Callable[[Member], bool] = ...) -> bool:
        """Accept every pending connection and read every pending byte, without yielding.

        Returns False if descriptors are too short to accept one. To accept it, connections of ``expendable`` members
        are read and closed.
        """

    def is_short_of_descriptors(self) -> bool:
        """Return True if the next descriptor would be one of the reserve."""
