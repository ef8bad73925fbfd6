"""A producer's connection to the daemon: when it is made, when it is made again, and what is sent over it.

``flush`` is called after each change of the unsent state. At most once in POLL_S seconds it checks that the daemon is
still there. If the daemon is gone, the link connects to the next daemon, or starts one, and repeats the state. Nothing
here blocks. All methods need the producer's lock.
"""

from __future__ import annotations

import uuid
from time import monotonic

from ..core import counter_layout
from ..core.wire import MAX_LINE, PROTOCOL, encode
from ..host import paths
from ..host.debug import debug
from .channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .place import Place
    from .unsent_state import UnsentState

DAEMON_STARTS_S = 0.25  # about as long as a daemon takes to start
START_AGAIN_S = 5.0  # a daemon that exits at once each time is not started again each second
POLL_S = 1.0  # how often a producer checks for a daemon; an application without a daemon does not notice the checks
COUNTER_FILE_ACCEPTED = b'{"counter_file":'  # the daemon's answer if it reads the counter file that came with the hello


class DaemonStarter:
    """Starts a daemon, at most once in START_AGAIN_S seconds."""

    __slots__ = ("_may_start_at", "_start")

    def __init__(self, start: Callable[[], None]) -> None:
        """Take the function that starts a daemon without waiting for it. It may raise OSError."""
        self._start = start
        self._may_start_at = 0.0

    def start(self, *, again: bool) -> bool:
        """Start a daemon. Returns False if it is too early for that, or if one was started before and not ``again``."""
        now = monotonic()
        if (self._may_start_at and not again) or now < self._may_start_at:
            return False
        self._may_start_at = now + START_AGAIN_S
        try:
            self._start()
        except OSError as error:  # out of processes, or of memory; another process may start a daemon nevertheless
            debug("could not start a daemon", error)
        return True


