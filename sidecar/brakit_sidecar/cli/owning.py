"""A session that this process owns: open as long as it says, whatever becomes of the daemon meanwhile."""

from __future__ import annotations

import os
import threading
import time
import uuid
from typing import TYPE_CHECKING

from ..host import launch
from ..host.conversation import Conversation, NoDaemonError, SilentDaemonError
from ..host.debug import debug
from .connecting import ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Mapping

# For an answer that takes a millisecond: a daemon that is stopped may not keep the command waiting. And for all that is
# done once the command has ended: a prompt that does not come back is worse than a session that ends without its word.
PATIENCE_S = 2.0
_LEAVES_S = 0.5  # what a daemon's leaving takes, about
_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)  # between the attempts to bring a daemon back


class OwnedSession:
    def __init__(self, environ: Mapping[str, str]) -> None:
        """Opens it, with a daemon that is started where none runs. Raises LaunchError, NoDaemonError, OSError."""
        self._environ = environ
        self._id, self._producer = str(uuid.uuid4()), str(uuid.uuid4())
        self._turn = threading.Lock()  # of the thread below, and of whoever ends the session
        self._is_over = False
        self._connection, self._socket_path = self._connect(_in(launch.START_TIMEOUT_S))

    @property
    def variables(self) -> dict[str, str]:
        """What the environment of its workers says."""
        return {"BRAKIT_SESSION_ID": self._id, "BRAKIT_SIDECAR_SOCKET": self._socket_path}

    def outlive_daemons(self) -> None:
        """From here on a thread brings back a daemon that dies. It inherits the caller's signal mask."""
        threading.Thread(target=self._outlive_daemons, daemon=True).start()

    def end(self, exit_reason: str) -> None:
        """Says so, to the next daemon where this one dies before it has heard it. PATIENCE_S at most. Never raises."""
        deadline = _in(PATIENCE_S)
        if not self._turn.acquire(timeout=PATIENCE_S):
            return  # the thread has waited that long for another daemon
        while not self._is_over and not self._says_end(exit_reason, deadline):
            self._is_over = not self._comes_back(deadline)
        self._is_over = True
        self._connection.close()
        self._turn.release()

    def _says_end(self, exit_reason: str, deadline: float) -> bool:
        try:
            self._connection.say({"end": {"exit_reason": exit_reason}})
            self._connection.ask("identity", _until(deadline))  # an answer: it has heard the end
        except SilentDaemonError:  # it is stopped, or stuck: it will hear it when it goes on
            return True
        except NoDaemonError:
            return False
        return True

    def _outlive_daemons(self) -> None:
        pauses = iter(_PAUSES_S)
        while True:
            self._connection.wait_for_hangup()
            with self._turn:
                if self._is_over:
                    return
                if self._comes_back(_in(launch.START_TIMEOUT_S)):
                    pauses = iter(_PAUSES_S)
                    continue
            pause_s = next(pauses, None)
            if pause_s is None:
                return
            time.sleep(pause_s)

    def _comes_back(self, deadline: float) -> bool:
        """To the daemon after one that died; to none after one that left in order, which has ended all sessions and
        taken its socket with it.
        """
        try:
            if not os.path.lexists(self._socket_path):
                self._is_over = True
                return False
            connection, _ = self._connect(deadline)
        except Exception as error:  # noqa: BLE001 (the command runs on, without telemetry)
            debug("the session has no daemon", error)
            return False
        self._connection.close()
        self._connection = connection
        return True

    def _connect(self, deadline: float) -> tuple[Conversation, str]:
        """A connection whose end, without a word, is the session's."""
        for _attempt in range(ATTEMPTS):
            daemon = launch.ensure_running(self._environ, PATIENCE_S, _until(deadline))
            answer_s = min(PATIENCE_S, _until(deadline))
            try:
                connection = Conversation(
                    daemon.socket, answer_s, session=self._id, producer=self._producer, role="owner"
                )
                is_open = connection.ask({"open": {"session": self._id}})
            except SilentDaemonError:
                raise
            except NoDaemonError:  # it is just leaving
                time.sleep(min(_LEAVES_S, _until(deadline)))
                continue
            if not is_open:
                connection.close()
                self._is_over = True
                raise NoDaemonError("the session is over")
            return connection, daemon.socket
        raise NoDaemonError("each daemon hung up")


def _in(seconds: float) -> float:
    return time.monotonic() + seconds


def _until(deadline: float) -> float:
    """The seconds that are left. Never none, which would mean to wait for nothing, or for ever."""
    return max(0.001, deadline - time.monotonic())
