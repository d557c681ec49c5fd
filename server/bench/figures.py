"""What follows from watched jobs, as plain arithmetic: the overhead of a job, and how late the latest were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.bench.watching import Watched

ALLOWED_SHARE: Final = 0.03
ALLOWED_S: Final = 0.015


def allowed_s(engine_s: float) -> float:
    """What all but the engine may take of a job: so much of the engine's time, and that much of any."""
    return max(ALLOWED_SHARE * engine_s, ALLOWED_S)


@dataclass(frozen=True)
class Overhead:
    """Where a job's time was that its engine did not take, in seconds. The three parts are its sum."""

    total_s: float
    engine_s: float
    until_taken_s: float
    """From POST to when a worker had it: HTTP, validation, the queue, its lease."""
    told_s: float
    """From when its trajectory was at an end to the last event: what was still to be encoded, stored and written."""

    @property
    def overhead_s(self) -> float:
        """All but the engine's turns."""
        return self.total_s - self.engine_s

    @property
    def between_s(self) -> float:
        """Between the engine's turns and beside them: the worker's loop, making the job ready."""
        return self.overhead_s - self.until_taken_s - self.told_s

    @property
    def of_allowed(self) -> float:
        """1 is all that is allowed."""
        return self.overhead_s / allowed_s(self.engine_s)


def overhead_of(job: Watched) -> Overhead:
    """That of a job that was alone in a server on this machine: what events say of the time is by our own clock."""
    started, done = job.first("job.started"), job.first("trajectory.done")
    assert started is not None
    assert done is not None
    until_taken_s = started.made_at_s - job.sent_at_s
    told_s = job.sent_at_s + job.total_s - done.made_at_s
    return Overhead(job.total_s, job.engine_s, until_taken_s, told_s)
