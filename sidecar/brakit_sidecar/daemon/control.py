"""The questions of commands, and their answers. Every answer is made at once, from the state in memory."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeGuard

from ..core.endpoint import describe
from ..core.frames import UUID, Occurred, admit_event_fields, is_destination
from ..core.outbox import Outcome, Reason
from ..core.payload import admitted
from ..core.refusal import Refusal
from ..core.schema import JOURNEY, SESSION, SESSION_FIELDS
from ..core.session.table import Opening
from ..core.version import __version__
from ..core.wire import PROTOCOL
from ..host import process

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.destination import Destination
    from ..core.outbox import Outbox
    from ..core.session.session import Session
    from ..core.session.table import SessionTable
    from .consent_gate import ConsentGate
    from .reporter import Reporter
    from .service import Service


@dataclass
class Control:
    """Answers each question of QUESTIONS."""

    table: SessionTable
    service: Service
    reporter: Reporter
    outbox: Outbox
    consent: ConsentGate
    socket_path: str
    destination: Destination
    stop_daemon: Callable[[], None]  # begins to stop the daemon
    wake: Callable[[], None]  # called if a due time may have moved
    started_at: float = field(default_factory=monotonic)

    def answer(self, question: Any) -> Any:
        """Answer a question: a name, or an object of one name and its arguments.

        Returns a Refusal for other objects.
        """
        if isinstance(question, str):
            question = {question: {}}
        if not isinstance(question, dict) or len(question) != 1:
            return Refusal.UNKNOWN_ASK
        ((name, arguments),) = question.items()
        if name not in QUESTIONS or not isinstance(arguments, dict):
            return Refusal.UNKNOWN_ASK
        try:
            return QUESTIONS[name](self, **arguments)
        except TypeError:  # the question does not take these arguments
            return Refusal.UNKNOWN_ASK

    # --- about the daemon ------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "protocol": PROTOCOL,
            "pid": os.getpid(),
            "socket": self.socket_path,
            "destination": self._destination(),
        }

    def status(self) -> dict[str, Any]:
        consent = self.consent.status()  # this call comes first, because a recovery may wait for it
        now, outbox = monotonic(), self.outbox
        dropped = Counter(outbox.dropped) + self.reporter.withheld
        return {
            "running": True,
            **self.identity(),
            "destination": {**self._destination(), "kept_local": self._kept_local()},
            "uptime_s": round(now - self.started_at, 3),
            "sessions": [self._session(session, now) for session in self.table.open.values()],
            "refused": {reason.value: count for reason, count in sorted(self.service.refusals.items())},
            "delivery": {
                "sent": outbox.outcomes[Outcome.SENT],
                "local": outbox.outcomes[Outcome.LOCAL],
                "queued": outbox.queued,
                "dropped": {reason.value: count for reason, count in sorted(dropped.items())},
            },
            "consent": consent,
        }

    def _session(self, session: Session, now: float) -> dict[str, Any]:
        live = sum(worker.is_live for worker in session.workers.values())
        self.service.read_counters(session)
        return {
            "id": session.id,
            "age_s": round(session.age_s(now), 3),
            "producers": {"live": live, "gone": len(session.workers) - live},
            "fields": admitted(SESSION, session.report(now).values),
        }

    def _destination(self) -> dict[str, str]:
        return {"digest": self.destination.digest, "name": describe(self.destination)}

    def _kept_local(self) -> dict[str, str]:
        """Return the reason of each open session whose events stay on this machine."""
        kept = {}
        for session in self.table.open.values():
            reason = session.kept_local
            if reason is None and session.terms.destination != self.destination.digest:
                reason = Reason.OTHER_SETTINGS
            if reason is not None:
                kept[session.id] = reason.value
        return kept

    def stop(self) -> dict[str, Any]:
        self.stop_daemon()
        return {"stopping": True}

    def consent_changed(self) -> dict[str, Any]:
        is_on = self.consent.allows()
        dropped = self.service.withdraw() if is_on is False else 0
        return {"on": bool(is_on), "dropped": dropped}

    # --- about a session -------------------------------------------------------------------------------------------

    def open_session(
        self,
        session: object,
        owner_pid: object = None,
        pid_namespace: object = None,
        destination: object = None,
    ) -> dict[str, Any] | Refusal:
        """Open a session. ``owner_pid`` is the id that its owner has in ``pid_namespace``."""
        if not _is_uuid(session) or not _is_destination_or_none(destination):
            return Refusal.BAD_VALUE
        if owner_pid is not None and not _may_own(owner_pid, pid_namespace):
            return Refusal.BAD_VALUE
        if session not in self.table.open and self.table.is_full:
            return Refusal.TOO_MANY
        if session not in self.table.open:
            self.consent.allows()  # a new session counts under the current anonymous id
        opened, effects = self.table.open_session(session, Opening(monotonic(), self.service.terms(destination)))
        if opened is None:
            return Refusal.SESSION_ENDED
        if type(owner_pid) is int:
            effects += opened.own_by_process(owner_pid)
        if effects:
            self.service.run(effects)
            self.wake()
        return {"session": opened.id}

    def end_session(self, session: object, exit_reason: object = "clean") -> dict[str, Any] | Refusal:
        if not _is_uuid(session):
            return Refusal.BAD_VALUE
        found = self.table.open.get(session)
        reason = SESSION_FIELDS["exit_reason"].domain.admit(exit_reason)
        if found is None or reason is None:
            return Refusal.SESSION_ENDED if found is None else Refusal.BAD_VALUE
        now = monotonic()
        self.service.run(found.end(reason, now, now))
        self.wake()
        return {"session": found.id}

    def result(self, session: object) -> dict[str, Any] | Refusal:
        """Return what became of a session that has ended: {"open": True} before that, {} if it is not known."""
        if not _is_uuid(session):
            return Refusal.BAD_VALUE
        if session in self.table.open:
            return {"open": True}
        return self.reporter.outcomes.of(session) or {}

    def emit(
        self, event: object, fields: object, session: object = None, destination: object = None
    ) -> dict[str, Any] | Refusal:
        """Report a journey event of a command. The event may belong to a session.

        The command is not a producer of the session.
        """
        spec = JOURNEY.get(event) if isinstance(event, str) else None
        if spec is None:
            return Refusal.UNKNOWN_EVENT
        if not isinstance(fields, dict) or not (session is None or _is_uuid(session)):
            return Refusal.BAD_VALUE
        if not _is_destination_or_none(destination):
            return Refusal.BAD_VALUE
        admitted_fields, refused = admit_event_fields(spec, fields)
        if refused:
            return next(iter(refused.values()))
        occurred = Occurred(spec, admitted_fields)
        found = None if session is None else self.table.open.get(session)
        if found is None and session is not None and self.table.has_ended(session):
            return Refusal.SESSION_ENDED
        if found is None or (destination is not None and destination != found.terms.destination):
            # No session is named, or it belonged to an earlier daemon, or it has another destination.
            self.reporter.report_without_session(occurred, destination)
            return {"emitted": True}
        if spec.requests_in:  # the event has a count of all producers
            self.service.read_counters(found)
        self.service.run(found.receive_event(occurred, monotonic()))
        return {"emitted": True}


QUESTIONS: dict[str, Callable[..., Any]] = {
    "identity": Control.identity,
    "status": Control.status,
    "stop": Control.stop,
    "consent": Control.consent_changed,
    "open": Control.open_session,
    "end": Control.end_session,
    "result": Control.result,
    "emit": Control.emit,
}


def _is_destination_or_none(value: object) -> TypeGuard[str | None]:
    return value is None or is_destination(value)


def _is_uuid(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and UUID.fullmatch(value) is not None


def _may_own(pid: object, pid_namespace: object) -> bool:
    """Return whether the daemon can end a session when that process exits. The daemon itself may not own one."""
    is_same_namespace = pid_namespace is None or pid_namespace == process.pid_namespace()
    return type(pid) is int and is_same_namespace and pid != os.getpid() and process.why_not_owner(pid) is None
