"""What keeps a worker in touch beside its engine: leases renewed, heartbeats, and the control feed. Two threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from server.held import Leases
from server.inbox import Inbox, Order
from server.queue_errors import QueueUnavailable
from server.queue_records import Json
from server.queue_worker import WorkerQueue
from server.worker_health import Vitals
from server.worker_thread import WorkerThread

log = structlog.get_logger("r3.worker")

AFTER_TROUBLE_S: Final = 1.0
STOPPED_WITHIN_S: Final = 10.0  # longer than a call to a Redis that does not answer


class Lifeline:
    """Renews every `renew_s` from a thread of its own, so that no step of the engine starves it."""

    def __init__(
        self,
        work: WorkerQueue,
        leases: Leases,
        inbox: Inbox,
        vitals: Vitals,
        *,
        description: Json,
        info: Callable[[], Json],
        renew_s: float,
    ) -> None:
        self._work, self._leases, self._inbox, self._vitals = work, leases, inbox, vitals
        self._description, self._info, self._renew_s = description, info, renew_s
        self._closing = threading.Event()
        self._is_registered = False
        self._is_there = True
        self.thread = WorkerThread("renewals", self._run)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def stop(self) -> None:
        """End, with the beat that is under way; what is still held runs out."""
        self._closing.set()
        self.thread.join(STOPPED_WITHIN_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._beat()
                self._redis_is(True)
            except QueueUnavailable as error:
                self._redis_is(False, str(error))
                self._is_registered = False  # it may come back empty
            except Exception:  # the next beat may be better; without beats every job would be lost
                log.exception("a heartbeat failed")
            self._closing.wait(self._renew_s)

    def _redis_is(self, there: bool, reason: str = "") -> None:
        """Logged when it changes: an outage may be long."""
        if there != self._is_there:
            log.warning("Redis is back" if there else "Redis is away", reason=reason, held=len(self._leases))
        self._is_there = there
        self._vitals.redis_answered(there)

    def _beat(self) -> None:
        leases = {lease.id: lease for lease in self._leases.all()}
        answers = self._work.renew([(lease.id, lease.token) for lease in leases.values()])
        for job_id, answer in answers.items():
            if answer != "ok":
                self._inbox.put(Order(answer, job_id, leases[job_id].token))
        self._work.heartbeat(self._info())
        if not self._is_registered:
            self._work.register(self._description)
            self._is_registered = True


class ControlFeed:
    """Hears cancel, stop and new work when they are said."""

    def __init__(self, work: WorkerQueue, inbox: Inbox, *, model: str, look: Callable[[], None]) -> None:
        self._work, self._inbox, self._model, self._look = work, inbox, model, look
        self._closing = threading.Event()
        self.thread = WorkerThread("control", self._run)

    def start(self) -> None:
        """Begin; it ends when the queue is closed."""
        self.thread.start()

    def stop(self) -> None:
        """Hear nothing more; the thread ends with the queue's connection."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen()
            except Exception:  # renewals tell the same, later
                log.exception("the control feed failed")
                self._closing.wait(AFTER_TROUBLE_S)

    def _listen(self) -> None:
        for control in self._work.control():
            if self._closing.is_set():
                return
            if control.word != "wake":
                self._inbox.put(Order(control.word, control.name))
            elif control.name in ("", self._model):
                self._look()
        self._closing.set()
