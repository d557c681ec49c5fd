"""The refine loop of R3 as a pure function of a stored value (arXiv 2602.15772, section 3; rollout_controller.py
rollout_for_eval), with what scores add to it.

    while (step := next_step(trajectory)) is not None:
        for outcome in run(step):
            trajectory = advance(trajectory, step, outcome)

A trajectory reasons, draws, looks at what it drew, and edits, until it is satisfied or the round limit is reached.
Where pictures are scored, a round may have several candidates, of which the best goes on; scores may end the loop, and
may have it go back to the best picture so far.
"""

from __future__ import annotations

from dataclasses import replace

from r3core import tasks
from r3core.judge import LOOKING, best_of, has_fallen, is_reached
from r3core.prompts import MALFORMED_INSTRUCTION, read_reflection
from r3core.rounds import discarded, has_score, is_given, with_picture, with_reflection, with_scores
from r3core.steps import (
    Compare,
    Compared,
    Describe,
    Drew,
    Generate,
    Judge,
    Judged,
    Outcome,
    Reason,
    Reconstruct,
    Refine,
    Reflect,
    Step,
    Wrote,
)
from r3core.types import Candidate, Image, Reflection, Round, StopReason, Trajectory, Verdict


def start_from(trajectory: Trajectory, *images: Image) -> Trajectory:
    """A trajectory whose round 0 is the caller's picture, or pictures where they are only to be judged."""
    several = tuple(Candidate(image) for image in images) if len(images) > 1 else ()
    return replace(trajectory, rounds=(Round(0, images[0], candidates=several),))


def next_step(trajectory: Trajectory) -> Step | None:
    """What to run next, or None where the trajectory is at its end."""
    onwards = None if trajectory.stop_reason is not None else _onwards(trajectory)
    return None if isinstance(onwards, str) else onwards


def advance(trajectory: Trajectory, step: Step, outcome: Outcome) -> Trajectory:
    """The trajectory after `step` gave `outcome`; it is given its stop reason as soon as nothing is left to run.

    A step that draws several candidates comes out once for each of them, in their order.
    """
    match step, outcome:
        case Reason(), Wrote(text):
            after = replace(trajectory, reasoning=text)
        case Describe(), Wrote(text):
            after = replace(trajectory, description=text)
        case Reflect(), Wrote(text, verdict):
            after = with_reflection(trajectory, step, read_reflection(text), verdict)
        case Generate(), Drew(image, forwards):
            after = _drawn(trajectory, Round(0, image, forwards=forwards))
        case Refine(round=index, instruction=instruction, base=base), Drew(image, forwards):
            after = _drawn(trajectory, Round(index, image, instruction, base=base, forwards=forwards))
        case Reconstruct(), Drew(image, forwards):
            after = _drawn(trajectory, Round(1, image, forwards=forwards))
        case Judge(), Judged(scores):
            after = with_scores(trajectory, step, scores)
        case Compare(), Compared(similarities):
            after = replace(trajectory, similarities=similarities)
        case _:
            raise AssertionError(f"{step} cannot come out as {outcome}")
    return finished(after)


def finished(trajectory: Trajectory) -> Trajectory:
    """The trajectory with its stop reason where nothing is left to run, else unchanged."""
    if trajectory.stop_reason is None and isinstance(reason := _onwards(trajectory), str):
        return ended(trajectory, reason)
    return trajectory


def ended(trajectory: Trajectory, reason: StopReason) -> Trajectory:
    """The trajectory at its end for `reason`, with what was thrown away counted."""
    images, forwards = discarded(trajectory)
    usage = replace(trajectory.usage, discarded_images=images, discarded_forwards=forwards)
    return replace(trajectory, stop_reason=reason, usage=usage)


def needed(trajectory: Trajectory) -> tuple[Image, ...]:
    """The pictures that steps to come may look at: who goes on with the trajectory must have them at hand."""
    if not trajectory.rounds:
        return ()
    last, asked, is_under_way = trajectory.rounds[-1], trajectory.request, is_open(trajectory)
    if asked.kind == "roundtrip":
        return tuple(r.image for r in trajectory.rounds)
    images = [picture.image for picture in last.pictures] if is_under_way else [last.image]
    if asked.on_regression == "backtrack" and asked.scorers:
        images.append(trajectory.rounds[best_of(trajectory.values(asked.scorers[0]))].image)
    if last.base is not None and is_under_way:
        images.append(trajectory.rounds[last.base].image)
    return tuple(dict.fromkeys(images))


def looks_at(trajectory: Trajectory, step: Step) -> tuple[Image, ...]:
    """The pictures that a step looks at."""
    match step:
        case Reflect(round=index, candidate=candidate):
            return (trajectory.rounds[index].pictures[candidate].image,)
        case Refine(base=base):
            return (trajectory.rounds[base].image,)
        case Judge(round=index, candidates=candidates):
            return tuple(trajectory.rounds[index].pictures[c].image for c in candidates)
        case Describe():
            return (trajectory.rounds[0].image,)
        case Reason() | Generate() | Reconstruct():
            return ()
        case _:
            return tuple(r.image for r in trajectory.rounds[:2])


