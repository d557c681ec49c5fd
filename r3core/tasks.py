"""What else may be asked of the model than the whole loop, as pure functions of the same stored value.

score      judge the caller's pictures                                         POST /score
reflect    say how to edit the caller's picture                                POST /reflect
describe   say what the caller's picture shows                                 POST /describe
roundtrip  a picture, its description, a picture of that, how alike they are   POST /roundtrip (arXiv 2509.09666)
"""

from __future__ import annotations

from r3core.steps import Compare, Describe, Reconstruct, Reflect, Step
from r3core.types import StopReason, Trajectory


def onwards(trajectory: Trajectory, judging: Step | None) -> Step | StopReason:
    """What comes after the first picture is there; `judging` is what is left to score."""
    match trajectory.request.kind:
        case "score":
            return judging or "done"
        case "reflect":
            return "done" if trajectory.rounds[0].reflections else Reflect(0)
        case "describe":
            return "done" if trajectory.description is not None else Describe()
        case _:
            return _roundtrip(trajectory)


def _roundtrip(trajectory: Trajectory) -> Step | StopReason:
    if trajectory.description is None:
        return Describe()
    if len(trajectory.rounds) == 1:
        return Reconstruct()
    return "done" if trajectory.similarities is not None else Compare()
