"""What a served model did with a prompt, read by the exact parser: each picture, and what the model said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from r3core.prompts import is_reflection_format, is_think_format, read_reflection
from r3core.types import Image, Reflection, Request, Round, Trajectory, Verdict
from training.edits import Inexecutable, Op, apply
from training.eval_set import Case
from training.language import Reading, read_reflection_text
from training.oracle import oracle
from training.parse import parse
from training.render import Pixels
from training.served import Answer
from training.spec import Spec, satisfies
from training.world import Scene, layout

_ROUND_LIMIT: Final = 8  # the API's; only for drawing sheets


@dataclass(frozen=True, eq=False)
class Shown:
    """One round: the picture, what is on it, whether that is what was asked, the edit that made it, and what was then
    said of it (None where the model was not asked).
    """

    image_id: str
    pixels: Pixels
    scene: Scene
    is_right: bool
    instruction: str | None
    said: Reflection | None

    @cached_property
    def reading(self) -> Reading | None:
        """What the reflection says it sees and wants; None without one, and for one of another form."""
        return read_reflection_text(self.said.text) if self.said else None

    @property
    def is_satisfied(self) -> bool:
        """Whether the model called it right."""
        return self.said is not None and self.said.verdict is Verdict.SATISFIED

    @property
    def is_verdict_right(self) -> bool:
        """Whether the model called it what it is; a malformed reflection calls it nothing."""
        return (
            self.said is not None and self.said.verdict is not Verdict.MALFORMED and self.is_satisfied == self.is_right
        )

    @property
    def is_reading_right(self) -> bool:
        """Whether the model listed exactly what is there, colours, shapes and places."""
        return self.reading is not None and tuple(sorted(self.reading.seen)) == tuple(sorted(layout(self.scene)))

    @property
    def is_in_format(self) -> bool:
        """Whether the reflection has R3's form."""
        return self.said is not None and is_reflection_format(self.said.text)


@dataclass(frozen=True, eq=False)
class Loop:
    """One trajectory of a case: its plan, its rounds, why it ended, and how long it took as the client saw it."""

    case: Case
    reasoning: str | None
    rounds: tuple[Shown, ...]
    stop_reason: str
    wall_s: float

    def at(self, index: int) -> Shown:
        """The picture that the loop has after a round: the last one where it has stopped before."""
        return self.rounds[min(index, len(self.rounds) - 1)]

    @property
    def is_plan_in_format(self) -> bool:
        """Whether the plan has R3's form."""
        return self.reasoning is not None and is_think_format(self.reasoning)

    @property
    def is_finished(self) -> bool:
        """Whether the model ended it itself, satisfied."""
        return self.stop_reason == "satisfied"

    def trajectory(self) -> Trajectory:
        """The same as the core's value, for what draws those."""
        height, width, _ = self.rounds[0].pixels.shape
        rounds = tuple(
            Round(i, Image(shown.image_id, width, height), shown.instruction, (shown.said,) if shown.said else ())
            for i, shown in enumerate(self.rounds)
        )
        reason = next((r for r in ("satisfied", "max_rounds", "malformed") if r == self.stop_reason), None)
        request = Request(self.case.prompt, width, height, self.case.seed, max_rounds=_ROUND_LIMIT)
        return Trajectory(request, reasoning=self.reasoning, rounds=rounds, stop_reason=reason)


def loops_of(cases: Sequence[Case], answers: Sequence[Answer]) -> list[Loop]:
    """The loops of finished jobs, all trajectories of a job in a row."""
    pictures = [picture for answer in answers for rounds in answer.pictures for picture in rounds]
    scenes = iter(parse(np.stack(pictures)) if pictures else [])
    return [
        _loop(case, answer, index, [next(scenes) for _ in answer.pictures[index]])
        for case, answer in zip(cases, answers, strict=True)
        for index in range(len(answer.pictures))
    ]


def _loop(case: Case, answer: Answer, index: int, scenes: Sequence[Scene]) -> Loop:
    told = answer.job["trajectories"][index]
    rounds = []
    for value, pixels, scene in zip(told["rounds"], answer.pictures[index], scenes, strict=True):
        said = value["reflection"]
        rounds.append(
            Shown(
                value["image"]["id"],
                pixels,
                scene,
                satisfies(case.spec, scene),
                value["instruction"],
                read_reflection(said["text"]) if said else None,
            )
        )
    return Loop(case, told["reasoning"], tuple(rounds), told["stop_reason"], answer.wall_s)


def target_of(shown: Shown) -> Scene | None:
    """What the picture becomes when the reflection's instruction is carried out to the letter; None where it cannot
    be.
    """
    ops: tuple[Op, ...] | None = shown.reading.ops if shown.reading else None
    if not ops:
        return None
    try:
        return apply(ops, shown.scene)
    except Inexecutable:
        return None


def is_nearer(spec: Spec, target: Scene, before: Scene) -> bool:
    """Whether fewer operations are left to do."""
    return len(oracle(spec, target)) < len(oracle(spec, before))
