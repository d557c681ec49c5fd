"""The loop as a pure function of a stored value: every rule of stopping, and that every walk ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.loop import advance, ended, finished, next_step, start_from
from r3core.prompts import MALFORMED_INSTRUCTION
from r3core.steps import Drew, Generate, Reason, Refine, Reflect, Step, Wrote
from r3core.types import EarlyStop, Image, Request, StopReason, Trajectory, Usage, Verdict
from tests.core.strategies import EDIT, EMPTY, MALFORMED, SATISFIED, answers, requests

UP_TO_PICTURE: list[Step] = [Reason(), Generate()]
TO_THE_END = 1000


def picture(name: int) -> Image:
    return Image(f"img_{name:032x}", 64, 64)


def ask(**changes: Any) -> Request:
    return Request(prompt="a cat", width=64, height=64, seed=7, **changes)


def begin(request: Request) -> Trajectory:
    trajectory = Trajectory(request)
    return finished(start_from(trajectory, picture(0))) if request.given_image else trajectory


def walk(trajectory: Trajectory, said: Iterator[str], most: int = TO_THE_END) -> Iterator[tuple[Step, Trajectory]]:
    """Each step and the trajectory after it, reflections answered from `said`."""
    for number in range(1, most + 1):
        step = next_step(trajectory)
        if step is None:
            return
        if isinstance(step, Reason | Reflect):
            outcome: Wrote | Drew = Wrote("<think>A plan.</think>" if isinstance(step, Reason) else next(said))
        else:
            outcome = Drew(picture(number))
        trajectory = advance(trajectory, step, outcome)
        yield step, trajectory


@dataclass(frozen=True)
class Case:
    """A request, what the model says of each picture, and what must come of it."""

    name: str
    said: Sequence[str]
    steps: Sequence[Step]
    reason: StopReason
    request: dict[str, Any] = field(default_factory=dict)


CONFIRM_TWICE = {"early_stop": EarlyStop(confirmations=2)}
GIVEN = {"given_image": True}
CASES = [
    Case("satisfied at the first look", [SATISFIED], [*UP_TO_PICTURE, Reflect(0)], "satisfied"),
    Case(
        "the mark may stand anywhere, in any case",
        ["<think>.</think> There is NO FURTHER EDIT to make, I believe."],
        [*UP_TO_PICTURE, Reflect(0)],
        "satisfied",
    ),
    Case(
        "the mark counts in the instruction alone",
        ["<think>no further edit</think> Add a hat.", SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Refine(1, "Add a hat.", 0), Reflect(1)],
        "satisfied",
    ),
    Case(
        "what follows the last </think> is the instruction",
        ["<think>a</think> b </think> Add a hat.", SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Refine(1, "Add a hat.", 0), Reflect(1)],
        "satisfied",
    ),
    Case("malformed stops", [MALFORMED], [*UP_TO_PICTURE, Reflect(0)], "malformed"),
    Case(
        "a malformed text stops even if it asks for an edit",
        ["Add a hat."],
        [*UP_TO_PICTURE, Reflect(0)],
        "malformed",
    ),
    Case(
        "an empty instruction is carried out",
        [EMPTY, SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Refine(1, "", 0), Reflect(1)],
        "satisfied",
    ),
    Case(
        "nothing is said of the picture of the last permitted round",
        [EDIT, EDIT],
        [*UP_TO_PICTURE, Reflect(0), Refine(1, "Add a hat.", 0), Reflect(1), Refine(2, "Add a hat.", 1)],
        "max_rounds",
        {"max_rounds": 2},
    ),
    Case("no rounds: reason and draw only", [], UP_TO_PICTURE, "max_rounds", {"max_rounds": 0}),
    Case("think off: no plan", [SATISFIED], [Generate(), Reflect(0)], "satisfied", {"think": False}),
    Case(
        "two confirmations: the same picture is asked again",
        [SATISFIED, SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Reflect(0, 1)],
        "satisfied",
        CONFIRM_TWICE,
    ),
    Case(
        "two confirmations: the second may still ask for an edit, and no round was spent",
        [SATISFIED, EDIT],
        [*UP_TO_PICTURE, Reflect(0), Reflect(0, 1), Refine(1, "Add a hat.", 0)],
        "max_rounds",
        {**CONFIRM_TWICE, "max_rounds": 1},
    ),
    Case(
        "confirmations are counted anew for each picture",
        [SATISFIED, EDIT, SATISFIED, SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Reflect(0, 1), Refine(1, "Add a hat.", 0), Reflect(1), Reflect(1, 1)],
        "satisfied",
        CONFIRM_TWICE,
    ),
    Case(
        "an edit is not asked about again",
        [EDIT, SATISFIED, SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Refine(1, "Add a hat.", 0), Reflect(1), Reflect(1, 1)],
        "satisfied",
        CONFIRM_TWICE,
    ),
    Case(
        "a malformed text is confirmed too, and the last one gives the reason",
        [SATISFIED, MALFORMED],
        [*UP_TO_PICTURE, Reflect(0), Reflect(0, 1)],
        "malformed",
        CONFIRM_TWICE,
    ),
    Case(
        "a satisfied answer after a malformed one",
        [MALFORMED, SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Reflect(0, 1)],
        "satisfied",
        CONFIRM_TWICE,
    ),
    Case(
        "min_rounds: the satisfied sentence is carried out as it is",
        [SATISFIED, SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Refine(1, "No further edit needed.", 0), Reflect(1)],
        "satisfied",
        {"min_rounds": 1},
    ),
    Case(
        "min_rounds: a malformed text gives the reference's sentence",
        [MALFORMED, SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Refine(1, MALFORMED_INSTRUCTION, 0), Reflect(1)],
        "satisfied",
        {"min_rounds": 1},
    ),
    Case(
        "min_rounds: nothing is confirmed before them",
        [SATISFIED, SATISFIED, SATISFIED],
        [*UP_TO_PICTURE, Reflect(0), Refine(1, "No further edit needed.", 0), Reflect(1), Reflect(1, 1)],
        "satisfied",
        {"min_rounds": 1, **CONFIRM_TWICE},
    ),
    Case(
        "no early stop: every permitted round happens",
        [SATISFIED, MALFORMED],
        [
            *UP_TO_PICTURE,
            *(Reflect(0), Refine(1, "No further edit needed.", 0)),
            *(Reflect(1), Refine(2, MALFORMED_INSTRUCTION, 1)),
        ],
        "max_rounds",
        {"early_stop": EarlyStop(on_satisfied=False, confirmations=3), "max_rounds": 2},
    ),
    Case("a given picture is looked at first", [SATISFIED], [Reflect(0)], "satisfied", GIVEN),
    Case(
        "a given picture is edited as the reflection says",
        [EDIT, SATISFIED],
        [Reflect(0), Refine(1, "Add a hat.", 0), Reflect(1)],
        "satisfied",
        GIVEN,
    ),
    Case(
        "an instruction is carried out before anything is said",
        [SATISFIED],
        [Refine(1, "Make it blue.", 0), Reflect(1)],
        "satisfied",
        {**GIVEN, "instruction": "Make it blue."},
    ),
    Case(
        "an empty instruction is one",
        [SATISFIED],
        [Refine(1, "", 0), Reflect(1)],
        "satisfied",
        {**GIVEN, "instruction": ""},
    ),
    Case(
        "an instruction alone",
        [],
        [Refine(1, "Make it blue.", 0)],
        "max_rounds",
        {**GIVEN, "instruction": "Make it blue.", "max_rounds": 1},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_rules_of_stopping(case: Case) -> None:
    said = iter(case.said)
    walked = list(walk(begin(ask(**case.request)), said))
    assert [step for step, _ in walked] == list(case.steps)
    end = walked[-1][1]
    assert end.stop_reason == case.reason
    assert list(said) == []
    assert next_step(end) is None


def test_a_round_keeps_all_that_was_said_and_gives_the_last() -> None:
    *_, (_, end) = walk(begin(ask(early_stop=EarlyStop(confirmations=3))), iter([MALFORMED, SATISFIED, SATISFIED]))
    verdicts = [reflection.verdict for reflection in end.rounds[0].reflections]
    assert verdicts == [Verdict.MALFORMED, Verdict.SATISFIED, Verdict.SATISFIED]
    assert end.rounds[0].reflection == end.rounds[0].reflections[-1]


def test_each_round_names_the_edit_that_made_it() -> None:
    *_, (_, end) = walk(begin(ask(max_rounds=2)), iter([EDIT, EMPTY]))
    assert [r.instruction for r in end.rounds] == [None, "Add a hat.", ""]
    assert [r.index for r in end.rounds] == [0, 1, 2]
    assert end.newest == end.rounds[2].image


def test_a_trajectory_that_was_stopped_from_outside_has_no_next_step() -> None:
    trajectory = begin(ask(given_image=True))
    assert next_step(trajectory) == Reflect(0)
    for reason in ("stopped", "deadline"):
        stopped = ended(trajectory, reason)
        assert next_step(stopped) is None
        assert finished(stopped).stop_reason == reason


def test_an_outcome_of_the_wrong_kind_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="cannot come out as"):
        advance(Trajectory(ask()), Reason(), Drew(picture(0)))


def test_trajectories_of_one_request_draw_with_seeds_that_follow_each_other() -> None:
    last = 2**53 - 1
    request = Request(prompt="a cat", width=64, height=64, seed=last, n=2)
    assert [Trajectory(request, i).seed for i in (0, 1)] == [last, 0]


@given(requests(), st.lists(answers, min_size=60, max_size=60))
def test_every_walk_ends_within_its_bounds(request: Request, said: list[str]) -> None:
    walked = list(walk(begin(request), iter(said)))
    steps = [step for step, _ in walked]
    end = walked[-1][1]
    refinements = [step for step in steps if isinstance(step, Refine)]
    assert end.stop_reason in ("satisfied", "malformed", "max_rounds")
    assert [step.round for step in refinements] == list(range(1, len(refinements) + 1))
    assert request.min_rounds <= len(refinements) <= request.max_rounds
    assert len(end.rounds) == len(refinements) + 1
    assert all(len(r.reflections) <= request.early_stop.confirmations for r in end.rounds)
    assert all(trajectory.stop_reason is None for _, trajectory in walked[:-1])
    if not request.early_stop.on_satisfied:
        assert len(refinements) == request.max_rounds
    if end.stop_reason == "max_rounds":
        assert len(refinements) == request.max_rounds


@given(requests(), st.lists(answers, min_size=60, max_size=60), st.integers(0, 3))
def test_a_stored_trajectory_is_the_same_value_and_goes_on_alike(request: Request, said: list[str], index: int) -> None:
    for _, trajectory in walk(begin(request), iter(said)):
        stored = Trajectory(request, index, trajectory.reasoning, trajectory.rounds, usage=Usage(1, 2, 3))
        restored = Trajectory.from_json(json.loads(json.dumps(stored.to_json())))
        assert restored == stored
        assert next_step(restored) == next_step(stored)
