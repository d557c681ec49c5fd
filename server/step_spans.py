"""The steps of trajectories as spans of their job's trace, from what the engine says. For the worker's main thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from r3core.events import Cancelled, Event, Failed, ImageReady, Reasoned, Reflected, Scored
from r3core.judge import LOOKING
from r3core.loop import next_step
from r3core.types import Request, Trajectory
from server.held import HeldJob
from server.traces import StepSpan, Traces, Value

# Ends that are nobody's fault: the step is cut short, and done again elsewhere or not wanted any more.
_WANTED: Final = frozenset({"given_back", "deadline", "stopped"})


class StepSpans:
    """Told what tally.py is told, in the same order."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._began_ns: dict[str, int] = {}
        """By the engine's key of a trajectory."""

    def added(self, job: HeldJob, index: int) -> None:
        """The engine has a trajectory."""
        self._began_ns[job.key(index)] = time.time_ns()

    def said(self, job: HeldJob, index: int, said: Event) -> None:
        """The engine said something of a trajectory."""
        match said:
            case Reasoned():
                self._over(job, index, "reason", {})
            case Reflected(round_, what):
                self._over(job, index, "reflect", {"round": round_, "verdict": what.verdict.value})
            case Scored(round_) if is_first_score(job.newest[index].request, said):
                self._over(job, index, "judge", {"round": round_})
            case ImageReady(trajectory=trajectory, round=0) if trajectory.request.given_image:  # nothing was drawn
                self.added(job, index)
            case ImageReady(round=round_, image=image):
                about: dict[str, Value] = {"round": round_, "width": image.width, "height": image.height}
                self._over(job, index, "refine" if round_ else "generate", about)
            case Failed(error, trajectory):
                self._cut(job, trajectory, error.code)
            case Cancelled(trajectory):
                self._cut(job, trajectory, job.turn or "cancelled")

    def left(self, job: HeldJob) -> None:
        """A job has left the engine."""
        for index in job.newest:
            self._began_ns.pop(job.key(index), None)

    def _over(self, job: HeldJob, index: int, name: str, about: Mapping[str, Value], fault: str | None = None) -> None:
        now_ns = time.time_ns()
        began_ns = self._began_ns.get(job.key(index), now_ns)
        self._traces.step(job.lease, StepSpan(name, began_ns, now_ns, {"trajectory": index, **about}, fault))
        self._began_ns[job.key(index)] = now_ns

    def _cut(self, job: HeldJob, trajectory: Trajectory, why: str) -> None:
        """The step under way, which is what was to come next, came to nothing."""
        if (step := next_step(trajectory)) is not None:
            fault = None if why in _WANTED else why
            self._over(job, trajectory.index, type(step).__name__.lower(), {"ended_by": why}, fault)


def is_first_score(asked: Request, said: Scored) -> bool:
    """Whether it is the first that a step says: one that looks at pictures says those of all, and at once."""
    looking = [scorer for scorer in asked.scorers if scorer in LOOKING]
    return said.candidate == 0 and looking[:1] == [said.score.scorer]
