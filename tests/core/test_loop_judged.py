"""The loop with scores: stopping by them, choosing, going back, candidates and the budget over them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.judge import Counts, Score, ScoreStop, best_of, has_fallen, is_reached
from r3core.loop import advance, ended, finished, looks_at, needed, next_step, start_from
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
from r3core.types import EarlyStop, Image, Request, StopReason, Trajectory, Verdict
from tests.core.strategies import EDIT, MALFORMED, SATISFIED, answers, judged_requests

FORWARDS = 10
TO_THE_END = 1000


def ask(**changes: Any) -> Request:
    return Request(**{"prompt": "a cat", "width": 64, "height": 64, "seed": 7, "think": False, **changes})


def begin(request: Request, given_images: int = 1) -> Trajectory:
    trajectory = Trajectory(request)
    if not request.given_image:
        return trajectory
    return finished(start_from(trajectory, *(Image(f"img_given_{n}", 64, 64) for n in range(given_images))))


def outcomes(request: Request, step: Step, said: Iterator[str], scores: Iterator[float | None]) -> Iterator[Outcome]:
    """What comes of a step; every picture has a name of its own place."""
    match step:
        case Reflect():
            text = next(said)
            if "verdict" in request.scorers:
                yield Wrote(text, Score("verdict", next(scores) if "</think>" in text else None))
            else:
                yield Wrote(text)
        case Reason() | Describe():
            yield Wrote("<think>A plan.</think>")
        case Judge(candidates=candidates, scorers=scorers):
            yield Judged(tuple(tuple(Score(scorer, next(scores)) for scorer in scorers) for _ in candidates))
        case Compare():
            yield Compared((("self", 1.0),))
        case Generate(candidates):
            for candidate in candidates:
                yield Drew(Image(f"img_0_{candidate}", 64, 64), FORWARDS)
        case Refine(round=index, candidates=candidates):
            for candidate in candidates:
                yield Drew(Image(f"img_{index}_{candidate}", 64, 64), FORWARDS)
        case _:
            yield Drew(Image("img_1_0", 64, 64), FORWARDS)


def walk(
    trajectory: Trajectory, said: Iterator[str], scores: Iterator[float | None]
) -> Iterator[tuple[Step, Trajectory]]:
    """Each step and the trajectory after each of its outcomes."""
    for _ in range(TO_THE_END):
        step = next_step(trajectory)
        if step is None:
            return
        assert_at_hand(trajectory)
        for outcome in outcomes(trajectory.request, step, said, scores):
            trajectory = advance(trajectory, step, outcome)
            assert_at_hand(trajectory)
            yield step, trajectory
    raise AssertionError("the walk has no end")


def assert_at_hand(trajectory: Trajectory) -> None:
    """Who goes on from here has the pictures that are looked at next, also between the candidates of one step."""
    if (step := next_step(trajectory)) is not None:
        assert {image.id for image in looks_at(trajectory, step)} <= {image.id for image in needed(trajectory)}


def forever(values: Sequence[Any]) -> Iterator[Any]:
    while True:
        yield from values


@dataclass(frozen=True)
class Case:
    """A request, what the model says and the scores it gives, and what must come of it."""

    name: str
    request: dict[str, Any]
    scores: Sequence[float | None]
    reason: StopReason
    result: str
    bases: Sequence[int | None]
    said: Sequence[str] = (EDIT,)
    images: int = 0
    discarded: int = 0
    chosen: Sequence[int] = field(default_factory=list)


LIFT = {"scorers": ("lift",)}
AT_TWO = {**LIFT, "early_stop": EarlyStop(score=ScoreStop("lift", at_least=2.0, patience=8))}
CASES = [
    Case("scores alone change nothing", LIFT, [3, 1, 2, 0], "max_rounds", "img_3_0", [None, 0, 1, 2], images=4),
    Case("a score that is reached", AT_TWO, [1, 2], "score", "img_1_0", [None, 0], images=2),
    Case("a first picture that reaches it", AT_TWO, [2], "score", "img_0_0", [None], images=1),
    Case("reached by the last round", AT_TWO, [0, 0, 0, 2], "score", "img_3_0", [None, 0, 1, 2], images=4),
    Case(
        "not before min_rounds",
        {**AT_TWO, "min_rounds": 2},
        [5, 5, 5],
        "score",
        "img_2_0",
        [None, 0, 1],
        images=3,
    ),
    Case(
        "no rise for one round",
        {**LIFT, "early_stop": EarlyStop(score=ScoreStop("lift"))},
        [1, 2, 2],
        "score",
        "img_2_0",
        [None, 0, 1],
        images=3,
    ),
    Case(
        "too small a rise for two rounds",
        {**LIFT, "early_stop": EarlyStop(score=ScoreStop("lift", min_gain=1.0, patience=2))},
        [1, 1.5, 1.9],
        "score",
        "img_2_0",
        [None, 0, 1],
        images=3,
    ),
    Case(
        "small steps that add up to a rise",
        {**LIFT, "early_stop": EarlyStop(score=ScoreStop("lift", min_gain=1.0, patience=2))},
        [1, 1.5, 2.1, 2.6],
        "max_rounds",
        "img_3_0",
        [None, 0, 1, 2],
        images=4,
    ),
    Case("the text stops where no score does", AT_TWO, [1], "satisfied", "img_0_0", [None], [SATISFIED], images=1),
    Case(
        "all rules: a satisfied model goes on until the score is reached",
        {**LIFT, "early_stop": EarlyStop(score=ScoreStop("lift", 2.0, patience=8), all=True)},
        [1, 3],
        "satisfied",
        "img_1_0",
        [None, 0],
        [SATISFIED],
        images=2,
    ),
    Case(
        "all rules: a reached score goes on until the model is satisfied",
        {**LIFT, "early_stop": EarlyStop(score=ScoreStop("lift", 2.0, patience=8), all=True)},
        [3, 3],
        "satisfied",
        "img_1_0",
        [None, 0],
        [EDIT, SATISFIED],
        images=2,
    ),
    Case(
        "the best round is the result",
        {**LIFT, "choose": "best"},
        [1, 3, 2, 0],
        "max_rounds",
        "img_1_0",
        [None, 0, 1, 2],
        images=4,
        discarded=2,
    ),
    Case(
        "after a fall it goes on from the best",
        {**LIFT, "choose": "best", "on_regression": "backtrack"},
        [1, 3, 2, 4],
        "max_rounds",
        "img_3_0",
        [None, 0, 1, 1],
        images=4,
        discarded=1,
    ),
    Case(
        "a small fall is none",
        {
            **LIFT,
            "on_regression": "backtrack",
            "early_stop": EarlyStop(score=ScoreStop("lift", min_gain=1.0, patience=8)),
        },
        [3, 2.5, 1, 0],
        "max_rounds",
        "img_3_0",
        [None, 0, 1, 0],
        images=4,
        discarded=2,
    ),
    Case(
        "what is small for another scorer is a fall all the same",
        {
            "scorers": ("lift", "vqa"),
            "on_regression": "backtrack",
            "early_stop": EarlyStop(score=ScoreStop("vqa", at_least=99.0, min_gain=1.0, patience=8)),
        },
        [3, 0, 2.5, 0, 2.9, 0, 2.0, 0],
        "max_rounds",
        "img_3_0",
        [None, 0, 0, 0],
        images=4,
        discarded=2,
    ),
    Case(
        "the best candidate goes on, the first among equals",
        {**LIFT, "candidates": Counts(3, 2), "max_rounds": 1},
        [1, 2, 2, 5, 4],
        "max_rounds",
        "img_1_0",
        [None, 0],
        images=5,
        discarded=3,
        chosen=[1, 0],
    ),
    Case(
        "a budget cuts a round short and then ends the loop",
        {**LIFT, "candidates": Counts(3, 2), "max_images": 4},
        [1, 2, 3, 1],
        "budget",
        "img_1_0",
        [None, 0],
        images=4,
        discarded=2,
        chosen=[2, 0],
    ),
    Case(
        "verdict looks at every picture, the last one too, and null ranks last",
        {"scorers": ("verdict",), "candidates": Counts(2, 1), "max_rounds": 1},
        [-9.0, -3.0],
        "max_rounds",
        "img_1_0",
        [None, 0],
        [MALFORMED, EDIT, EDIT],
        images=3,
        discarded=1,
        chosen=[1, 0],
    ),
    Case(
        "the first scorer decides, in its own order",
        {"scorers": ("verdict", "vqa"), "candidates": Counts(2, 1), "max_rounds": 0},
        [0.9, 0.1, -5.0, -1.0],
        "max_rounds",
        "img_0_1",
        [None],
        images=2,
        discarded=1,
        chosen=[1],
    ),
    Case(
        "a caller's picture is scored, and is not of the budget",
        {**LIFT, "given_image": True, "max_images": 1, "instruction": "Add a hat."},
        [1, 2],
        "budget",
        "img_1_0",
        [None, 0],
        images=1,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_scores_decide(case: Case) -> None:
    scores = iter(case.scores)
    *_, (_, end) = walk(begin(ask(**case.request)), forever(case.said), scores)
    assert end.stop_reason == case.reason
    assert end.result is not None
    assert end.result.image.id == case.result
    assert [r.base for r in end.rounds] == list(case.bases)
    assert (end.usage.images, end.usage.discarded_images) == (case.images, case.discarded)
    assert end.usage.discarded_forwards == FORWARDS * case.discarded
    if case.chosen:
        assert [r.chosen for r in end.rounds] == list(case.chosen)
    assert list(scores) == []


def test_the_budget_is_shared_by_the_trajectories() -> None:
    request = ask(**LIFT, max_images=8, n=3, candidates=Counts(8, 1))
    made = []
    for index in range(3):
        *_, (_, end) = walk(Trajectory(request, index), forever([EDIT]), forever([0.0]))
        made.append(end.usage.images)
    assert made == [3, 3, 2]


def test_stopped_in_the_midst_of_candidates_the_best_so_far_is_the_result() -> None:
    steps = walk(begin(ask(**LIFT, candidates=Counts(3, 1))), forever([EDIT]), forever([0.0]))
    _, first = next(steps)
    _, second = next(steps)
    assert next_step(second) == Generate((2,))
    stopped = ended(second, "stopped")
    assert stopped.result is not None
    assert stopped.result.image == first.rounds[0].image
    assert stopped.usage.discarded_images == 1


def test_ending_twice_counts_what_is_thrown_away_once() -> None:
    *_, (_, end) = walk(begin(ask(**LIFT, candidates=Counts(3, 1))), forever([EDIT]), forever([0.0]))
    assert ended(end, "stopped").usage == end.usage


TASKS: list[tuple[dict[str, Any], int, list[Step]]] = [
    ({"kind": "score", "given_image": True, **LIFT}, 2, [Judge(0, (0, 1), ("lift",))]),
    (
        {"kind": "score", "given_image": True, "scorers": ("vqa", "verdict")},
        2,
        [Judge(0, (0, 1), ("vqa",)), Reflect(0, 0, 0), Reflect(0, 0, 1)],
    ),
    ({"kind": "reflect", "given_image": True}, 1, [Reflect(0)]),
    ({"kind": "describe", "given_image": True}, 1, [Describe()]),
    ({"kind": "roundtrip", "given_image": True}, 1, [Describe(), Reconstruct(), Compare()]),
    ({"kind": "roundtrip", "think": True}, 0, [Reason(), Generate(), Describe(), Reconstruct(), Compare()]),
]


@pytest.mark.parametrize(("request_", "pictures", "steps"), TASKS, ids=lambda part: str(part)[:40])
def test_tasks_are_walked_like_the_loop(request_: dict[str, Any], pictures: int, steps: list[Step]) -> None:
    walked = list(walk(begin(ask(**request_), pictures), forever([EDIT]), forever([0.5])))
    assert [step for step, _ in walked] == steps
    assert walked[-1][1].stop_reason == "done"


@given(judged_requests(), st.lists(answers, min_size=9, max_size=9), st.lists(st.none() | st.floats(-3, 3), min_size=7))
def test_every_judged_walk_ends_within_its_bounds(
    request: Request, said: list[str], scores: list[float | None]
) -> None:
    walked = list(walk(begin(request), forever(said), forever(scores)))
    end = walked[-1][1]
    assert end.stop_reason in ("satisfied", "malformed", "max_rounds", "score", "budget")
    assert [r.index for r in end.rounds] == list(range(len(end.rounds)))
    assert len(end.rounds) <= request.max_rounds + 1
    drawn = sum(len(r.pictures) for r in end.rounds) - request.given_image
    assert end.usage.images == drawn
    if request.max_images is not None:
        assert drawn <= -(-request.max_images // request.n)
    if end.stop_reason != "budget":
        assert len(end.rounds) > request.min_rounds
    for r in end.rounds:
        assert r.base is None or r.base < r.index
        assert r.image == r.pictures[r.chosen].image
        for picture in r.pictures:
            assert [score.scorer for score in picture.scores] == list(request.scorers)
        values = [picture.scores[0].value for picture in r.pictures]
        assert values[r.chosen] == values[best_of(values)]
    if end.stop_reason in ("satisfied", "malformed"):
        last_said = [r.reflection for r in end.rounds if r.reflection][-1]
        assert last_said.verdict is not Verdict.EDIT or request.on_regression == "backtrack"


@given(judged_requests(), st.lists(answers, min_size=9, max_size=9), st.lists(st.none() | st.floats(-3, 3), min_size=7))
def test_a_stored_judged_trajectory_is_the_same_value(
    request: Request, said: list[str], scores: list[float | None]
) -> None:
    for _, trajectory in walk(begin(request), forever(said), forever(scores)):
        restored = Trajectory.from_json(json.loads(json.dumps(trajectory.to_json())))
        assert restored == trajectory
        assert next_step(restored) == next_step(trajectory)


def test_the_arithmetic_of_scores() -> None:
    assert best_of([None, 1.0, 1.0]) == 1
    assert best_of([None, None]) == 0
    assert not has_fallen([1.0], 0.0)
    assert not has_fallen([1.0, 1.0], 0.0)
    assert has_fallen([1.0, None], 5.0)
    assert not is_reached(ScoreStop("lift"), [1.0])
    assert is_reached(ScoreStop("lift"), [None, None])
    assert not is_reached(ScoreStop("lift", patience=2), [1.0, 0.5])
