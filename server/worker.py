"""The worker process: loads a model, takes jobs for it from the queue, and says what comes of them.

main       the engine's loop                                          engine_loop.py
intake     leases jobs and makes them ready                           intake.py
publisher  encodes and stores pictures, writes events, checkpoints    publisher.py
renewals   renews the leases and says that the worker lives           lifeline.py
control    hears cancel, stop and new work at once                    lifeline.py
watchdog   ends the worker where the engine does not come back        watchdog.py
health     /livez, /readyz, /startupz, /metrics on its own port       worker_health.py
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import Final

import structlog

from r3core.checkpoint import Description
from r3core.engine.engine import Engine
from r3core.errors import R3Error
from server import __version__, collector
from server.engine_loop import EngineLoop
from server.engines import make_engine
from server.held import Leases
from server.images import ImageStore
from server.inbox import Inbox, Order
from server.intake import Intake
from server.lifeline import ControlFeed, Lifeline
from server.logs import configure_logging
from server.misconfigured import EXIT_BROKEN, Misconfigured
from server.publisher import Publisher, Unpublished
from server.queue_errors import QueueError, QueueUnavailable, ServerTooOld
from server.queue_records import Json, QueuePolicy
from server.queue_worker import WorkerQueue
from server.settings import Settings
from server.traces import open_traces
from server.watchdog import Watchdog
from server.worker_health import HUNG_AFTER_S, HUNG_AFTER_S_ON_A_CPU, HealthPort, Vitals

log = structlog.get_logger("r3.worker")

PUBLISHED_WITHIN_S: Final = 15.0
ARRIVED_WITHIN_S: Final = 10.0  # what is leased already, with its pictures
ASK_AGAIN_S: Final = 1.0


def run_worker(settings: Settings) -> int:
    """Work until SIGTERM or Ctrl-C; the exit code of the process: 0, or 1 where device, engine or a thread failed.

    Raises Misconfigured, CheckpointError or DeviceError where it cannot begin.
    """
    configure_logging(settings.log_level, settings.log_format)
    if settings.redis_url is None:
        raise Misconfigured("no queue is named; give --redis-url/R3_REDIS_URL, or run `r3 serve`")
    vitals, inbox = Vitals(traces=open_traces("r3-worker")), Inbox()
    listening = HealthPort(settings.worker_host, settings.worker_port, vitals)
    with closing(vitals.traces), listening as health, _asked_to_leave(inbox):
        log.info("worker starts", version=__version__, port=health.port)
        engine, description = _loaded(settings, vitals, inbox)
        work = WorkerQueue(settings.redis_url, _worker_id(), QueuePolicy.from_settings(settings))
        try:
            if not _queue_answers(work, inbox, vitals):
                return 0
            return Worker(settings, engine, description, work, inbox, vitals).run()
        finally:
            work.close()


class Worker:
    """The threads around an engine."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        description: Description,
        work: WorkerQueue,
        inbox: Inbox,
        vitals: Vitals,
    ) -> None:
        self._engine, self._description, self._work, self._vitals = engine, description, work, vitals
        self._started_at_s = time.time()
        self._leases = Leases()
        store = ImageStore.from_settings(settings)
        self._publisher = Publisher(
            work,
            store,
            self._leases,
            vitals.metrics,
            vitals.traces,
            model_hash=description.hash,
            drop=lambda lease: inbox.put(Order("lost", lease.id, lease.token)),
        )
        self._intake = Intake(work, store, self._leases, self._publisher, model=description.name, hand_over=inbox.put)
        self._lifeline = Lifeline(
            work,
            self._leases,
            inbox,
            vitals,
            description=description.to_json(),
            info=self._info,
            renew_s=settings.renew_s,
        )
        self._control = ControlFeed(work, inbox, model=description.name, look=self._intake.look)
        self._watchdog = Watchdog(vitals, self._give_up, EXIT_BROKEN)
        self._loop = EngineLoop(engine, inbox, self._intake, self._publisher, self._leases, vitals, settings.drain_s)
        self._parts = (self._lifeline, self._control, self._publisher, self._intake)

    def run(self) -> int:
        """The exit code, once asked to leave and all is given back, or the engine or a thread has failed."""
        for part in self._parts:
            part.start()
        code = 0
        try:
            with self._watchdog:
                self._loop.run(self._look_at_threads, self._watchdog.turn)
        except Unpublished:
            log.warning("leaving with results unpublished: Redis or the image store has been away too long")
        except Exception as error:  # the device is lost, or we have a fault: others must go on with the jobs
            log.exception("the worker cannot go on; its jobs are given back")
            self._vitals.broken = str(error) if isinstance(error, R3Error) else f"{type(error).__name__}, see the log"
            self._give_back()
            code = EXIT_BROKEN
        self._end(code)
        return code

    def _end(self, code: int) -> None:
        """Publish what there is, and say good-bye."""
        if not self._publisher.finish(PUBLISHED_WITHIN_S):
            log.warning("not all was published in time; other workers go on from what was")
        self._lifeline.stop()  # with the beat under way, which would undo the farewell
        self._control.stop()
        with suppress(QueueError):
            self._work.farewell()
        log.info("worker ends", code=code)

    def _give_up(self) -> None:
        """What is left to do where the engine hangs, in a thread beside it."""
        self._give_back()
        self._end(EXIT_BROKEN)
        self._vitals.traces.close()

    def _look_at_threads(self) -> None:
        """Raises RuntimeError where one has failed: the worker would wait for it for ever."""
        for part in (*self._parts, self._watchdog):
            if part.thread.has_failed:
                raise RuntimeError(f"the {part.thread.name} thread has failed")

    def _give_back(self) -> None:
        self._intake.close()
        try:
            self._loop.abandon()
            self._intake.thread.join(ARRIVED_WITHIN_S)
            self._loop.turn_away()
        except (Unpublished, RuntimeError) as error:
            log.warning("not all could be given back; those leases run out", reason=str(error))

    def _info(self) -> Json:
        return {
            "model": self._description.name,
            "hash": self._description.hash,
            "version": __version__,
            "room": self._engine.room,
            "holding": len(self._leases),
            "draining": self._vitals.is_draining or self._vitals.broken is not None,
            "started_at_s": round(self._started_at_s),
        }


