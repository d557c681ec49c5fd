"""What the model is trained on: endless samples of every task, none of them held out.

    Drawing      prompt, plan, scene                         to draw from a prompt
    Pair         prompt, scene, reflection, ops, target      to reflect on a picture, and to edit it
    Judgement    prompt, scene, yes or no
    Description  scene, a prompt it is a right picture of

`relabel` makes pairs of a model's own pictures (DAgger) by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from training.corrupt import corrupt
from training.edits import Add, Change, Inexecutable, Move, Op, Remove, apply, say_ops
from training.held_out import is_held_out_picture, prompt_split, split_of, training_prompt
from training.language import answer, reason, reflect, training_description
from training.prompt_reading import read_prompt
from training.spec import (
    MOST_OF_A_KIND,
    MOST_THINGS,
    RELATIONS,
    Category,
    Group,
    Spec,
    coloured_in,
    draw_scene,
)
from training.world import BLOB, CELLS, COLOURS, SHAPES, Scene, Thing, free_cells, in_reading_order, place

# How often each category is drawn from: the harder, the more often.
SHARES: Final[dict[Category, float]] = {
    "single": 0.03,
    "colour": 0.04,
    "two": 0.09,
    "counting": 0.16,
    "attribution": 0.11,
    "position": 0.26,
    "mixture": 0.13,
    "groups": 0.18,
}
RIGHT: Final = 0.25  # pairs whose picture is right
UNRELATED: Final = 0.15  # pairs whose picture was drawn for another prompt, or for none
_UNCOLOURED_POSITION: Final = 0.2
_BESIDE: Final = 0.6  # positions with a third thing
_MIXED: Final = (3, 3, 4, 4, 5)  # how many things differ
_COUNTS: Final = (
    *((1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (2, 3), (3, 2), (1, 4), (4, 1), (3, 3), (2, 4), (4, 2)),
    *((1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 2, 1), (1, 2, 2), (2, 1, 2), (2, 2, 2)),
)
_KINDS: Final = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)


@dataclass(frozen=True)
class Drawing:
    """A prompt with the plan and a scene that satisfies both."""

    prompt: str
    spec: Spec
    reason: str
    scene: Scene


@dataclass(frozen=True)
class Pair:
    """A picture for a prompt, the right reflection on it, and the scene after its instruction (the same for none)."""

    prompt: str
    spec: Spec
    scene: Scene
    reflection: str
    ops: tuple[Op, ...]
    target: Scene

    @property
    def instruction(self) -> str:
        """The sentence after </think>."""
        return say_ops(self.ops)


@dataclass(frozen=True)
class Edit:
    """An instruction for a picture, asked by nobody's prompt."""

    scene: Scene
    instruction: str
    ops: tuple[Op, ...]
    target: Scene


@dataclass(frozen=True)
class Judgement:
    """Whether a scene is a right picture of a prompt: `yes` or `no`."""

    prompt: str
    scene: Scene
    answer: str


@dataclass(frozen=True)
class Description:
    """A scene in the words of a prompt."""

    scene: Scene
    text: str


class Sampler:
    """Training samples from one seed: the same seed gives the same samples in the same order."""

    def __init__(self, seed: int | str) -> None:
        self._rng = Random(seed)

    def spec(self, category: Category | None = None) -> Spec:
        """A spec of the train split; of any category, by SHARES, unless one is given."""
        if category is None:
            category = self._rng.choices(list(SHARES), list(SHARES.values()))[0]
        while True:
            spec = any_spec(category, self._rng)
            if split_of(spec) == "train":
                return spec

    def drawing(self, category: Category | None = None) -> Drawing:
        """A prompt, its plan and a right scene."""
        spec = self.spec(category)
        chosen, scene = self._draw(spec)
        return Drawing(training_prompt(spec, self._rng), spec, reason(chosen), scene)

    def pair(self, category: Category | None = None) -> Pair:
        """A picture to reflect on: right, with one or two errors, or unrelated."""
        while True:
            spec = self.spec(category)
            pair = pair_of(training_prompt(spec, self._rng), spec, self._picture_for(spec))
            if pair is not None:
                return pair

    def edit(self) -> Edit:
        """One or two operations of any kind on any scene, whether or not they make it better."""
        while True:
            scene = self._any_scene()
            ops = tuple(self._any_op(scene) for _ in range(self._rng.choice((1, 1, 2))))
            try:
                target = apply(ops, scene)
            except Inexecutable:
                continue
            if len(target) <= MOST_THINGS and not is_held_out_picture(target):
                return Edit(scene, say_ops(ops), ops, target)

    def judgement(self) -> Judgement:
        """A picture that half of the time is right and else mostly almost."""
        spec = self.spec()
        while True:
            scene = self._draw(spec)[1]
            if self._rng.random() >= 0.5:
                scene = corrupt(spec, scene, self._rng) if self._rng.random() < 0.8 else self._any_scene()
            if not is_held_out_picture(scene):
                return Judgement(training_prompt(spec, self._rng), scene, answer(spec, scene))

    def description(self) -> Description:
        """A picture and what is on it; the picture is drawn for a prompt, or is of one that went wrong."""
        while True:
            spec = self.spec()
            scene = self._draw(spec)[1]
            if self._rng.random() < 0.3:
                scene = corrupt(spec, scene, self._rng)
            text = training_description(scene, self._rng)
            if text is not None:
                return Description(scene, text)

    def _draw(self, spec: Spec) -> tuple[Spec, Scene]:
        while True:
            chosen = coloured_in(spec, self._rng)
            scene = draw_scene(chosen, self._rng)
            if split_of(chosen) == "train" and not is_held_out_picture(scene):
                return chosen, scene

    def _picture_for(self, spec: Spec) -> Scene:
        share = self._rng.random()
        if share < UNRELATED:
            return self._any_scene()
        scene = self._draw(spec)[1]
        return scene if share < UNRELATED + RIGHT else corrupt(spec, scene, self._rng)

    def _any_scene(self) -> Scene:
        """A scene for no prompt in particular: mostly what prompts ask for, now and then nothing, or at random."""
        how = self._rng.random()
        if how < 0.08:
            return ()
        if how < 0.7:
            return self._draw(self.spec())[1]
        shapes = (*SHAPES, BLOB)
        while True:
            cells = self._rng.sample(range(len(CELLS)), self._rng.randint(1, MOST_THINGS))
            scene = in_reading_order(
                place(self._rng.choice(list(COLOURS)), self._rng.choices(shapes, [*[1.0] * 5, 0.4])[0], cell, self._rng)
                for cell in cells
            )
            if not is_held_out_picture(scene):
                return scene

    def _any_op(self, scene: Scene) -> Op:
        rng = self._rng
        free = free_cells(scene)
        if not scene or rng.random() < 0.3:
            return Add(*rng.choice(_KINDS), rng.choice(free))
        thing = rng.choice(scene)
        named = thing.colour, thing.shape, thing.cell
        how = rng.random()
        if how < 0.35:
            return Remove(*named)
        if how < 0.65:
            return Move(*named, rng.choice(free))
        return Change(*named, rng.choice([kind for kind in _KINDS if kind != thing.kind]))


