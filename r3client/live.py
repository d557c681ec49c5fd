"""What is known of a job while it runs: its events, added up. Texts as far as they are written, pictures, progress.

When a worker is lost another one goes on from the last finished picture, and writes unfinished texts again: at
`job.started` they are dropped here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from r3client import events as ev
from r3client.models import (
    Candidate,
    DescribeResult,
    Image,
    Job,
    JobStatus,
    Reflection,
    Round,
    RoundtripResult,
    Score,
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
class LivePicture:
    """A picture of a round, and what has been said of it."""

    image: Image | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    reflection: LiveText = field(default_factory=LiveText)
    reflected: Reflection | None = None


@dataclass
class LiveRound:
    """A round as far as it has come: its pictures by their number, and the one that is chosen, so far or for good."""

    index: int
    preview: Image | None = None
    instruction: str | None = None
    step: int = 0
    steps: int = 0
    pictures: dict[int, LivePicture] = field(default_factory=dict)
    chosen: int = 0

    def picture(self, candidate: int | None) -> LivePicture:
        """That picture, which begins where it is not there yet; None is the only one."""
        return self.pictures.setdefault(candidate or 0, LivePicture())

    @property
    def _shown(self) -> LivePicture:
        return self.pictures.get(self.chosen, LivePicture())

    @property
    def image(self) -> Image | None:
        """The chosen picture."""
        return self._shown.image

    @property
    def scores(self) -> dict[str, Score]:
        """What the scorers say of it."""
        return self._shown.scores

    @property
    def reflection(self) -> LiveText:
        """What the model says of it, as far as that is written."""
        return self._shown.reflection

    @property
    def reflected(self) -> Reflection | None:
        """What it said, once that is whole."""
        return self._shown.reflected


@dataclass
class LiveTrajectory:
    """A trajectory as far as it has come."""

    index: int
    reasoning: LiveText = field(default_factory=LiveText)
    description: LiveText = field(default_factory=LiveText)
    rounds: dict[int, LiveRound] = field(default_factory=dict)
    stop_reason: str | None = None
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
                for picture in round_.pictures.values():
                    picture.reflection.drop_if_partial()
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
        case ev.ImageDone() | ev.ReflectDelta() | ev.ReflectDone() | ev.Scored():
            _add_to_picture(to.round(event.round), event)
        case ev.Chosen():
            to.round(event.round).chosen = event.candidate
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


def _add_to_picture(round_: LiveRound, event: ev.ImageDone | ev.ReflectDelta | ev.ReflectDone | ev.Scored) -> None:
    picture = round_.picture(event.candidate)
    match event:
        case ev.ImageDone():
            picture.image = event.image
            round_.instruction, round_.preview = event.instruction, None
        case ev.ReflectDelta():
            picture.reflection.add(event.text)
        case ev.ReflectDone():
            picture.reflection.finish(event.text)
            picture.reflected = event
        case ev.Scored():
            picture.scores[event.scorer] = event


def _as_live(trajectory: Trajectory) -> LiveTrajectory:
    live = LiveTrajectory(trajectory.index, stop_reason=trajectory.stop_reason, image=trajectory.image)
    if trajectory.reasoning is not None:
        live.reasoning.finish(trajectory.reasoning)
    for stored in trajectory.rounds:
        round_ = live.round(stored.index)
        round_.instruction, round_.chosen = stored.instruction, stored.chosen
        pictures: dict[int, Round | Candidate] = {**dict(enumerate(stored.candidates))} or {stored.chosen: stored}
        round_.pictures = {number: _as_picture(picture) for number, picture in pictures.items()}
    return live


def _as_picture(stored: Round | Candidate) -> LivePicture:
    scores = {score.scorer: score for score in stored.scores}
    picture = LivePicture(stored.image, scores, reflected=stored.reflection)
    if stored.reflection is not None:
        picture.reflection.finish(stored.reflection.text)
    return picture
