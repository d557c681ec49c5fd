"""Wrong pictures for right prompts: a scene that satisfies its prompt, with one or two things made wrong.

The kinds of error and their shares follow what a model of this kind gets wrong by itself: one thing too many (most
often a twin of another), one missing, the second thing in the first one's colour or shape, shapes that look alike,
relations ignored. They serve the training of reflections and edits; no picture is corrupted when a model is served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from training.oracle import oracle
from training.spec import LAYOUTS, RELATIONS, Spec, related, satisfies
from training.world import BLOB, CELLS, COLOURS, SHAPES, Scene, Thing, free_cells, in_reading_order, move, place

# Of the wrong pictures for a position, those where nothing but the relation is wrong.
RELATION_ERRORS: Final = 0.45
_TWO_ERRORS: Final = 0.35
_TWIN: Final = 0.7
# How often a changed thing takes after another one of the scene, and otherwise after what is mistaken for it.
_LEAK: Final = 0.45
_ALIKE: Final = 0.5
_ALIKE_SHAPES: Final = {
    "circle": ("square", "heart"),
    "square": ("circle", "triangle"),
    "triangle": ("star", "square"),
    "star": ("triangle", "heart"),
    "heart": ("circle", "star"),
}
_ALIKE_COLOURS: Final = {
    "red": ("orange", "purple"),
    "green": ("blue", "yellow"),
    "blue": ("purple", "green"),
    "yellow": ("orange", "green"),
    "purple": ("blue", "red"),
    "orange": ("yellow", "red"),
}
Corruption = Callable[[Scene, Random], Scene]


def corrupt(spec: Spec, scene: Scene, rng: Random) -> Scene:
    """A wrong scene made from a right one, such that one or two operations of the oracle mend it."""
    if spec.relation is not None and rng.random() < RELATION_ERRORS:
        return _break_relation(spec, scene, rng)
    while True:
        wrong = scene
        for _ in range(2 if rng.random() < _TWO_ERRORS else 1):
            wrong = _kind_of_error(spec, wrong, rng)(wrong, rng)
        if 1 <= len(oracle(spec, wrong)) <= 2:
            return wrong


def _kind_of_error(spec: Spec, scene: Scene, rng: Random) -> Corruption:
    if not scene:
        return _add
    kinds: list[Corruption] = [_remove, _add, _reshape, _blur]
    weights = [0.2, 0.3, 0.3, 0.08]
    if spec.counted:
        weights = [0.35, 0.4, 0.15, 0.05]
    if spec.coloured:
        kinds.append(_recolour)
        weights.append(0.15 if spec.counted else 0.3)
    if spec.coloured and len(scene) > 1:
        kinds.append(_swap_colours)
        weights.append(0.1)
    return rng.choices(kinds, weights)[0]


def _remove(scene: Scene, rng: Random) -> Scene:
    gone = rng.choice(scene)
    return tuple(thing for thing in scene if thing is not gone)


def _add(scene: Scene, rng: Random) -> Scene:
    free = free_cells(scene)
    if not free:
        return scene
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    if scene and rng.random() < _TWIN:
        colour, shape = rng.choice(scene).kind
    return in_reading_order((*scene, place(colour, shape, rng.choice(free), rng)))


def _recolour(scene: Scene, rng: Random) -> Scene:
    return _change(scene, rng, lambda thing: replace(thing, colour=_other_colour(thing, scene, rng)))


def _reshape(scene: Scene, rng: Random) -> Scene:
    return _change(scene, rng, lambda thing: replace(thing, shape=_other_shape(thing, scene, rng)))


def _blur(scene: Scene, rng: Random) -> Scene:
    return _change(scene, rng, lambda thing: replace(thing, shape=BLOB))


def _swap_colours(scene: Scene, rng: Random) -> Scene:
    if len(scene) < 2:
        return scene
    a, b = rng.sample(scene, 2)
    swapped = {a: b.colour, b: a.colour}
    return tuple(replace(thing, colour=swapped.get(thing, thing.colour)) for thing in scene)


def _change(scene: Scene, rng: Random, changed: Callable[[Thing], Thing]) -> Scene:
    if not scene:
        return scene
    chosen = rng.choice(scene)
    return tuple(changed(thing) if thing is chosen else thing for thing in scene)


def _other_colour(thing: Thing, scene: Scene, rng: Random) -> str:
    others = sorted({other.colour for other in scene} - {thing.colour})
    if others and rng.random() < _LEAK:
        return rng.choice(others)
    if rng.random() < _ALIKE:
        return rng.choice(_ALIKE_COLOURS[thing.colour])
    return rng.choice([colour for colour in COLOURS if colour != thing.colour])


def _other_shape(thing: Thing, scene: Scene, rng: Random) -> str:
    others = sorted({other.shape for other in scene} - {thing.shape, BLOB})
    if others and rng.random() < _LEAK:
        return rng.choice(others)
    if thing.shape in _ALIKE_SHAPES and rng.random() < _ALIKE:
        return rng.choice(_ALIKE_SHAPES[thing.shape])
    return rng.choice([shape for shape in SHAPES if shape != thing.shape])


def _break_relation(spec: Spec, scene: Scene, rng: Random) -> Scene:
    """The two related things elsewhere, so that the relation does not hold: in each other's place, one moved, or both
    laid out for any other relation.
    """
    a, b = related(spec, scene)
    beside = tuple(thing for thing in scene if thing is not a and thing is not b)
    taken = {thing.cell for thing in beside}
    while True:
        how = rng.random()
        if how < 0.4:
            cells = b.cell, a.cell
        elif how < 0.7:
            cells = rng.choice(((a.cell, rng.randrange(len(CELLS))), (rng.randrange(len(CELLS)), b.cell)))
        else:
            cells = rng.choice(LAYOUTS[rng.choice(RELATIONS)])
        if cells[0] != cells[1] and not taken & {*cells}:
            wrong = in_reading_order((move(a, cells[0]), move(b, cells[1]), *beside))
            if not satisfies(spec, wrong):
                return wrong