def _loaded(settings: Settings, vitals: Vitals, inbox: Inbox) -> tuple[Engine, Description]:
    """The engine, ready to work, and what it serves."""
    began_s = time.perf_counter()

    def progress(done: int, total: int) -> None:
        vitals.load_progress(done, total)
        if inbox.asked_to_leave:
            raise SystemExit(0)  # nothing is held yet

    def between() -> None:
        vitals.beat()
        if inbox.asked_to_leave:
            raise SystemExit(0)

    ready = make_engine(settings, progress=progress, between=between)
    engine, description = ready.engine, ready.description
    for line in ready.decided:
        log.info("engine", decided=line)
    plan, metrics = engine.plan(), vitals.metrics
    metrics.loaded(description.name, description.hash, __version__, time.perf_counter() - began_s)
    metrics.planned(plan, engine.memory_used_bytes)
    log.info("model loaded", model=description.name, hash=description.hash)
    collector.begin()
    vitals.hung_after_s = _hung_after_s(settings, plan.device)
    vitals.beat()
    vitals.is_loaded = True
    return engine, description


def _hung_after_s(settings: Settings, device: str) -> float:
    if settings.hung_after_s is not None:
        return settings.hung_after_s
    return HUNG_AFTER_S if device.startswith("cuda") else HUNG_AFTER_S_ON_A_CPU


def _queue_answers(work: WorkerQueue, inbox: Inbox, vitals: Vitals) -> bool:
    """Waits until Redis answers; False where it was asked to leave first. Raises Misconfigured for an old one."""
    while not inbox.asked_to_leave:
        vitals.beat()  # who waits for Redis is alive, however long it takes
        try:
            work.ping()
        except QueueUnavailable as error:
            log.warning("waiting for Redis", reason=str(error))
            inbox.wait(ASK_AGAIN_S)
        except ServerTooOld as error:
            raise Misconfigured(str(error)) from error
        else:
            return True
    return False


@contextmanager
def _asked_to_leave(inbox: Inbox) -> Iterator[None]:
    """Hear SIGTERM and Ctrl-C as a wish, not as an end."""

    def hear(_number: int, _frame: FrameType | None) -> None:
        inbox.leave()

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
