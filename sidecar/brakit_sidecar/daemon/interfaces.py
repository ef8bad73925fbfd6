"""What the intake and the sessions know of each other, so that neither imports the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.session.member import Member


class Evictor(Protocol):
    """What can be given up if descriptors run short."""

    def release_descriptors(self) -> None:
        """Close the descriptors of all counter files that can be opened again by their names."""

    def may_evict(self, member: Member) -> bool:
        """Whether the member loses nothing if its connection is closed."""


class Intake(Protocol):
    """How a session gets all that was written for it."""

    def drain(self, expendable: Callable[[Member], bool] = ...) -> bool:
        """Accept every pending connection and read every pending byte, without yielding.

        Returns False if a connection still waits for want of descriptors. Connections of ``expendable`` members are
        closed for it, after they were read.
        """

    def is_short_of_descriptors(self) -> bool:
        """Whether a further descriptor would be one of the reserve."""