def any_spec(category: Category, rng: Random) -> Spec:
    """A spec of a category, whatever its split."""
    match category:
        case "single":
            return Spec((Group(1, None, rng.choice(SHAPES)),))
        case "colour":
            return Spec((Group(1, *rng.choice(_KINDS)),))
        case "two":
            return _pair(rng, coloured=False)
        case "attribution":
            return _pair(rng, coloured=True)
        case "position":
            return _position(rng)
        case "counting":
            colour = rng.choice(list(COLOURS)) if rng.random() < 0.7 else None
            return Spec((Group(rng.randint(2, MOST_OF_A_KIND), colour, rng.choice(SHAPES)),))
        case "mixture":
            return Spec(tuple(Group(1, *kind) for kind in rng.sample(_KINDS, rng.choice(_MIXED))))
        case "groups":
            return _groups(rng)


def _pair(rng: Random, coloured: bool) -> Spec:
    """Two kinds of thing: different in shape and colour for the most part, else in one of them."""
    if not coloured:
        return Spec(tuple(Group(1, None, shape) for shape in rng.sample(SHAPES, 2)))
    (c1, c2), (s1, s2) = rng.sample(list(COLOURS), 2), rng.sample(SHAPES, 2)
    same = rng.random()
    if same < 0.12:
        s2 = s1
    elif same < 0.24:
        c2 = c1
    return Spec((Group(1, c1, s1), Group(1, c2, s2)))


def _position(rng: Random) -> Spec:
    """Two things, or two and a third beside them, in a relation."""
    coloured = rng.random() >= _UNCOLOURED_POSITION
    pair, relation = _pair(rng, coloured).groups, rng.choice(RELATIONS)
    if not coloured or rng.random() >= _BESIDE:
        return Spec(pair, relation)
    others = [kind for kind in _KINDS if kind not in {group.kind for group in pair}]
    return Spec((*pair, Group(1, *rng.choice(others))), relation)


def _groups(rng: Random) -> Spec:
    """Two groups, or three, of up to four things."""
    counts = rng.choice(_COUNTS)
    if len(counts) == 3:
        kinds = rng.sample(_KINDS, 3)
        return Spec(tuple(Group(count, *kind) for count, kind in zip(counts, kinds, strict=True)))
    pair = _pair(rng, coloured=rng.random() < 0.8).groups
    return Spec(tuple(replace(group, count=count) for group, count in zip(pair, counts, strict=True)))


def pair_of(prompt: str, spec: Spec, scene: Scene) -> Pair | None:
    """The right reflection on a scene, and the scene it leads to; None where a held-out picture would be shown."""
    reflection = reflect(spec, scene)
    target = apply(reflection.ops, scene)
    if is_held_out_picture(scene) or is_held_out_picture(target):
        return None
    return Pair(prompt, spec, scene, reflection.text, reflection.ops, target)


def relabel(prompt: str, things: Iterable[Thing]) -> Pair | None:
    """A pair from a picture that a model made for a training prompt, as `parse` reads it; None where the picture, or
    what it should become, is held out. A prompt that is not of the train split is a ValueError.
    """
    understood = read_prompt(prompt)
    if understood is None or prompt_split(prompt) != "train":
        raise ValueError(f"{prompt!r} is no training prompt (split {prompt_split(prompt)}); draw it from a Sampler")
    return pair_of(prompt, understood.spec, in_reading_order(things))
