"""Which daemon and which session this process belongs to, or that it belongs to none."""

from __future__ import annotations

import os

from ..core import counter_layout
from ..host import consent, ids, paths
from ..host.debug import debug
from ..host.guards import DAEMON_MARK
from . import channel
from .producer import Producer
from .telemetry import Telemetry

try:
    from _blake2 import blake2b  # what hashlib has, without OpenSSL
except ImportError:  # another implementation
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_GROUPS = bytes.fromhex("6f9d4c1e3c565b0e9a550b6f3d6a1c7e")  # a namespace of our own


class Place:
    __slots__ = ("is_welcome", "key", "membership", "socket_path", "whose")

    def __init__(
        self,
        socket_path: str,
        membership: dict[str, str],
        key: bytes,
        is_welcome: Callable[[], bool | None] = lambda: True,
        anonymous_id: str | None = None,
    ) -> None:
        """``is_welcome``: whether what is counted here may still be told to a daemon; None where that cannot be known
        now. ``anonymous_id``: under which it is counted.
        """
        self.is_welcome = is_welcome
        self.socket_path = socket_path
        self.membership = membership  # what the hello says: the session, or the process group
        self.key = key
        self.whose = counter_layout.whose(anonymous_id)

    @property
    def kind(self) -> int:
        """Which of them, as the memory says it."""
        return counter_layout.OF_SESSION if "session" in self.membership else counter_layout.OF_GROUP

    def opaque(self, text: str) -> str:
        """Sixteen hex digits for a text, under this session's key."""
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=self.key).hexdigest()

    def new_producer_id(self) -> str:
        return ids.new()


def join(environ: Mapping[str, str], sdk: str, *, start: bool) -> Telemetry:
    """A producer where telemetry is on, else the stand-in. Raises OSError where this machine cannot say who we are."""
    if not channel.IS_POSSIBLE or DAEMON_MARK in environ:
        return Telemetry()
    decision = consent.current(environ)
    if not decision.on:
        if decision.by_environment:
            from ..host import config_file  # noqa: PLC0415 (a config is hardly ever written by a worker)

            config_file.settled(environ, wait=False)  # so that the config says what the environment does
        debug(f"telemetry is off: {decision.why}")
        return Telemetry()
    place = _place(environ, decision.anonymous_id)
    if not start:
        return Producer(place, sdk)

    def start_daemon() -> None:
        from ..host import launch  # noqa: PLC0415 (fcntl and subprocess, for a worker that starts a daemon)

        launch.start(environ)

    from ..host import secure_files  # noqa: PLC0415 (as above)

    secure_files.ensure_directory(
        os.path.dirname(place.socket_path)
    )  # there our memory has its place, and then its name
    return Producer(place, sdk, start_daemon)


def _standing(environ: Mapping[str, str], whose: str | None) -> Callable[[], bool | None]:
    """Whether consent has stood since; None while the config cannot be read. Where it was withdrawn and came back, it
    came with another id: what was counted meanwhile is nobody's. (``whose`` is None where the first daemon ever is
    still to make the id.)
    """

    def stands() -> bool | None:
        nonlocal whose
        decision = consent.current(environ)
        if decision.unreadable:
            return None
        whose = whose or decision.anonymous_id
        return decision.on and decision.anonymous_id == whose

    return stands


def _place(environ: Mapping[str, str], whose: str | None) -> Place:
    is_welcome = _standing(environ, whose)
    socket_path = environ.get("BRAKIT_SIDECAR_SOCKET") or paths.socket_path(environ)
    session = ids.read(environ.get("BRAKIT_SESSION_ID", ""))
    if session is not None:
        return Place(socket_path, {"session": ids.spelled(session)}, session, is_welcome, whose)
    group = _process_group()
    return Place(socket_path, {"group": ids.spelled(group)}, group, is_welcome, whose)


def _process_group() -> bytes:
    """The same for all workers that one command line started: of boot, process group and the start of its leader."""
    group = os.getpgrp()
    boot = _first_line("/proc/sys/kernel/random/boot_id")
    # After the command's name, which may hold anything but is in parentheses, the start is the 20th field.
    started = _first_line(f"/proc/{group}/stat").rpartition(")")[2].split()[19:20]
    return ids.named(_GROUPS, f"{boot} {group} {' '.join(started)}")


def _first_line(path: str) -> str:
    """Empty where there is none: another platform, or a leader that is gone."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
