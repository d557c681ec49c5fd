"""What a prompt asks for, and whether a scene shows exactly that.

A spec is groups of equal things ("two yellow stars", "one red circle") and, for positions, where the first thing lies
as seen from the second; a third thing may stand beside these two. Either every group names a colour or none does. The
check is strict: the scene's things are the asked ones and no others; a relation needs a clear distance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal

from training.world import BLOB, CELLS, COLOURS, SHAPES, Scene, Thing, column, in_reading_order, place, row

Relation = Literal["left", "right", "above", "below"]
Category = Literal["single", "colour", "two", "counting", "attribution", "position", "mixture", "groups"]
Kind = tuple[str | None, str]  # colour or None (any), shape

RELATIONS: Final[tuple[Relation, ...]] = ("left", "right", "above", "below")
OPPOSITE: Final[dict[Relation, Relation]] = {"left": "right", "right": "left", "above": "below", "below": "above"}
# GenEval's six, then three things or more that all differ, and several groups of which one has more than one thing.
CATEGORIES: Final[tuple[Category, ...]] = (
    "single",
    "colour",
    "two",
    "counting",
    "attribution",
    "position",
    "mixture",
    "groups",
)
MOST_OF_A_KIND: Final = 6
MOST_THINGS: Final = 6
CLEAR_PX: Final = 16.0


@dataclass(frozen=True, slots=True)
class Group:
    """`count` things of one shape; of one colour, or, where `colour` is None, of any."""

    count: int
    colour: str | None
    shape: str

    @property
    def kind(self) -> Kind:
        """Colour or None, and shape."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Spec:
    """What is asked: groups in the prompt's order, and the relation of the first thing to the second."""

    groups: tuple[Group, ...]
    relation: Relation | None = None

    def __post_init__(self) -> None:
        if problem := _problem(self):
            raise ValueError(f"{self.groups} {self.relation or ''} is no spec: {problem}")

    @property
    def coloured(self) -> bool:
        """Whether the colours are asked for."""
        return self.groups[0].colour is not None

    @property
    def counted(self) -> bool:
        """Whether more than one thing of a kind is asked for."""
        return any(group.count > 1 for group in self.groups)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """One entry a thing."""
        return tuple(group.kind for group in self.groups for _ in range(group.count))

    @property
    def category(self) -> Category:
        """From the form alone."""
        if self.relation is not None:
            return "position"
        if self.counted:
            return "counting" if len(self.groups) == 1 else "groups"
        if len(self.groups) > 2:
            return "mixture"
        if len(self.groups) == 2:
            return "attribution" if self.coloured else "two"
        return "colour" if self.coloured else "single"


def _problem(spec: Spec) -> str | None:
    groups = spec.groups
    kinds = [group.kind for group in groups]
    if not groups or any(not 1 <= group.count <= MOST_OF_A_KIND for group in groups):
        return f"groups are of 1 to {MOST_OF_A_KIND} things"
    if sum(group.count for group in groups) > MOST_THINGS:
        return f"there are at most {MOST_THINGS} things"
    if len(set(kinds)) < len(kinds):
        return "two groups are alike; make them one"
    if any(shape not in SHAPES or (colour is not None and colour not in COLOURS) for colour, shape in kinds):
        return "a colour or shape is not of this world"
    if len({colour is None for colour, _ in kinds}) > 1:
        return "colour all groups or none"
    if spec.relation is not None and [group.count for group in groups] not in ([1, 1], [1, 1, 1]):
        return "a relation is between two single things, with at most one more beside them"
    return None


def holds(relation: Relation, first: Thing, second: Thing) -> bool:
    """Whether the first lies clearly left of (right of, above, below) the second."""
    dx, dy = second.cx - first.cx, second.cy - first.cy
    return {"left": dx, "right": -dx, "above": dy, "below": -dy}[relation] >= CLEAR_PX


def matches(kind: Kind, thing: Thing) -> bool:
    """Whether a thing is of the asked shape and, where asked, colour."""
    return kind[1] == thing.shape and kind[0] in (None, thing.colour)