def wanted(trajectory: Trajectory, index: int) -> int:
    """How many candidates the round `index` has, the budget allowing; of the caller's pictures those that he gave."""
    asked = trajectory.request
    if asked.given_image and index == 0:
        return len(trajectory.rounds[0].pictures) if trajectory.rounds else 1
    count = asked.candidates.first if index == 0 else asked.candidates.refine
    left = _left(trajectory, index)
    return count if left is None else min(count, left)


def is_open(trajectory: Trajectory) -> bool:
    """Whether the newest round is still being drawn or judged."""
    return _missing(trajectory) is not None or _judging(trajectory) is not None


# --- what comes next


def _onwards(trajectory: Trajectory) -> Step | StopReason:
    if (step := _missing(trajectory)) is not None:
        return step
    if trajectory.request.kind != "generate":
        return tasks.onwards(trajectory, _judging(trajectory))
    return _judging(trajectory) or _after(trajectory)


def _missing(trajectory: Trajectory) -> Step | None:
    """The candidates of the newest round, or of the first, that are not drawn yet."""
    last = trajectory.rounds[-1] if trajectory.rounds else None
    left = _owed(trajectory, last.index, len(last.pictures)) if last else _owed(trajectory, 0)
    if not left:
        return None
    if last is None or last.index == 0:
        # Where a worker was lost, the plan's context was too: it is written again, from the same seed.
        return Reason() if trajectory.request.think and trajectory.reasoning is None else Generate(left)
    assert last.instruction is not None
    assert last.base is not None
    return Refine(last.index, last.instruction, last.base, left)


def _judging(trajectory: Trajectory) -> Step | None:
    """What is left to score of the newest round."""
    asked, last = trajectory.request, trajectory.rounds[-1]
    looking = tuple(s for s in asked.scorers if s in LOOKING)
    unseen = tuple(c for c, p in enumerate(last.pictures) if looking and not has_score(p, looking[0]))
    if unseen:
        return Judge(last.index, unseen, looking)
    if "verdict" in asked.scorers:
        for candidate, picture in enumerate(last.pictures):
            if not has_score(picture, "verdict"):
                return Reflect(last.index, 0, candidate)
    return None


def _after(trajectory: Trajectory) -> Step | StopReason:
    """The step after a round that is drawn and judged."""
    asked, last = trajectory.request, trajectory.rounds[-1]
    rules, forced = asked.early_stop, last.index < asked.min_rounds
    reached = rules.score is not None and is_reached(rules.score, trajectory.values(rules.score.scorer))
    if reached and not forced and not (rules.all and rules.on_satisfied):
        return "score"
    if last.index >= asked.max_rounds:
        return "max_rounds"
    if _left(trajectory, last.index + 1) == 0:
        return "budget"
    if last.index == 0 and asked.instruction is not None:
        return Refine(1, asked.instruction, 0, _owed(trajectory, 1))
    base = trajectory.rounds[_base(trajectory)]
    if (said := base.reflection) is None:
        return Reflect(base.index, 0, base.chosen)
    may_stop = rules.on_satisfied and not forced and (reached or not rules.all or rules.score is None)
    if said.verdict is Verdict.EDIT or not may_stop:
        return Refine(last.index + 1, _edit(said), base.index, _owed(trajectory, last.index + 1))
    if len(base.reflections) < rules.confirmations:
        return Reflect(base.index, len(base.reflections), base.chosen)
    return "malformed" if said.verdict is Verdict.MALFORMED else "satisfied"


def _base(trajectory: Trajectory) -> int:
    """The round whose picture is edited next: the newest, or after a fall the best so far."""
    asked, newest = trajectory.request, len(trajectory.rounds) - 1
    if asked.on_regression == "keep" or not asked.scorers:
        return newest
    values, rule = trajectory.values(asked.scorers[0]), asked.early_stop.score
    # Another scorer's `min_gain` is in other units: no number of this one's.
    least = rule.min_gain if rule is not None and rule.scorer == asked.scorers[0] else 0.0
    return best_of(values) if has_fallen(values, least) else newest


def _left(trajectory: Trajectory, index: int) -> int | None:
    """How many pictures the budget leaves for the round `index`; a trajectory has an even share of it."""
    asked = trajectory.request
    if asked.max_images is None:
        return None
    share = asked.max_images // asked.n + (trajectory.index < asked.max_images % asked.n)
    made = sum(len(r.pictures) for r in trajectory.rounds[:index] if not is_given(asked, r))
    return max(0, share - made)


def _owed(trajectory: Trajectory, index: int, there: int = 0) -> tuple[int, ...]:
    """The candidates of a round that come after those that are there."""
    return tuple(range(there, wanted(trajectory, index)))


def _edit(said: Reflection) -> str:
    """The instruction that is carried out; a malformed text gives the reference's constant sentence."""
    return MALFORMED_INSTRUCTION if said.instruction is None else said.instruction


def _drawn(trajectory: Trajectory, made: Round) -> Trajectory:
    return with_picture(trajectory, made, several=wanted(trajectory, made.index) > 1)
