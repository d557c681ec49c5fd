"""What the model writes: plans, reflections, answers and descriptions, in R3's format; and reflections read back.

    <think>I will draw a red circle to the left of a blue square.</think>
    <think>I see a red circle at the top left and a blue square in the middle. Count: red circle one, blue square one.
    The prompt asks for two blue squares, so the red circle should be a blue square.</think> Change the red circle at
    the top left to a blue square.
    <think>I see a red star on the right and a green heart at the top. The prompt asks for a red star left of a green
    heart. The star is in the right column and the heart in the middle column, but the star should be left of the
    heart.</think> Move the red star on the right to the top left.
    <think>I see a red star on the right. The prompt asks for a star, so everything matches.</think> No further edit
    needed.

A reflection first says what is there, in reading order, then, where more than two things may be asked for, how many of
each kind, then what was asked in the plainest words, then what differs: each word that is asked can be compared with
what was just read. Of a relation it first says in which column, or row, the two things lie. Each word follows from few
words before it; a model of this size that is to count or to compare places in a single word often errs. The count
follows the reading, not the prompt, and says the kind before the number: counted in the prompt's order, with the number
first, it copied the prompt's numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from r3core.prompts import NO, THINK_CLOSE, THINK_OPEN, YES, PromptStrings
from training.edits import PLACES, Add, Change, Op, Remove, read_ops, say_kind, say_ops
from training.held_out import is_held_out_picture, split_of, training_prompt
from training.oracle import first_ops, oracle
from training.phrasing import (
    CANONICAL_RELATION,
    NUMBERS,
    canonical,
    joined,
    listed,
    with_article,
)
from training.spec import Relation, Spec, related, relations_of, satisfies, shows_things, spec_of, tally, uncoloured
from training.world import BLOB, COLOURS, SHAPES, Scene, Thing, column, in_reading_order, row

_RELATION_WORDS: Final[dict[Relation, str]] = {
    "left": "left of",
    "right": "right of",
    "above": "above",
    "below": "below",
}
_NOTHING: Final = "nothing"
# How often a description is in the plainest words, and how often it names no colours.
_PLAIN_DESCRIPTION: Final = 0.5
_UNCOLOURED: Final = 0.15


@dataclass(frozen=True)
class Reflection:
    """A reflection as it should be: its text, and the operations of its instruction, () where all is right."""

    text: str
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Reading:
    """What a reflection says: what it sees as (colour, shape, cell) in its own order, and what to do, () for nothing.

    `ops` is None where the instruction is none of ours.
    """

    seen: tuple[tuple[str, str, int], ...]
    ops: tuple[Op, ...] | None


def reason(spec: Spec) -> str:
    """The plan for a spec with its colours chosen (`coloured_in`)."""
    return f"{THINK_OPEN}I will draw {canonical(spec)}.{THINK_CLOSE}"


def reflect(spec: Spec, things: Iterable[Thing]) -> Reflection:
    """The right reflection on a picture of these things for a prompt that asks for the spec."""
    scene = in_reading_order(things)
    ops = first_ops(oracle(spec, scene), scene)
    thought = f"I see {say_scene(scene)}.{_tally(spec, scene)} The prompt asks for {asked(spec)}"
    thought += _verdict(spec, scene, ops)
    return Reflection(f"{THINK_OPEN}{thought}{THINK_CLOSE} {say_ops(ops)}", ops)


def say_scene(scene: Scene) -> str:
    """`a red circle at the top left and a blue square in the middle`; `nothing`."""
    things = [f"{with_article(say_kind(thing.kind))} {PLACES[thing.cell]}" for thing in scene]
    return joined(things) if things else _NOTHING


def asked(spec: Spec) -> str:
    """The spec as reflections say it."""
    if spec.relation is None:
        return listed(spec.groups)
    return canonical(spec).replace(CANONICAL_RELATION[spec.relation], _RELATION_WORDS[spec.relation])


def read_reflection_text(text: str) -> Reading | None:
    """What a reflection says it sees and wants; None for a text of another form."""
    found = re.fullmatch(_REFLECTION, text.strip())
    if found is None:
        return None
    parts = [] if found[1] == _NOTHING else re.split(", | and ", found[1])
    things = [_SEEN.fullmatch(part) for part in parts]
    if not all(things):
        return None
    return Reading(tuple((t[1], t[2], PLACES.index(t[3])) for t in things if t), read_ops(found[2]))


def match_question(prompt: str) -> str:
    """The question whether a picture shows a prompt; the answer is `answer`."""
    return PromptStrings().yes_no_question(prompt)


def answer(spec: Spec, things: Iterable[Thing]) -> str:
    """`yes` or `no`."""
    return YES if satisfies(spec, things) else NO


def describe(things: Iterable[Thing]) -> str | None:
    """A scene in the plainest words of the prompts; None where no prompt says it (nothing there, blobs, too much)."""
    spec = spec_of(things)
    return None if spec is None else canonical(spec)


def training_description(things: Iterable[Thing], rng: Random) -> str | None:
    """A prompt of the train split that the scene is a right picture of: its things, or, where there are two, often
    their relation; half the time in the plainest words. None where there is none.
    """
    scene = tuple(things)
    spec = spec_of(scene)
    if spec is None or is_held_out_picture(scene):
        return None
    relations = relations_of(scene)
    chosen = rng.choice(relations) if relations and rng.random() < 0.5 else spec
    bare = uncoloured(chosen) if rng.random() < _UNCOLOURED else None
    if bare is not None and split_of(bare) == "train" and satisfies(bare, scene):
        chosen = bare
    return canonical(chosen) if rng.random() < _PLAIN_DESCRIPTION else training_prompt(chosen, rng)


def _verdict(spec: Spec, scene: Scene, ops: Sequence[Op]) -> str:
    """What follows the asked, to the end of the thought."""
    if spec.relation is not None and shows_things(spec, scene):
        holds = f"so the {_relation(spec, 'is')}, as asked" if not ops else f"but the {_relation(spec, 'should be')}"
        return f". The {_lines(spec, scene)}, {holds}."
    if not ops:
        return ", so everything matches."
    return f", so {joined(_differences(spec, scene, ops))}."


def _tally(spec: Spec, scene: Scene) -> str:
    """` Count: red circle two, blue square one.`, in reading order; one or two different things need none."""
    if not scene or not (spec.counted or spec.category == "mixture"):
        return ""
    counted = [f"{say_kind(kind)} {NUMBERS[count]}" for kind, count in tally(spec, scene).items()]
    return f" Count: {', '.join(counted)}."


def _related_names(spec: Spec) -> tuple[str, str]:
    """What the related things are called; with colours only where shapes are the same."""
    is_clear = len({group.shape for group in spec.groups}) == len(spec.groups)
    first, second = (group.shape if is_clear else say_kind(group.kind) for group in spec.groups[:2])
    return first, second


def _relation(spec: Spec, verb: str) -> str:
    """`circle is left of the square`."""
    first, second = _related_names(spec)
    return f"{first} {verb} {_RELATION_WORDS[spec.relation or 'left']} the {second}"


def _lines(spec: Spec, scene: Scene) -> str:
    """`circle is in the left column and the square in the middle column`, or in rows: where the relation is decided."""
    things = related(spec, scene)
    if spec.relation in ("left", "right"):
        lines = [f"{('left', 'middle', 'right')[column(thing.cell)]} column" for thing in things]
    else:
        lines = [f"{('top', 'middle', 'bottom')[row(thing.cell)]} row" for thing in things]
    first, second = _related_names(spec)
    return f"{first} is in the {lines[0]} and the {second} in the {lines[1]}"


def _differences(spec: Spec, scene: Scene, ops: Sequence[Op]) -> list[str]:
    """What is wrong, one clause for each kind of operation of the instruction."""
    seen = Counter(thing.kind for thing in scene)
    clauses: dict[str, None] = {}
    alike = Counter(_without_cell(spec, op) for op in ops)
    for op in ops:
        count = alike[_without_cell(spec, op)]
        many, are = count > 1, "are" if count > 1 else "is"
        thing = say_kind((op.colour, op.shape)) + "s" * many
        match op:
            case Add():
                name = thing if spec.coloured else op.shape + "s" * many
                clause = f"{NUMBERS[count]} {name} {are} missing"
            case Remove():
                clause = f"{NUMBERS[count]} {thing} {are} too many"
            case Change():
                which = "the" if count == seen[op.colour, op.shape] == 1 else NUMBERS[count]
                clause = f"{which} {thing} should be {_becomes(op, many)}"
            case _:
                clause = f"the {_relation(spec, 'should be')}"
        clauses[clause] = None
    return list(clauses)


def _without_cell(spec: Spec, op: Op) -> tuple[object, ...]:
    colour = op.colour if spec.coloured or not isinstance(op, Add) else ""
    return type(op), colour, op.shape, op.to if isinstance(op, Change) else None


def _becomes(op: Change, many: bool) -> str:
    """What a changed thing should be: only what is new."""
    colour, shape = op.to
    if shape == op.shape:
        return colour
    name = shape if colour == op.colour else f"{colour} {shape}"
    return f"{name}s" if many else with_article(name)


_REFLECTION: Final = rf"{THINK_OPEN}I see (.+?)\.(?: Count: .+?\.)? The prompt asks for .+{THINK_CLOSE} (.+)"
_SEEN: Final = re.compile(rf"an? ({'|'.join(COLOURS)}) ({'|'.join((*SHAPES, BLOB))}) ({'|'.join(PLACES)})")