def shows_things(spec: Spec, things: Iterable[Thing]) -> bool:
    """Whether these are the asked things and no others, wherever they lie."""
    return tally(spec, things) == Counter(spec.kinds)


def tally(spec: Spec, things: Iterable[Thing]) -> Counter[Kind]:
    """How many there are of each kind, told apart by what the spec names: with colours, or by shape alone."""
    return Counter((thing.colour if spec.coloured else None, thing.shape) for thing in things)


def satisfies(spec: Spec, things: Iterable[Thing]) -> bool:
    """Whether these are the asked things, no others, and the relation holds."""
    scene = tuple(things)
    if not shows_things(spec, scene):
        return False
    if spec.relation is None:
        return True
    return holds(spec.relation, *related(spec, scene))


def related(spec: Spec, scene: Scene) -> tuple[Thing, Thing]:
    """The first and the second thing of a relation, in a scene of exactly the asked things."""
    first, second = (next(thing for thing in scene if matches(kind, thing)) for kind in spec.kinds[:2])
    return first, second


def spec_of(things: Iterable[Thing]) -> Spec | None:
    """The coloured spec, without a relation, that exactly these things satisfy; groups in reading order. None for an
    empty scene, and for one with blobs or too many things.
    """
    scene = in_reading_order(things)
    counts = Counter(thing.kind for thing in scene)
    if not counts or len(scene) > MOST_THINGS or max(counts.values()) > MOST_OF_A_KIND:
        return None
    if any(thing.shape == BLOB for thing in scene):
        return None
    return Spec(tuple(Group(count, colour, shape) for (colour, shape), count in counts.items()))


def relations_of(things: Iterable[Thing]) -> list[Spec]:
    """Every coloured position spec that exactly these two things satisfy; none for other numbers and for twins."""
    scene = tuple(things)
    if len(scene) != 2 or scene[0].kind == scene[1].kind or BLOB in (scene[0].shape, scene[1].shape):
        return []
    pairs = (scene, scene[::-1])
    return [
        Spec((Group(1, *a.kind), Group(1, *b.kind)), relation)
        for a, b in pairs
        for relation in RELATIONS
        if holds(relation, a, b)
    ]


def uncoloured(spec: Spec) -> Spec | None:
    """The same asked without colours; None where two groups would be alike."""
    try:
        return Spec(tuple(replace(group, colour=None) for group in spec.groups), spec.relation)
    except ValueError:
        return None


def coloured_in(spec: Spec, rng: Random) -> Spec:
    """The spec with a colour chosen for each group that leaves it open, different ones if it can be."""
    if spec.coloured:
        return spec
    colours = rng.sample(list(COLOURS), len(spec.groups))
    groups = tuple(replace(group, colour=colour) for group, colour in zip(spec.groups, colours, strict=True))
    return replace(spec, groups=groups)


def fits(relation: Relation, first: int, second: int) -> bool:
    """Whether cells are laid out well for a relation: apart in its direction, and no further apart in the other."""
    across, down = column(second) - column(first), row(second) - row(first)
    along, aside = {
        "left": (across, down),
        "right": (-across, down),
        "above": (down, across),
        "below": (-down, across),
    }[relation]
    return along > 0 and along >= abs(aside)


LAYOUTS: Final[dict[Relation, tuple[tuple[int, int], ...]]] = {
    relation: tuple((a, b) for a in range(len(CELLS)) for b in range(len(CELLS)) if fits(relation, a, b))
    for relation in RELATIONS
}


def draw_scene(spec: Spec, rng: Random) -> Scene:
    """A scene that satisfies a spec: cells, sizes and colours left open are chosen."""
    spec = coloured_in(spec, rng)
    count = len(spec.kinds)
    if spec.relation is None:
        cells = rng.sample(range(len(CELLS)), count)
    else:
        apart = rng.choice(LAYOUTS[spec.relation])
        cells = [*apart, *rng.sample([cell for cell in range(len(CELLS)) if cell not in apart], count - 2)]
    return in_reading_order(
        place(colour or "", shape, cell, rng) for (colour, shape), cell in zip(spec.kinds, cells, strict=True)
    )
