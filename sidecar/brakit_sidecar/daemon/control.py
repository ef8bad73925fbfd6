"""What a command may ask the daemon. Every answer is made at once, from what is in memory."""

from __future__ import annotations

import os
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeGuard

from ..core.frames import UUID, Occurred, admit_event_fields
from ..core.outbox import Outcome
from ..core.refusal import Refusal
from ..core.schema import JOURNEY, SESSION_FIELDS
from ..core.version import __version__
from ..core.wire import PROTOCOL
from ..host import consent, process

if TYPE_CHECKING:
    from collections.abc import Callable

    from .app import Daemon
    from .session import Session


class Control:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._questions: dict[str, Callable[..., Any]] = {
            "identity": self._identity,
            "status": self._status,
            "stop": self._stop,
            "consent": self._consent,
            "open": self._open,
            "end": self._end,
            "emit": self._emit,
        }

    def answer(self, question: Any) -> Any:
        """``question`` is a name, or an object of one name and its arguments. A Refusal where it is neither."""
        if isinstance(question, str) and question in self._questions:
            question = {question: {}}
        if not isinstance(question, dict) or len(question) != 1:
            return Refusal.UNKNOWN_ASK
        ((name, arguments),) = question.items()
        if name not in self._questions or not isinstance(arguments, dict):
            return Refusal.UNKNOWN_ASK
        try:
            return self._questions[name](**arguments)
        except TypeError:  # arguments that this question does not take
            return Refusal.UNKNOWN_ASK

    # --- about the daemon --------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "protocol": PROTOCOL,
            "pid": os.getpid(),
            "socket": self._daemon.socket_path,
        }

    def _status(self) -> dict[str, Any]:
        now = monotonic()
        daemon, box = self._daemon, self._daemon.delivery.outbox
        decision = consent.current(os.environ)
        dropped = Counter(box.dropped) + daemon.reporter.withheld
        return {
            "running": True,
            **self._identity(),
            "uptime_s": round(now - daemon.started_at, 3),
            "sessions": [self._session(session, now) for session in daemon.sessions.open.values()],
            "refused": {reason.value: count for reason, count in sorted(daemon.refused.items())},
            "delivery": {
                "sent": box.outcomes[Outcome.SENT],
                "local": box.outcomes[Outcome.LOCAL],
                "queued": box.queued,
                "dropped": {reason.value: count for reason, count in sorted(dropped.items())},
            },
            "consent": {"on": decision.on, "why": decision.why},
        }

    def _session(self, session: Session, now: float) -> dict[str, Any]:
        live = session.live_producers
        session.gather()
        return {
            "id": session.id,
            "age_s": round(session.age_s(now), 3),
            "producers": {"live": len(live), "gone": len(session.workers - live)},
            "fields": self._daemon.reporter.session_values(session, now),
        }

    def _stop(self) -> dict[str, Any]:
        self._daemon.stop()
        return {"stopping": True}

    def _consent(self) -> dict[str, Any]:
        """A person has decided, in the config. That is later than the opt-in of whoever started this daemon."""
        os.environ.pop("BRAKIT_TELEMETRY", None)
        decision = consent.current(os.environ)
        if not decision.on and not decision.unreadable:
            self._daemon.forget_everything()
        return {"on": decision.on}

    # --- about a session ---------------------------------------------------------------------------------------

    def _open(self, session: object, owner_pid: object = None) -> dict[str, Any] | Refusal:
        if not _is_uuid(session) or not (owner_pid is None or type(owner_pid) is int):
            return Refusal.BAD_VALUE
        end_of_owner = None
        if owner_pid is not None:
            end_of_owner = process.end_of(owner_pid)
            if end_of_owner is None:
                return Refusal.BAD_VALUE
        opened = self._daemon.sessions.open_session(session, monotonic())
        if opened is None:
            if end_of_owner is not None:
                os.close(end_of_owner)
            return Refusal.SESSION_ENDED
        if end_of_owner is not None:
            assert type(owner_pid) is int
            self._daemon.sessions.own_by_process(opened, owner_pid)
            self._daemon.watch_owner(opened, end_of_owner)
        return {"session": opened.id}

    def _end(self, session: object, exit_reason: object = "clean") -> dict[str, Any] | Refusal:
        if not _is_uuid(session):
            return Refusal.BAD_VALUE
        found = self._daemon.sessions.open.get(session)
        reason = SESSION_FIELDS["exit_reason"].domain.admit(exit_reason)
        if found is None or reason is None:
            return Refusal.SESSION_ENDED if found is None else Refusal.BAD_VALUE
        now = monotonic()
        self._daemon.sessions.end(found, reason, now, now)
        return {"session": found.id}

    def _emit(self, event: object, fields: object, session: object = None) -> dict[str, Any] | Refusal:
        """A journey event that a command says; of a session, but not as one of its producers."""
        occurred = JOURNEY.get(event) if isinstance(event, str) else None
        if occurred is None or not isinstance(fields, dict) or not (session is None or _is_uuid(session)):
            return Refusal.UNKNOWN_EVENT if occurred is None else Refusal.BAD_VALUE
        admitted, refused = admit_event_fields(occurred, fields)
        if refused:
            return next(iter(refused.values()))
        if session is None:
            self._daemon.reporter.journey(Occurred(occurred, admitted), None)
            return {"emitted": True}
        found = self._daemon.sessions.open.get(session)
        if found is None:
            if self._daemon.sessions.has_ended(session):
                return Refusal.SESSION_ENDED
            self._daemon.reporter.journey(Occurred(occurred, admitted), None)  # of a daemon before this one
            return {"emitted": True}
        for event_to_send in self._daemon.sessions.remark(found, Occurred(occurred, admitted), monotonic()):
            self._daemon.reporter.journey(event_to_send, found)
        return {"emitted": True}


def _is_uuid(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and UUID.fullmatch(value) is not None
