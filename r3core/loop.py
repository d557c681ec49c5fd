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
from typing import Final

from r3core import tasks
from r3core.judge import LOOKING, Score, best_of, has_fallen, is_reached, value_of
from r3core.prompts import MALFORMED_INSTRUCTION, read_reflection
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
from r3core.types import Candidate, Image, Reflection, Request, Round, StopReason, Trajectory, Usage, Verdict

_ONE: Final = 1


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
            after = _with_reflection(trajectory, step, read_reflection(text), verdict)
        case Generate(), Drew(image, forwards):
            after = _with_picture(trajectory, Round(0, image, forwards=forwards))
        case Refine(round=index, instruction=instruction, base=base), Drew(image, forwards):
            after = _with_picture(trajectory, Round(index, image, instruction, base=base, forwards=forwards))
        case Reconstruct(), Drew(image, forwards):
            after = _with_picture(trajectory, Round(1, image, forwards=forwards))
        case Judge(), Judged(scores):
            after = _with_scores(trajectory, step, scores)
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
    images, forwards = _discarded(trajectory)
    usage = replace(trajectory.usage, discarded_images=images, discarded_forwards=forwards)
    return replace(trajectory, stop_reason=reason, usage=usage)


def needed(trajectory: Trajectory) -> tuple[Image, ...]:
    """The pictures that steps to come may look at: who goes on with the trajectory must have them at hand."""
    if not trajectory.rounds:
        return ()
    last, asked = trajectory.rounds[-1], trajectory.request
    if asked.kind == "roundtrip":
        return tuple(r.image for r in trajectory.rounds)
    images = [picture.image for picture in last.pictures] if _is_open(trajectory) else [last.image]
    if asked.on_regression == "backtrack" and asked.scorers:
        images.append(trajectory.rounds[best_of(trajectory.values(asked.scorers[0]))].image)
    if last.base is not None and _is_open(trajectory):
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
        return len(trajectory.rounds[0].pictures) if trajectory.rounds else _ONE
    count = asked.candidates.first if index == 0 else asked.candidates.refine
    left = _left(trajectory, index)
    return count if left is None else min(count, left)


# --- what comes next


def _onwards(trajectory: Trajectory) -> Step | StopReason:
    asked, rounds = trajectory.request, trajectory.rounds
    if not rounds and not asked.given_image:
        if asked.think and trajectory.reasoning is None:
            return Reason()
        return Generate(tuple(range(wanted(trajectory, 0))))
    if (step := _missing(trajectory)) is not None:
        return step
    if asked.kind != "generate":
        return tasks.onwards(trajectory, _judging(trajectory))
    return _judging(trajectory) or _after(trajectory)


def _missing(trajectory: Trajectory) -> Step | None:
    """The candidates of the newest round that are not drawn yet."""
    last = trajectory.rounds[-1]
    there, want = len(last.pictures), wanted(trajectory, last.index)
    if there >= want:
        return None
    left = tuple(range(there, want))
    if last.index == 0:
        # The plan's context was lost with its worker: it is written again, from the same seed.
        return Reason() if trajectory.request.think and trajectory.reasoning is None else Generate(left)
    assert last.instruction is not None
    assert last.base is not None
    return Refine(last.index, last.instruction, last.base, left)


def _judging(trajectory: Trajectory) -> Step | None:
    """What is left to score of the newest round."""
    asked, last = trajectory.request, trajectory.rounds[-1]
    looking = tuple(s for s in asked.scorers if s in LOOKING)
    unseen = tuple(c for c, p in enumerate(last.pictures) if looking and not _has(p, looking[0]))
    if unseen:
        return Judge(last.index, unseen, looking)
    if "verdict" in asked.scorers:
        for candidate, picture in enumerate(last.pictures):
            if not _has(picture, "verdict"):
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
        return Refine(1, asked.instruction, 0, _all(trajectory, 1))
    base = trajectory.rounds[_base(trajectory)]
    if (said := base.reflection) is None:
        return Reflect(base.index, 0, base.chosen)
    may_stop = rules.on_satisfied and not forced and (reached or not rules.all or rules.score is None)
    if said.verdict is Verdict.EDIT or not may_stop:
        return Refine(last.index + 1, _edit(said), base.index, _all(trajectory, last.index + 1))
    if len(base.reflections) < rules.confirmations:
        return Reflect(base.index, len(base.reflections), base.chosen)
    return "malformed" if said.verdict is Verdict.MALFORMED else "satisfied"


def _base(trajectory: Trajectory) -> int:
    """The round whose picture is edited next: the newest, or after a fall the best so far."""
    asked, newest = trajectory.request, len(trajectory.rounds) - 1
    if asked.on_regression == "keep" or not asked.scorers:
        return newest
    values = trajectory.values(asked.scorers[0])
    least = 0.0 if asked.early_stop.score is None else asked.early_stop.score.min_gain
    return best_of(values) if has_fallen(values, least) else newest


