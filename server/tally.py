"""What is counted of jobs while the engine's loop works on them: how they ended, and how long what took.

Times since submission go by the wall clocks of Redis and of this machine, which are to be kept together; all else by
the monotonic clock. For the worker's main thread.
"""

from __future__ import annotations

import time

from r3core.errors import R3Error
from r3core.events import Event, ImageReady, Reasoned, Reflected, Scored, TextDelta
from r3core.loop import wanted
from r3core.types import Trajectory
from server.held import HeldJob
from server.queue_records import Json, Lease
from server.step_spans import StepSpans, is_first_score
from server.traces import OFF, Traces
from server.worker_metrics import Outcome, Phase, WorkerMetrics


class Tally:
    """Told what happens, in the order in which it happens; what are steps of a job becomes spans of its trace, too."""

    def __init__(self, metrics: WorkerMetrics, traces: Traces = OFF) -> None:
        self._metrics, self._spans = metrics, StepSpans(traces)
        self._phase_began_s: dict[str, float] = {}
        """By the engine's key of a trajectory."""
        self._written: set[str] = set()
        """Jobs that have had a token, or whose first one was not ours to see."""
        self._drawn: set[str] = set()
        """Jobs that have had a picture drawn."""
        self._round_of: dict[str, int] = {}
        """By the engine's key, the round of the last picture that was drawn."""

    def begun(self, job: HeldJob) -> None:
        """A leased job has arrived."""
        stored = job.lease.job
        if job.lease.resumed:
            self._written.add(stored.id)
        elif stored.started_ms is not None:
            self._metrics.queue_time_s.observe(max(0, stored.started_ms - stored.created_ms) / 1000)
        if any(_drawings(trajectory) for trajectory in stored.trajectories):
            self._drawn.add(stored.id)

    def added(self, job: HeldJob, index: int) -> None:
        """The engine has a trajectory."""
        self._phase_began_s[job.key(index)] = time.monotonic()
        self._spans.added(job, index)

    def said(self, job: HeldJob, index: int, said: Event) -> None:
        """The engine said something of a trajectory."""
        is_more = isinstance(said, ImageReady) and self._is_more(job.key(index), said)
        if not is_more:
            self._spans.said(job, index, said)
        match said:
            case TextDelta():
                if job.lease.id not in self._written:
                    self._written.add(job.lease.id)
                    self._metrics.first_token_s.observe(since_submission_s(job.lease))
            case Reasoned():
                self._ended(job.key(index), "reason")
            case Reflected():
                self._ended(job.key(index), "reflect")
            case Scored() if is_first_score(job.newest[index].request, said):
                self._ended(job.key(index), "judge")
            case ImageReady(round=0, trajectory=trajectory) if trajectory.request.given_image:  # nothing was drawn
                self._phase_began_s[job.key(index)] = time.monotonic()
            case ImageReady():
                self._drew(job, index, said, is_more=is_more)

    def _is_more(self, key: str, said: ImageReady) -> bool:
        """Whether the picture was drawn together with the one before, by one step: its time is that one's."""
        before, self._round_of[key] = self._round_of.get(key), said.round
        return before == said.round

    def _drew(self, job: HeldJob, index: int, said: ImageReady, *, is_more: bool) -> None:
        phase: Phase = "refine" if said.round else "generate"
        if not is_more:
            self._ended(job.key(index), phase)
        if wanted(said.trajectory, said.round) > 1:
            self._metrics.candidates.inc()
        self._metrics.images.labels(phase).inc()
        if job.lease.id not in self._drawn:
            self._drawn.add(job.lease.id)
            self._metrics.first_image_s.observe(since_submission_s(job.lease))

    def _ended(self, key: str, phase: Phase) -> None:
        now_s = time.monotonic()
        self._metrics.phase_s.labels(phase).observe(now_s - self._phase_began_s.get(key, now_s))
        self._phase_began_s[key] = now_s

    def stopped(self, trajectory: Trajectory) -> None:
        """A trajectory is at its end."""
        self._metrics.stops.labels(trajectory.stop_reason).inc()
        self._metrics.rounds.observe(max(0, len(trajectory.rounds) - 1))
        self._metrics.discarded.inc(trajectory.usage.discarded_images)

    def failed(self, error: R3Error) -> None:
        """A trajectory failed."""
        self._metrics.failures.labels(error.code).inc()

    def left(self, job: HeldJob, outcome: Outcome) -> None:
        """A job has left the engine; one that ends is counted when its end is written (publisher.py)."""
        if outcome in ("given_back", "lost"):
            self._metrics.jobs.labels(outcome).inc()
        self._metrics.inference_s.observe(time.monotonic() - job.began_s)
        for index in job.newest:
            self._phase_began_s.pop(job.key(index), None)
            self._round_of.pop(job.key(index), None)
        self._spans.left(job)
        self._written.discard(job.lease.id)
        self._drawn.discard(job.lease.id)


def since_submission_s(lease: Lease) -> float:
    """The age of a job."""
    return max(0.0, time.time() - lease.job.created_ms / 1000)


def _drawings(stored: Json | None) -> int:
    """How many pictures of a stored trajectory were drawn, and not given."""
    if stored is None:
        return 0
    return max(0, len(stored["rounds"]) - bool(stored["request"].get("given_image")))
