"""A session that this process owns. It stays open until this process ends it, even if the daemon dies meanwhile."""

from __future__ import annotations

import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from ..core.destination import Destination
from ..host import launch
from ..host.conversation import Conversation, NoDaemonError, SilentDaemonError
from ..host.debug import debug
from .daemon_client import ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..host.launch import Running

# The limit for an answer, which normally takes a millisecond. A stopped daemon must not delay the command. It is also
# the limit for everything after the command's end. A prompt that does not return is worse than a session that ends
# without an exit reason.
TIMEOUT_S = 2.0
RESULT_TIMEOUT_S = 1.0  # twice the time in which workers say goodbye
_RESULT_POLL_S = 0.02
_LOCAL_OUTCOME_S = 0.05  # an event that is only kept on this machine has its outcome after 5 ms
_DAEMON_EXIT_S = 0.5  # about the time that a daemon needs to exit
_RETRY_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)  # between the attempts to start another daemon


class OwnedSession:
    """A connection to the daemon as the owner of a new session. The session ends when the connection closes."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Open the session, and start a daemon if no daemon runs. Raises LaunchError, NoDaemonError or OSError."""
        self._environ = environ
        self._id, self._producer = str(uuid.uuid4()), str(uuid.uuid4())
        self._lock = threading.Lock()  # held by the thread while it reconnects, and by end()
        self._is_over = False
        self._is_silent = False  # the daemon did not confirm the end in time
        self._destination = Destination(environ).digest
        self._connection, self.daemon = self._connect(_deadline_in(launch.START_TIMEOUT_S))

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that let a worker join the session."""
        return {"BRAKIT_SESSION_ID": self._id, "BRAKIT_SIDECAR_SOCKET": self.daemon.socket}

    def reconnect_in_background(self) -> None:
        """Start a thread that reconnects whenever the daemon dies. It inherits the caller's signal mask."""
        threading.Thread(target=self._reconnect_whenever_closed, daemon=True).start()

    def end(self, exit_reason: str) -> None:
        """End the session. If the daemon dies before it confirms the end, end the session at the next daemon.

        Returns after at most TIMEOUT_S. Never raises.
        """
        deadline = _deadline_in(TIMEOUT_S)
        if not self._lock.acquire(timeout=TIMEOUT_S):
            self._is_silent = True
            return  # the thread has waited for another daemon all that time
        while not self._is_over and not self._send_end(exit_reason, deadline):
            self._is_over = not self._reconnect(deadline)
        self._is_over = True
        self._connection.close()
        self._lock.release()

    def result(self) -> dict[str, Any]:
        """Return the ended session's outcome, as the daemon answers. Returns {} if the daemon does not know it.

        The answer may take a moment, because the daemon waits for the goodbyes of workers that outlive the command. The
        event may still be queued, because nothing waits for the network.
        """
        if self._is_silent:
            return {}
        deadline = _deadline_in(RESULT_TIMEOUT_S)
        question = {"result": {"session": self._id}}
        try:
            with Conversation(self.daemon.socket, _seconds_until(deadline)) as daemon:
                result = daemon.ask(question)
                while result == {"open": True} and time.monotonic() < deadline:
                    time.sleep(_RESULT_POLL_S)
                    result = daemon.ask(question, _seconds_until(deadline))
                if isinstance(result, dict) and result.get("outcome") == "queued":
                    time.sleep(_LOCAL_OUTCOME_S)
                    result = daemon.ask(question, _seconds_until(deadline))
        except NoDaemonError:
            return {}
        return result if isinstance(result, dict) and "outcome" in result else {}

    def _send_end(self, exit_reason: str, deadline: float) -> bool:
        """Return whether the end need not be sent again."""
        try:
            self._connection.say({"end": {"exit_reason": exit_reason}})
            self._connection.ask("identity", _seconds_until(deadline))  # the answer shows that the end was read
        except SilentDaemonError:  # the daemon is stopped or stuck, and reads the end when it continues
            self._is_silent = True
            return True
        except NoDaemonError:
            return False
        return True

    def _reconnect_whenever_closed(self) -> None:
        pauses = iter(_RETRY_PAUSES_S)
        while True:
            self._connection.wait_for_hangup()
            with self._lock:
                if self._is_over:
                    return
                if self._reconnect(_deadline_in(launch.START_TIMEOUT_S)):
                    pauses = iter(_RETRY_PAUSES_S)
                    continue
            pause_s = next(pauses, None)
            if pause_s is None:
                return
            time.sleep(pause_s)

    def _reconnect(self, deadline: float) -> bool:
        """Connect to another daemon. Returns False if the attempt failed or the session is over.

        A daemon that exits in order ends all sessions and removes its socket. So a missing socket means that the
        session is over. A socket that still exists means that its daemon died.
        """
        try:
            if not os.path.lexists(self.daemon.socket):
                self._is_over = True
                return False
            connection, _ = self._connect(deadline)
        except Exception as error:  # noqa: BLE001 (the command continues without telemetry)
            debug("the session has no daemon", error)
            return False
        self._connection.close()
        self._connection = connection
        return True

    def _connect(self, deadline: float) -> tuple[Conversation, Running]:
        """Connect as the session's owner. Returns the connection and the daemon."""
        for _attempt in range(ATTEMPTS):
            daemon = launch.ensure_running(self._environ, TIMEOUT_S, _seconds_until(deadline))
            answer_s = min(TIMEOUT_S, _seconds_until(deadline))
            try:
                connection = Conversation(
                    daemon.socket,
                    answer_s,
                    session=self._id,
                    producer=self._producer,
                    role="owner",
                    destination=self._destination,
                )
                is_open = connection.ask({"open": {"session": self._id}})
            except SilentDaemonError:
                raise
            except NoDaemonError:  # the daemon is about to exit
                time.sleep(min(_DAEMON_EXIT_S, _seconds_until(deadline)))
                continue
            if not is_open:
                connection.close()
                self._is_over = True
                raise NoDaemonError("the session is over")
            return connection, daemon
        raise NoDaemonError("each daemon closed the connection")


def _deadline_in(seconds: float) -> float:
    return time.monotonic() + seconds


def _seconds_until(deadline: float) -> float:
    """Return the seconds until ``deadline``, at least 0.001, because a socket with the timeout 0 does not wait."""
    return max(0.001, deadline - time.monotonic())
