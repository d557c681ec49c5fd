"""Rounds as they grow: pictures, scores and reflections added to a trajectory. What is done when is loop.py's."""

from __future__ import annotations

from dataclasses import replace

from r3core.judge import Score, best_of, value_of
from r3core.steps import Judge, Reflect
from r3core.types import Candidate, Reflection, Request, Round, Trajectory, Usage


def has_score(picture: Candidate, scorer: str) -> bool:
    """Whether a scorer has spoken of the picture."""
    return any(score.scorer == scorer for score in picture.scores)


def is_given(asked: Request, round_: Round) -> bool:
    """Whether the round's picture is the caller's."""
    return asked.given_image and round_.index == 0


def with_picture(trajectory: Trajectory, made: Round, *, several: bool) -> Trajectory:
    """The trajectory with one more picture: of a new round, which may have `several`, or one more candidate of the
    newest.
    """
    drawn = replace(trajectory, usage=trajectory.usage + Usage(images=1))
    if len(trajectory.rounds) == made.index:
        first = replace(made, candidates=made.pictures) if several else made
        return replace(drawn, rounds=(*trajectory.rounds, first))
    last = trajectory.rounds[-1]
    return _with_round(drawn, _chosen(trajectory.request, last, (*last.candidates, *made.pictures)))


def with_scores(trajectory: Trajectory, step: Judge, scores: tuple[tuple[Score, ...], ...]) -> Trajectory:
    """The trajectory with scores of the candidates of its newest round that `step` names."""
    last = trajectory.rounds[step.round]
    pictures = list(last.pictures)
    for candidate, given in zip(step.candidates, scores, strict=True):
        pictures[candidate] = _scored(trajectory.request, pictures[candidate], given)
    return _with_round(trajectory, _said(trajectory.request, last, tuple(pictures)))


def with_reflection(trajectory: Trajectory, step: Reflect, said: Reflection, verdict: Score | None) -> Trajectory:
    """The trajectory with what was said of a picture, and how near that was to being satisfied."""
    asked = trajectory.request
    at = trajectory.rounds[step.round]
    pictures = list(at.pictures)
    picture = pictures[step.candidate]
    picture = replace(picture, reflections=(*picture.reflections, said))
    if verdict is not None and not has_score(picture, "verdict"):
        picture = _scored(asked, picture, (verdict,))
    pictures[step.candidate] = picture
    return _with_round(trajectory, _said(asked, at, tuple(pictures)))


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
    seen = replace(round_, image=it.image, scores=it.scores, reflections=it.reflections, forwards=it.forwards)
    return replace(seen, candidates=candidates, chosen=best)


def _with_round(trajectory: Trajectory, changed: Round) -> Trajectory:
    """The trajectory with a round in the place of its own."""
    rounds = trajectory.rounds
    return replace(trajectory, rounds=(*rounds[: changed.index], changed, *rounds[changed.index + 1 :]))


def discarded(trajectory: Trajectory) -> tuple[int, int]:
    """How many pictures the result was not made from, and the forwards that they took."""
    asked, made_from, at = trajectory.request, set(), trajectory.result
    if asked.kind != "generate":
        return 0, 0
    while at is not None:
        made_from.add(at.image)
        at = None if at.base is None else trajectory.rounds[at.base]
    drawn = [p for r in trajectory.rounds if not is_given(asked, r) for p in r.pictures]
    lost = [picture for picture in drawn if picture.image not in made_from]
    return len(lost), sum(picture.forwards for picture in lost)
