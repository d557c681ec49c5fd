"""The refine loop of R3 as a pure function of a stored value (arXiv 2602.15772, section 3; rollout_controller.py
rollout_for_eval).

    while (step := next_step(trajectory)) is not None:
        trajectory = advance(trajectory, run(step))

A trajectory reasons, draws, looks at what it drew, and edits, until it is satisfied or the round limit is reached.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from r3core.prompts import MALFORMED_INSTRUCTION, read_reflection
from r3core.types import Image, Reflection, Round, StopReason, Trajectory, Verdict


@dataclass(frozen=True)
class Reason:
    """Write the plan of the first picture."""


@dataclass(frozen=True)
class Generate:
    """Draw the first picture."""


@dataclass(frozen=True)
class Reflect:
    """Say of the picture of `round` how to edit it; `attempt` counts the times it was asked before."""

    round: int
    attempt: int = 0


@dataclass(frozen=True)
class Refine:
    """Make the picture of `round` from the one before it by `instruction`."""

    round: int
    instruction: str


Step = Reason | Generate | Reflect | Refine


@dataclass(frozen=True)
class Wrote:
    """The outcome of Reason and Reflect."""

    text: str


@dataclass(frozen=True)
class Drew:
    """The outcome of Generate and Refine."""

    image: Image


Outcome = Wrote | Drew


def start_from(trajectory: Trajectory, image: Image) -> Trajectory:
    """A trajectory whose round 0 is the caller's picture."""
    return replace(trajectory, rounds=(Round(0, image),))


def next_step(trajectory: Trajectory) -> Step | None:
    """What to run next, or None where the trajectory is at its end."""
    asked = trajectory.request
    if trajectory.stop_reason is not None:
        return None
    if not trajectory.rounds:
        return Reason() if asked.think and trajectory.reasoning is None else Generate()
    last = trajectory.rounds[-1]
    if last.index >= asked.max_rounds:
        return None
    if last.index == 0 and asked.instruction is not None:
        return Refine(1, asked.instruction)
    if (said := last.reflection) is None:
        return Reflect(last.index)
    if said.verdict is Verdict.EDIT or not _may_stop(trajectory):
        return Refine(last.index + 1, _edit(said))
    tries = len(last.reflections)
    return Reflect(last.index, tries) if tries < asked.early_stop.confirmations else None


def advance(trajectory: Trajectory, step: Step, outcome: Outcome) -> Trajectory:
    """The trajectory after `step` gave `outcome`; it is given its stop reason as soon as nothing is left to run."""
    match step, outcome:
        case Reason(), Wrote(text):
            after = replace(trajectory, reasoning=text)
        case Generate(), Drew(image):
            after = replace(trajectory, rounds=(Round(0, image),))
        case Reflect(), Wrote(text):
            last = trajectory.rounds[-1]
            said = replace(last, reflections=(*last.reflections, read_reflection(text)))
            after = replace(trajectory, rounds=(*trajectory.rounds[:-1], said))
        case Refine(round=index, instruction=instruction), Drew(image):
            after = replace(trajectory, rounds=(*trajectory.rounds, Round(index, image, instruction)))
        case _:
            raise AssertionError(f"{step} cannot come out as {outcome}")
    return finished(after)


def finished(trajectory: Trajectory) -> Trajectory:
    """The trajectory with its stop reason where nothing is left to run, else unchanged."""
    if trajectory.stop_reason is None and next_step(trajectory) is None:
        return replace(trajectory, stop_reason=_reason(trajectory))
    return trajectory


def _may_stop(trajectory: Trajectory) -> bool:
    asked = trajectory.request
    return asked.early_stop.on_satisfied and trajectory.rounds[-1].index >= asked.min_rounds


def _edit(said: Reflection) -> str:
    """The instruction that is carried out; a malformed text gives the reference's constant sentence."""
    return MALFORMED_INSTRUCTION if said.instruction is None else said.instruction


def _reason(trajectory: Trajectory) -> StopReason:
    last = trajectory.rounds[-1]
    if last.index >= trajectory.request.max_rounds or last.reflection is None:
        return "max_rounds"
    return "malformed" if last.reflection.verdict is Verdict.MALFORMED else "satisfied"