def _left(trajectory: Trajectory, index: int) -> int | None:
    """How many pictures the budget leaves for the round `index`; a trajectory has an even share of it."""
    asked = trajectory.request
    if asked.max_images is None:
        return None
    share = asked.max_images // asked.n + (trajectory.index < asked.max_images % asked.n)
    made = sum(len(r.pictures) for r in trajectory.rounds[:index] if not _is_given(asked, r))
    return max(0, share - made)


def _is_open(trajectory: Trajectory) -> bool:
    """Whether the newest round is still being drawn or judged."""
    return _missing(trajectory) is not None or _judging(trajectory) is not None


def _is_given(asked: Request, round_: Round) -> bool:
    return asked.given_image and round_.index == 0


def _all(trajectory: Trajectory, index: int) -> tuple[int, ...]:
    return tuple(range(wanted(trajectory, index)))


def _edit(said: Reflection) -> str:
    """The instruction that is carried out; a malformed text gives the reference's constant sentence."""
    return MALFORMED_INSTRUCTION if said.instruction is None else said.instruction


def _has(picture: Candidate, scorer: str) -> bool:
    return any(score.scorer == scorer for score in picture.scores)


# --- what came of a step


def _with_picture(trajectory: Trajectory, made: Round) -> Trajectory:
    """The trajectory with one more picture: of a new round, or one more candidate of the newest."""
    drawn = replace(trajectory, usage=trajectory.usage + Usage(images=1))
    if len(trajectory.rounds) == made.index:
        several = wanted(trajectory, made.index) > 1
        first = replace(made, candidates=made.pictures) if several else made
        return replace(drawn, rounds=(*trajectory.rounds, first))
    last = trajectory.rounds[-1]
    return _with_newest(drawn, _chosen(trajectory.request, last, (*last.candidates, *made.pictures)))


def _with_scores(trajectory: Trajectory, step: Judge, scores: tuple[tuple[Score, ...], ...]) -> Trajectory:
    last = trajectory.rounds[step.round]
    pictures = list(last.pictures)
    for candidate, given in zip(step.candidates, scores, strict=True):
        pictures[candidate] = _scored(trajectory.request, pictures[candidate], given)
    return _with_newest(trajectory, _said(trajectory.request, last, tuple(pictures)))


def _with_reflection(trajectory: Trajectory, step: Reflect, said: Reflection, verdict: Score | None) -> Trajectory:
    asked = trajectory.request
    at = trajectory.rounds[step.round]
    pictures = list(at.pictures)
    picture = pictures[step.candidate]
    picture = replace(picture, reflections=(*picture.reflections, said))
    if verdict is not None and not _has(picture, "verdict"):
        picture = _scored(asked, picture, (verdict,))
    pictures[step.candidate] = picture
    changed = _said(asked, at, tuple(pictures))
    return replace(trajectory, rounds=(*trajectory.rounds[: at.index], changed, *trajectory.rounds[at.index + 1 :]))


def _scored(asked: Request, picture: Candidate, more: tuple[Score, ...]) -> Candidate:
    order = asked.scorers.index
    return replace(picture, scores=tuple(sorted((*picture.scores, *more), key=lambda score: order(score.scorer))))


def _said(asked: Request, round_: Round, pictures: tuple[Candidate, ...]) -> Round:
    """The round after something was said of its pictures."""
    if round_.candidates:
        return _chosen(asked, round_, pictures)
    return replace(round_, scores=pictures[0].scores, reflections=pictures[0].reflections)


def _chosen(asked: Request, round_: Round, candidates: tuple[Candidate, ...]) -> Round:
    """The round of these candidates, with the best of them so far in its place."""
    first = asked.scorers[0] if asked.scorers else None
    best = best_of([value_of(c.scores, first) if first else None for c in candidates])
    it = candidates[best]
    seen = {"image": it.image, "scores": it.scores, "reflections": it.reflections, "forwards": it.forwards}
    return replace(round_, candidates=candidates, chosen=best, **seen)


def _with_newest(trajectory: Trajectory, round_: Round) -> Trajectory:
    return replace(trajectory, rounds=(*trajectory.rounds[:-1], round_))


def _discarded(trajectory: Trajectory) -> tuple[int, int]:
    """How many pictures the result was not made from, and the forwards that they took."""
    asked, made_from, at = trajectory.request, set(), trajectory.result
    if asked.kind != "generate":
        return 0, 0
    while at is not None:
        made_from.add(at.image)
        at = None if at.base is None else trajectory.rounds[at.base]
    drawn = [p for r in trajectory.rounds if not _is_given(asked, r) for p in r.pictures]
    lost = [picture for picture in drawn if picture.image not in made_from]
    return len(lost), sum(picture.forwards for picture in lost)