class Link:
    """The connection of one producer. A child process after a fork makes a link of its own."""

    def __init__(self, place: Place, sdk: str | None, unsent: UnsentState, starter: DaemonStarter | None) -> None:
        """Make a link that is not connected yet. Without a ``starter`` it waits for a daemon, and starts none."""
        self.unsent = unsent
        self.look_at = 0.0  # when flush next checks for the daemon, in seconds of the monotonic clock
        self.is_over = False  # the session was reported, consent withdrawn, or the counter file overwritten: stop
        self._place = place
        self._sdk = sdk
        self._starter = starter
        self._producer_id = str(uuid.uuid4())
        self._channel = Channel()
        self._connected_at = 0.0
        self._is_file_accepted = False  # the daemon reads the counter file, so no line need report counts
        self._is_flushing = False
        self._in_flight: dict[str, Any] | None = None  # the frame that is being sent

    @property
    def is_connected(self) -> bool:
        """Return whether the link has a connection. The daemon may have closed it since the last check."""
        return self._channel.is_open

    def flush(self) -> float:
        """Send the unsent state, as far as the socket takes it now. Returns ``look_at``."""
        if self._is_flushing:  # a signal handler interrupted this method: the interrupted call sends its change
            return self.look_at
        self._is_flushing = True
        try:
            now = monotonic()
            if now >= self.look_at:
                self.look_at = now + POLL_S
                self._check_daemon()
            self._send_frames(may_reconnect=now >= self._connected_at + POLL_S)
        finally:
            self._is_flushing = False
        return self.look_at

    def needs_no_goodbye(self) -> bool:
        """Return True if the daemon has all state, and will read the exit reason from the counter file."""
        if not self.unsent.is_all_sent or not self._channel.is_ready():
            return False
        if self._is_file_accepted:
            self._channel.probe()
        else:
            self._is_file_accepted = COUNTER_FILE_ACCEPTED in self._channel.receive()
        return self._is_file_accepted and self._channel.is_open

    def disconnect_if_sent(self) -> None:
        """Close the connection if every line was written. The counter file stays open for later counts."""
        if self._channel.is_ready():
            self._channel.close()

    def close(self) -> None:
        """Close the connection and the counter file. Does not shut down the socket, which a parent may still use."""
        self._channel.close()
        self.unsent.counter_file.close()

    # --- the policy ----------------------------------------------------------------------------------------------

    def _send_frames(self, *, may_reconnect: bool) -> None:
        """Send one frame after another. ``may_reconnect`` is False if the connection is fresh.

        A daemon that closes a fresh connection refuses this producer, and would refuse it again.
        """
        while self._channel.is_ready():
            self._in_flight = None
            frame = self.unsent.next_frame()
            if frame is None:
                return
            self._in_flight = frame
            line = encode(frame)
            if len(line) <= MAX_LINE:  # the daemon would close the connection on a longer line
                self._channel.send(line)
            # The daemon exited since the last check. Connect now, because this call may be the worker's last one.
            if may_reconnect and not self._channel.is_open:
                may_reconnect = False
                self._connect()

    def _check_daemon(self) -> None:
        """Reconnect if the daemon is gone. Report counts by lines if the daemon has not accepted the counter file."""
        if self._is_file_accepted:
            self._channel.probe()
        elif self._channel.is_open:
            self._is_file_accepted = COUNTER_FILE_ACCEPTED in self._channel.receive()
            if not self._is_file_accepted:
                self.unsent.owe_counts()
        if not self._channel.is_open:
            self._connect()

    def _connect(self) -> None:
        """Connect, send the hello, and queue all state. The daemon checks the consent."""
        counter_file = self.unsent.counter_file
        if counter_file.is_retired or not counter_file.is_intact:
            debug(
                "this process does not count any more: its session was reported or refused, or telemetry was switched "
                "off, or its counter file was overwritten"
            )
            counter_file.retire()
            self.is_over = True
            self.close()
            return
        lost, self._in_flight = self._in_flight, None
        if lost is not None and "event" in lost:
            self.unsent.owe_event(lost)
        self.unsent.owe_everything()
        self._is_file_accepted = False
        self._connected_at = monotonic()
        counter_file.check_descriptor()
        if not self._channel.open(self._place.socket_path) and not self._wait_for_daemon():
            return
        counter_file.keep_as(self._counter_file_path)  # before the hello, because the daemon may die before it reads it
        if counter_file.fd is None or self.unsent.end is not None:  # at its end a worker does not wait for the answer
            self.unsent.owe_counts()
        self._send_hello()

    def _send_hello(self) -> None:
        counter_file = self.unsent.counter_file
        hello: dict[str, Any] = {
            "protocol": PROTOCOL,
            **self._place.membership,
            "producer": self._producer_id,
            "sdk": self._sdk,
            "destination": self._place.destination,
            "config": f"{self._place.stamp:016x}",
        }
        if counter_file.fd is None:
            self._channel.send(encode({"hello": hello}))
        else:
            hello["counter_file"] = counter_layout.VERSION
            self._channel.send_with_descriptor(encode({"hello": hello}), counter_file.fd)

    @property
    def _counter_file_path(self) -> str:
        return paths.counter_file_path(self._place.socket_path, self._producer_id)

    def _wait_for_daemon(self) -> bool:
        """Name the counter file for the next daemon if one is expected, and start it. Returns whether it accepts now.

        A daemon that was killed left its socket behind, and a daemon that exited in order did not. The next daemon
        finds the counter file by its name, even if this process has exited by then.
        """
        from ..host import secure_files  # noqa: PLC0415 (not needed while a daemon listens)

        path = self._place.socket_path
        was_killed = secure_files.is_own_socket(path)
        if not was_killed and self._starter is None:
            return False  # perhaps no daemon will ever run, and the file would stay in the directory
        self.unsent.counter_file.keep_as(self._counter_file_path)
        if self._starter is not None and self._starter.start(again=was_killed):
            self.look_at = monotonic() + DAEMON_STARTS_S
        return was_killed and self._channel.open(path)
