"""The engine's loop, in the worker's main thread: jobs in, orders obeyed, the engine turned, its events handed on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import structlog

from r3core.engine.engine import Engine
from r3core.errors import R3Error, StepFailed, origin
from r3core.events import Cancelled, Event, Failed, Finished, ImageReady
from r3core.loop import ended
from r3core.types import StopReason, Trajectory
from server.held import HeldJob, Leases, Ready, Turn, Waiting
from server.inbox import Inbox, Order
from server.intake import Intake
from server.publications import End, Forget, GiveBack, Item
from server.publisher import Publisher, Unpublished
from server.queue_records import Ending, Json
from server.tally import Tally
from server.telling import Telling
from server.worker_health import Vitals
from server.worker_metrics import Outcome

log = structlog.get_logger("r3.worker")

IDLE_S: Final = 0.5
GAUGED_EVERY_S: Final = 0.1  # of turns that may be shorter than a millisecond
_TURN_OF: Final[dict[str, Turn]] = {"cancel": "cancelled", "stop": "stopped", "lost": "lost"}
_STOP_REASONS: Final[dict[Turn | None, StopReason]] = {"stopped": "stopped", "deadline": "deadline"}


class EngineLoop:
    """See above. `run` returns when the worker was asked to leave and nothing is left to do."""

    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        intake: Intake,
        publisher: Publisher,
        leases: Leases,
        vitals: Vitals,
        drain_s: float,
    ) -> None:
        self._engine, self._inbox, self._intake = engine, inbox, intake
        self._publisher, self._leases, self._vitals = publisher, leases, vitals
        self._drain_s, self._metrics = drain_s, vitals.metrics
        self._watched: Callable[[], AbstractContextManager[None]] = nullcontext
        self._telling, self._tally = Telling(self._put), Tally(vitals.metrics, vitals.traces)
        self._jobs: dict[str, HeldJob] = {}
        self._in_engine: dict[str, tuple[HeldJob, int]] = {}
        self._gauged_at_s = float("-inf")
        self._is_leaving = False
        self._leave_by_s: float | None = None

    def run(self, look: Callable[[], None], turn: Callable[[], AbstractContextManager[None]]) -> None:
        """Until asked to leave. `look` is called every turn, and raises where the worker cannot go on; the device is
        asked for something within a `turn()`.

        Raises Unpublished where it was time to leave and the line of what is to be published was still full, and what
        the engine raises where the device is lost.
        """
        self._watched = turn
        while not self._is_over():
            look()
            for said in self._inbox.read():
                if isinstance(said, Ready):
                    self._begin(said)
                else:
                    self._obey(said)
            self._watch_the_clock()
            self._fill()
            if self._engine.has_work:
                self._step()
            else:
                self._inbox.wait(IDLE_S)
            self._measure()
            self._vitals.beat()

    def abandon(self) -> None:
        """Give back all that was begun, because this worker cannot go on. Any of it may be why: strikes are kept."""
        for job in self._jobs.values():
            self._put(GiveBack(job.lease, forgive=False))
        self._jobs.clear()

    def turn_away(self) -> None:
        """Give back what has arrived and was not begun, which is innocent."""
        for said in self._inbox.read():
            if isinstance(said, Ready):
                self._intake.received()
                self._put(GiveBack(said.lease))

    # jobs in

    def _begin(self, ready: Ready) -> None:
        job_id = ready.lease.id
        if (old := self._jobs.get(job_id)) is not None:
            self._turn(old, "lost")
        job = self._jobs[job_id] = HeldJob.begun(ready, time.monotonic())
        self._intake.received()
        self._tally.begun(job)
        if not job.open:
            self._put(End(job.lease, None, {}, Ending("succeeded")))
            self._leave(job, "succeeded")
            return
        if ready.lease.job.cancel_asked:
            self._turn(job, "cancelled")
        elif ready.lease.job.stop_asked:
            self._turn(job, "stopped")
        if (turn := self._leases.ordered(job_id)) is not None:
            self._turn(job, turn)
        if self._is_leaving:
            self._turn(job, "given_back")  # what has begun ends with its next picture

    def _fill(self) -> None:
        """Give the engine what waits for room, oldest first, then say how much room is left."""
        for job in list(self._jobs.values()):
            while job.waiting and self._engine.room > 0:
                self._add(job, job.waiting.popleft())
        alone = any(job.lease.alone and not job.has_advanced for job in self._jobs.values())
        if not self._is_leaving:
            self._intake.offer(0 if alone else self._room)

    def _add(self, job: HeldJob, waiting: Waiting) -> None:
        trajectory, pictures = waiting
        key = job.key(trajectory.index)
        try:
            self._engine.add(key, trajectory, pictures)
        except R3Error as error:
            self._failed(job, trajectory, error)
        except Exception as error:  # one request's trouble must not end the others
            log.exception("a trajectory cannot be begun", **job.lease.named, trajectory=trajectory.index)
            self._failed(job, trajectory, StepFailed(f"it could not be begun ({type(error).__name__})"))
        else:
            self._in_engine[key] = (job, trajectory.index)
            self._tally.added(job, trajectory.index)

    # orders, deadlines, leaving

    def _obey(self, order: Order) -> None:
        job = self._jobs.get(order.job_id)
        if job is not None and order.token in (None, job.lease.token):
            self._turn(job, _TURN_OF[order.word])
        elif job is None and order.token is None:
            self._leases.order(order.job_id, _TURN_OF[order.word])  # it may be on its way here

    def _watch_the_clock(self) -> None:
        for job in list(self._jobs.values()):
            if job.is_overdue:
                self._turn(job, "deadline")
        if self._inbox.asked_to_leave and not self._is_leaving:
            self._begin_to_leave()
        if self._is_time_to_leave():
            for key in self._in_engine:
                self._engine.abort(key)

    def _begin_to_leave(self) -> None:
        log.info("leaving: no new jobs, rounds in hand are finished", jobs=len(self._jobs), drain_s=self._drain_s)
        self._is_leaving = self._vitals.is_draining = True
        self._intake.close()
        for job in list(self._jobs.values()):
            self._turn(job, "given_back")  # what has begun ends with its next picture

    def _is_time_to_leave(self) -> bool:
        """Whether it was asked to leave, and either urgently or so long ago that nothing is finished any more."""
        if not self._inbox.asked_to_leave:
            return False
        if self._leave_by_s is None:
            self._leave_by_s = time.monotonic() + self._drain_s
        return self._inbox.asked_to_leave > 1 or time.monotonic() >= self._leave_by_s

    def _is_over(self) -> bool:
        return self._is_leaving and not self._jobs and self._intake.is_over

    def _turn(self, job: HeldJob, turn: Turn) -> None:
        """Have a job end for a reason of its own."""
        if job.turn_to(turn):
            log.info("job is to end", **job.lease.named, turn=job.turn)
            self._abort(job)

    def _abort(self, job: HeldJob) -> None:
        """What waits ends now, what the engine has with its next step; a lost job is dropped at once."""
        if job.turn != "given_back":
            for index in job.open:
                self._engine.abort(job.key(index))
        if job.turn == "lost":
            self._leases.drop(job.lease)
            self._leave(job, "lost")
            self._put(Forget(job.lease))
            return
        waiting = [trajectory for trajectory, _ in job.waiting]
        job.waiting.clear()
        for trajectory in waiting:
            self._cancelled(job, trajectory)

    # the engine's events

    def _step(self) -> None:
        began_s = time.perf_counter()
        busy = [job for job, _ in self._in_engine.values()]
        with self._watched():
            events = self._engine.step()
        took_s = time.perf_counter() - began_s
        self._metrics.step_s.observe(took_s)
        for job in busy:
            job.compute_s += took_s / len(busy)
        for key, said in events:
            if key in self._in_engine:
                self._on(self._in_engine[key][0], key, said)

    def _measure(self) -> None:
        """Count what was computed, and say what is under way: that now and then, and whenever the engine is done."""
        with self._watched():
            took = self._engine.took()
        self._metrics.took(took)
        now_s = time.monotonic()
        if self._engine.has_work and now_s - self._gauged_at_s < GAUGED_EVERY_S:
            return
        self._gauged_at_s = now_s
        self._metrics.room.set(self._room)
        self._metrics.running.set(len(self._in_engine))
        self._metrics.kv_used.set(self._engine.kv_cache_used_bytes)

    @property
    def _room(self) -> int:
        """How many trajectories may come."""
        return max(0, self._engine.room - sum(len(job.waiting) for job in self._jobs.values()))

    def _on(self, job: HeldJob, key: str, said: Event) -> None:
        self._tally.said(job, self._in_engine[key][1], said)
        match said:
            case Finished(trajectory):
                self._out(key)
                self._end(job, trajectory)
            case Failed(error, trajectory):
                self._out(key)
                self._failed(job, trajectory, error)
            case Cancelled(trajectory):
                self._out(key)
                self._cancelled(job, trajectory)
            case ImageReady(trajectory=trajectory):
                job.has_advanced, job.newest[trajectory.index] = True, trajectory
                self._telling.tell(job, trajectory.index, said)
                if job.turn == "given_back":
                    self._engine.abort(key)
            case _:
                self._telling.tell(job, self._in_engine[key][1], said)

    def _out(self, key: str) -> None:
        job, index = self._in_engine.pop(key)
        self._telling.forget(job, index)

    # trajectories and jobs out

    def _end(self, job: HeldJob, trajectory: Trajectory) -> None:
        """A trajectory is at its end; where it is the last, so is its job."""
        assert trajectory.stop_reason is not None
        self._tally.stopped(trajectory)
        self._close(job, trajectory)

    def _failed(self, job: HeldJob, trajectory: Trajectory, error: R3Error) -> None:
        fault = {"trajectory": trajectory.index, "code": error.code, "fault": origin(error)}
        log.warning("trajectory failed", **job.lease.named, **fault)
        self._tally.failed(error)
        self._close(job, trajectory, turn=("failed", {"code": error.code, "message": str(error)}))

    def _cancelled(self, job: HeldJob, trajectory: Trajectory) -> None:
        """A trajectory was ended by us: it is put aside, or stored as far as it came."""
        if job.turn == "given_back":
            job.is_unfinished = True
            job.open.discard(trajectory.index)
            self._leave_if_done(job)
        elif (reason := _STOP_REASONS.get(job.turn)) is not None:
            self._end(job, ended(trajectory, reason))
        else:
            self._close(job, trajectory)

    def _close(self, job: HeldJob, trajectory: Trajectory, turn: tuple[Turn, Json] | None = None) -> None:
        """Store a trajectory that is done with, and end the job with the last of them."""
        job.newest[trajectory.index] = trajectory
        job.open.discard(trajectory.index)
        if turn is not None:
            # Its own trajectories end with the next step; this one must not be counted among them.
            job.turn_to(*turn)
        ending = None if job.open else job.ending()
        self._put(End(job.lease, trajectory, job.spent_on(trajectory), ending))
        if turn is not None:
            self._abort(job)
        self._leave_if_done(job)

    def _leave_if_done(self, job: HeldJob) -> None:
        if job.open or self._jobs.get(job.lease.id) is not job:
            return
        ending = job.ending()
        if ending is None:
            self._put(GiveBack(job.lease))
        self._leave(job, "given_back" if ending is None else ending.status)

    def _leave(self, job: HeldJob, outcome: Outcome) -> None:
        del self._jobs[job.lease.id]
        for index in job.newest:
            self._in_engine.pop(job.key(index), None)
            self._telling.forget(job, index)
        self._tally.left(job, outcome)
        log.info("job left", **job.lease.named, outcome=outcome, attempt=job.lease.attempt)

    def _put(self, item: Item) -> None:
        self._publisher.put(item, waiting=self._line_is_full)

    def _line_is_full(self) -> None:
        self._vitals.beat()
        if self._vitals.broken is not None or self._is_time_to_leave():
            raise Unpublished
