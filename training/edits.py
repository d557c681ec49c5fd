"""Edit operations on a scene, and their words: an instruction is one sentence of at most two operations.

    Add a blue square at the bottom right.
    Remove the red circle at the top left and add a blue star in the middle.
    Change the red circle on the left to a blue square.
    Move the red circle on the left to the top right.

All operations of a sentence speak of the picture as it was, so two moves can swap things.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from training.phrasing import joined, with_article
from training.spec import Kind
from training.world import BLOB, CELLS, COLOURS, SHAPES, Scene, Thing, in_reading_order, move, place

MOST_OPS: Final = 2
NO_EDIT: Final = "No further edit needed."
PLACES: Final = tuple(
    {"left": "on the left", "middle": "in the middle", "right": "on the right"}.get(cell, f"at the {cell}")
    for cell in CELLS
)


@dataclass(frozen=True)
class Add:
    """Draw a thing in an empty cell."""

    colour: str
    shape: str
    cell: int


@dataclass(frozen=True)
class Remove:
    """Take the thing away that is in a cell."""

    colour: str
    shape: str
    cell: int


@dataclass(frozen=True)
class Change:
    """Draw another thing over the one in a cell, as large as it was."""

    colour: str
    shape: str
    cell: int
    to: tuple[str, str]


@dataclass(frozen=True)
class Move:
    """Move the thing in a cell to one that is empty, or that is left at the same time."""

    colour: str
    shape: str
    cell: int
    to_cell: int


Op = Add | Remove | Change | Move


class Inexecutable(ValueError):
    """An operation names a thing that is not there, or a cell that is taken."""


def apply(ops: Sequence[Op], scene: Scene, rng: Random | None = None) -> Scene:
    """The scene after all operations at once; what is added is of middling size in its cell's centre unless `rng`
    chooses. Inexecutable where the scene does not have what an operation names.
    """
    there = {thing.cell: thing for thing in scene}
    if len({op.cell for op in ops}) < len(ops):
        raise Inexecutable(f"{say_ops(ops)!r} names a cell twice; give each cell one operation")
    for op in ops:
        if not isinstance(op, Add):
            found = there.get(op.cell)
            if found is None or found.kind != (op.colour, op.shape):
                raise Inexecutable(f"{say_op(op)!r}: {CELLS[op.cell]} has {found and found.kind}; name what is there")
    left = dict(there)
    for op in ops:
        if not isinstance(op, Add):
            left.pop(op.cell, None)
    new = [_result(op, there, rng) for op in ops if not isinstance(op, Remove)]
    try:
        return in_reading_order([*left.values(), *new])
    except ValueError as error:
        raise Inexecutable(f"{say_ops(ops)!r}: {error}") from error


def _result(op: Add | Change | Move, there: dict[int, Thing], rng: Random | None) -> Thing:
    match op:
        case Add(colour, shape, cell):
            return place(colour, shape, cell, rng)
        case Change(cell=cell, to=(colour, shape)):
            return replace(there[cell], colour=colour, shape=shape)
        case Move(cell=cell, to_cell=to_cell):
            return move(there[cell], to_cell)


def say_kind(kind: Kind) -> str:
    """`red circle`, `circle`."""
    colour, shape = kind
    return f"{colour} {shape}" if colour else shape


def say_op(op: Op) -> str:
    """One operation, as it stands in a sentence."""
    thing, where = f"{op.colour} {op.shape}", PLACES[op.cell]
    match op:
        case Add():
            return f"add {with_article(thing)} {where}"
        case Remove():
            return f"remove the {thing} {where}"
        case Change(to=to):
            return f"change the {thing} {where} to {with_article(say_kind(to))}"
        case Move(to_cell=cell):
            return f"move the {thing} {where} to the {CELLS[cell]}"


def say_ops(ops: Sequence[Op]) -> str:
    """The instruction: one sentence; without operations, that none is needed."""
    if not ops:
        return NO_EDIT
    said = joined([say_op(op) for op in ops])
    return f"{said[0].upper()}{said[1:]}."


def read_ops(text: str) -> tuple[Op, ...] | None:
    """The operations of an instruction, () where none is needed; None for any other sentence."""
    if text.strip() == NO_EDIT:
        return ()
    body = text.strip()
    if not body.endswith("."):
        return None
    found = [_read_op(part) for part in re.split(", | and ", body[0].lower() + body[1:-1])]
    ops = tuple(op for op in found if op is not None)
    return ops if len(ops) == len(found) and say_ops(ops) == body else None


_THING: Final = rf"({'|'.join(COLOURS)}) ({'|'.join((*SHAPES, BLOB))})"
_PLACE: Final = "|".join(sorted(PLACES, key=len, reverse=True))
_CELL: Final = "|".join(sorted(CELLS, key=len, reverse=True))
_OP: Final = re.compile(
    rf"(add an?|remove the|change the|move the) {_THING} ({_PLACE})(?: to (?:an? {_THING}|the ({_CELL})))?"
)


def _read_op(text: str) -> Op | None:
    if (found := _OP.fullmatch(text)) is None:
        return None
    verb, colour, shape, where, to_colour, to_shape, to_cell = found.groups()
    cell = PLACES.index(where)
    match verb.split()[0]:
        case "add":
            return Add(colour, shape, cell)
        case "remove":
            return Remove(colour, shape, cell)
        case "change":
            return Change(colour, shape, cell, (to_colour, to_shape)) if to_colour else None
        case _:
            return Move(colour, shape, cell, CELLS.index(to_cell)) if to_cell else None
