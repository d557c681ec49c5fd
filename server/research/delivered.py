"""Which picture a trajectory would have come to, had it been allowed so many rounds and no more. Pure.

So every prompt has a picture in every round, and rounds are compared over the same prompts: a loop that has stopped
keeps its picture, and one that chooses the best has the best until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r3client import Job, Round, Trajectory
from r3client.models import Scorer
from r3core.judge import best_of


def delivered(job: Job, trajectory: Trajectory, most_rounds: int) -> Round | None:
    """The round whose picture it is; None where there was none yet."""
    made = [round_ for round_ in trajectory.rounds if round_.index <= most_rounds and round_.image is not None]
    if not made:
        return None
    scorer = deciding(job.params) if job.params.get("choose") == "best" else None
    return made[-1] if scorer is None else made[best_of([round_.score(scorer) for round_ in made])]


def deciding(params: Mapping[str, Any]) -> Scorer | None:
    """The scorer that decides where a picture is to be chosen; None where nothing is scored."""
    judge = params.get("judge") or {}
    scorers: list[Scorer] = judge.get("scorers") or []
    return scorers[0] if scorers else None


def drawn(job: Job, trajectory: Trajectory, most_rounds: int) -> int:
    """How many pictures had been drawn by then, those that were not chosen among them; a given one was not drawn."""
    is_given = job.params.get("image") is not None
    rounds = [r for r in trajectory.rounds if r.index <= most_rounds and not (is_given and r.index == 0)]
    return sum(len(round_.candidates) or 1 for round_ in rounds)


def rounds_of(job: Job) -> int:
    """How many edits could follow the first picture."""
    return int(job.params["max_rounds"])
