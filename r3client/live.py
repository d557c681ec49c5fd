"""What is known of a job while it runs: its events, added up. Texts as far as they are written, pictures, progress.

When a worker is lost another one goes on from the last finished picture, and writes unfinished texts again: at
`job.started` they are dropped here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from r3client import events as ev
from r3client.models import (
    DescribeResult,
    Image,
    Job,
    JobStatus,
    Reflection,
    RoundtripResult,
    StopReason,
    Trajectory,
)


@dataclass
class LiveText:
    """A text as far as it is written."""

    text: str = ""
    is_done: bool = False

    def add(self, piece: str) -> None:
        """Another piece; after a whole text it is the first of another."""
        self.text, self.is_done = (piece if self.is_done else self.text + piece), False

    def finish(self, whole: str) -> None:
        """The whole text."""
        self.text, self.is_done = whole, True

    def drop_if_partial(self) -> None:
        """Forget what will be written again."""
        if not self.is_done:
            self.text = ""


@dataclass
class LiveRound:
    """A round as far as it has come."""

    index: int
    image: Image | None = None
    preview: Image | None = None
    instruction: str | None = None
    step: int = 0
    steps: int = 0
    reflection: LiveText = field(default_factory=LiveText)
    reflected: Reflection | None = None


@dataclass
class LiveTrajectory:
    """A trajectory as far as it has come."""

    index: int
    reasoning: LiveText = field(default_factory=LiveText)
    description: LiveText = field(default_factory=LiveText)
    rounds: dict[int, LiveRound] = field(default_factory=dict)
    stop_reason: StopReason | None = None
    image: Image | None = None

    def round(self, index: int) -> LiveRound:
        """That round, which begins where it is not there yet."""
        return self.rounds.setdefault(index, LiveRound(index))

    @property
    def newest(self) -> LiveRound | None:
        """The round that it is at."""
        return self.rounds[max(self.rounds)] if self.rounds else None


class Live:
    """A job, from its events."""

    def __init__(self) -> None:
        self.job_id: str | None = None
        self.status: JobStatus = "queued"
        self.position: int | None = None
        self.eta_s: float | None = None
        self.attempt = 0
        self.trajectories: dict[int, LiveTrajectory] = {}
        self.waiting: ev.Waiting | None = None

    def trajectory(self, index: int) -> LiveTrajectory:
        """That trajectory, which begins where it is not there yet."""
        return self.trajectories.setdefault(index, LiveTrajectory(index))

    def take(self, event: ev.Event) -> None:
        """Add an event."""
        self.waiting = event if isinstance(event, ev.Waiting) else None
        self.job_id = event.job_id or self.job_id
        match event:
            case ev.JobQueued():
                self.position, self.eta_s = event.position, event.eta_s
            case ev.JobStarted():
                self._start(event)
            case ev.StreamReset():
                self._become(event.job)
            case ev.JobSucceeded():
                self._become(event.job)
            case ev.JobFailed():
                self.status = "failed"
            case ev.JobCancelled():
                self.status = "cancelled"
            case _ if event.trajectory is not None:
                _add(self.trajectory(event.trajectory), event)

    def _start(self, event: ev.JobStarted) -> None:
        self.status, self.attempt, self.position, self.eta_s = "running", event.attempt, None, None
        for trajectory in self.trajectories.values():
            trajectory.reasoning.drop_if_partial()
            trajectory.description.drop_if_partial()
            for round_ in trajectory.rounds.values():
                round_.reflection.drop_if_partial()
                if round_.image is None:
                    round_.step, round_.preview = 0, None

    def _become(self, job: Job) -> None:
        self.status, self.attempt = job.status, job.attempt
        self.position, self.eta_s = job.queue_position, job.eta_s
        self.trajectories = {trajectory.index: _as_live(trajectory) for trajectory in job.trajectories}
        if (text := _described(job)) is not None:
            self.trajectory(0).description.finish(text)


def _add(to: LiveTrajectory, event: ev.Event) -> None:
    match event:
        case ev.ReasonDelta():
            to.reasoning.add(event.text)
        case ev.ReasonDone():
            to.reasoning.finish(event.text)
        case ev.ImageProgress():
            to.round(event.round).step, to.round(event.round).steps = event.step, event.steps
        case ev.ImagePreview():
            to.round(event.round).preview = event.image
        case ev.ImageDone():
            round_ = to.round(event.round)
            round_.image, round_.instruction, round_.preview = event.image, event.instruction, None
        case ev.ReflectDelta():
            to.round(event.round).reflection.add(event.text)
        case ev.ReflectDone():
            to.round(event.round).reflection.finish(event.text)
            to.round(event.round).reflected = event
        case ev.DescribeDelta() | ev.DescribeDone():
            _add_description(to.description, event)
        case ev.TrajectoryDone():
            to.stop_reason, to.image = event.stop_reason, event.image
        case _:
            pass


def _add_description(to: LiveText, event: ev.DescribeDelta | ev.DescribeDone) -> None:
    if isinstance(event, ev.DescribeDone):
        to.finish(event.text)
    else:
        to.add(event.text)


def _described(job: Job) -> str | None:
    match job.result:
        case DescribeResult(text=text) | RoundtripResult(description=text):
            return text
        case _:
            return None


def _as_live(trajectory: Trajectory) -> LiveTrajectory:
    live = LiveTrajectory(trajectory.index, stop_reason=trajectory.stop_reason, image=trajectory.image)
    if trajectory.reasoning is not None:
        live.reasoning.finish(trajectory.reasoning)
    for stored in trajectory.rounds:
        round_ = live.round(stored.index)
        round_.image, round_.instruction, round_.reflected = stored.image, stored.instruction, stored.reflection
        if stored.reflection is not None:
            round_.reflection.finish(stored.reflection.text)
    return live
