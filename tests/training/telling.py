"""Loops as a served model would give them, told by their scenes: drawn by the renderer, in the language's words."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from r3core.prompts import read_reflection
from training.edits import apply
from training.eval_set import Case
from training.language import reason, reflect
from training.loops import Loop, loops_of
from training.oracle import oracle
from training.render import render
from training.sampler import any_spec
from training.served import Answer, Json
from training.spec import Category, Spec, coloured_in, draw_scene, satisfies
from training.world import COLOURS, SHAPES, Scene, free_cells, in_reading_order, place


def case_of(category: Category, seed: int) -> Case:
    """Some case of a category."""
    return Case(category, f"a photo of {category} {seed}", any_spec(category, Random(seed)), seed)


def story(
    case: Case, scenes: Sequence[Scene], stop_reason: str = "satisfied", texts: Sequence[str | None] | None = None
) -> Loop:
    """The loop that showed these scenes; the reflections are the right ones unless others are given."""
    if texts is None:
        asked = len(scenes) if stop_reason != "max_rounds" else len(scenes) - 1
        texts = [reflect(case.spec, scene).text if i < asked else None for i, scene in enumerate(scenes)]
    return loops_of([case], [answer(case, scenes, stop_reason, texts)])[0]


def answer(case: Case, scenes: Sequence[Scene], stop_reason: str, texts: Sequence[str | None]) -> Answer:
    """The finished job of such a loop."""
    rounds = []
    for index, text in enumerate(texts):
        before = texts[index - 1] if index else None
        instruction = read_reflection(before).instruction if before else None
        reflection = {"text": text} if text is not None else None
        rounds.append({"image": {"id": f"img_{index}"}, "instruction": instruction, "reflection": reflection})
    plan = reason(coloured_in(case.spec, Random(0)))
    job: Json = {"trajectories": [{"reasoning": plan, "rounds": rounds, "stop_reason": stop_reason}]}
    return Answer(job, (tuple(render(list(scenes))),), 1.0)


def right(spec: Spec, seed: int = 0) -> Scene:
    """A scene that shows what is asked."""
    return draw_scene(spec, Random(seed))


def wrong(spec: Spec, seed: int = 0) -> Scene:
    """A scene with one thing too many."""
    scene, rng = right(spec, seed), Random(seed)
    more = place(rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(free_cells(scene)), rng)
    more_of_it = in_reading_order([*scene, more])
    assert not satisfies(spec, more_of_it)
    return more_of_it


def mended(spec: Spec, scene: Scene) -> Scene:
    """The scene after the right edit."""
    return apply(oracle(spec, scene), scene)
