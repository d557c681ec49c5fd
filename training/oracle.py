"""What to do to a scene so that it shows what was asked: the fewest operations, chosen by a fixed rule.

Things are given to asked kinds so that the least has to be changed; what is left over is removed, what is missing
is added. A change of colour is preferred to one of shape, things earlier in reading order are kept, additions go to
the first free cell of a fixed order. With a relation the asked things and their cells are chosen together; one that
stands beside stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations
from typing import Final

from training.edits import MOST_OPS, Add, Change, Inexecutable, Move, Op, Remove, apply
from training.spec import Kind, Relation, Spec, fits, holds, matches, satisfies
from training.world import BLOB, CELLS, COLOURS, Scene, Thing, column, free_cells, in_reading_order, row

_OP_COST: Final = 1000  # one operation outweighs every preference
_COLOUR_COST: Final = 10
_SHAPE_COST: Final = 12
_BLOB_COST: Final = 5
_MOVE_COST: Final = 1  # of two that would do, rather two moves than two changes
_NO_SWAP_COST: Final = 15
_PREFERRED_CELLS: Final = (4, 3, 5, 1, 7, 0, 2, 6, 8)  # the middle, the sides, the corners


def oracle(spec: Spec, things: Iterable[Thing]) -> tuple[Op, ...]:
    """Every operation that is needed, () for a scene that satisfies the spec. Carried out at once, all of them give a
    scene that does; a sentence has room for the first two.
    """
    scene = in_reading_order(things)
    if satisfies(spec, scene):
        return ()
    if spec.relation is not None:
        return _relate(spec.kinds, spec.relation, scene)
    kept = _assign(tuple(thing.kind for thing in scene), spec.kinds)
    changes = [_change(thing, kind) for thing, kind in zip(scene, kept, strict=True) if kind is not None]
    removals = [_remove(thing) for thing, kind in zip(scene, kept, strict=True) if kind is None]
    missing = list(spec.kinds)
    for kind in kept:
        if kind is not None:
            missing.remove(kind)
    additions = _add(missing, scene)
    return tuple(op for op in (*changes, *removals, *additions) if op is not None)


def first_ops(ops: Sequence[Op], things: Iterable[Thing]) -> tuple[Op, ...]:
    """As many of the oracle's operations as one sentence takes, and such that they can be carried out alone."""
    first = tuple(ops[:MOST_OPS])
    try:
        apply(first, tuple(things))
    except Inexecutable:  # room has to be made first, which only a full grid needs
        return tuple(op for op in ops if isinstance(op, Remove))[:MOST_OPS]
    return first


@lru_cache(maxsize=100_000)
def _assign(seen: tuple[tuple[str, str], ...], asked: tuple[Kind, ...]) -> tuple[Kind | None, ...]:
    """For each seen thing the asked kind it is to be, None for those to be removed; the cheapest way."""

    @cache
    def best(index: int, left: tuple[Kind, ...]) -> tuple[int, tuple[Kind | None, ...]]:
        if index == len(seen):
            return _OP_COST * len(left), ()
        options: list[tuple[int, tuple[Kind | None, ...]]] = []
        for kind in dict.fromkeys(left):
            rest = list(left)
            rest.remove(kind)
            cost, chosen = best(index + 1, tuple(rest))
            options.append((cost + _change_cost(seen[index], kind), (kind, *chosen)))
        cost, chosen = best(index + 1, left)
        options.append((cost + _OP_COST, (None, *chosen)))
        return min(options, key=lambda option: option[0])  # the first of equals: earlier things are kept

    return best(0, asked)[1]


def _change_cost(seen: tuple[str, str], kind: Kind) -> int:
    colour, shape = kind[0] not in (None, seen[0]), kind[1] != seen[1]
    if not colour and not shape:
        return 0
    return _OP_COST + _COLOUR_COST * colour + (_BLOB_COST if seen[1] == BLOB else _SHAPE_COST) * shape


def _change(thing: Thing, kind: Kind) -> Op | None:
    if matches(kind, thing):
        return None
    return Change(thing.colour, thing.shape, thing.cell, (kind[0] or thing.colour, kind[1]))


def _remove(thing: Thing) -> Op:
    return Remove(thing.colour, thing.shape, thing.cell)


def _add(missing: Sequence[Kind], scene: Scene) -> list[Op]:
    free = free_cells(scene) or list(range(len(CELLS)))
    cells = [cell for cell in _PREFERRED_CELLS if cell in free]
    added: list[Op] = []
    for kind, cell in zip(missing, cells, strict=False):
        added.append(Add(kind[0] or _open_colour(kind[1], scene, added), kind[1], cell))
    return added


def _open_colour(shape: str, scene: Scene, added: Sequence[Op]) -> str:
    """The colour of what is added where none was asked for: that of the others of its shape, else an unused one."""
    seen = [(thing.colour, thing.shape) for thing in scene] + [(op.colour, op.shape) for op in added]
    alike = [colour for colour, other in seen if other == shape]
    used = {colour for colour, _ in seen}
    return alike[0] if alike else next((colour for colour in COLOURS if colour not in used), next(iter(COLOURS)))


@dataclass(frozen=True)
class _Role:
    """What is to become one of the asked things: a thing of the scene, or a new one."""

    kind: Kind
    thing: Thing | None

    @property
    def cost(self) -> int:
        return _OP_COST if self.thing is None else _change_cost(self.thing.kind, self.kind)

    def cells(self, free: Sequence[int]) -> list[tuple[int, int]]:
        """(cell, cost) of every place it can have: a new thing any free cell, an unchanged one also where it is; one
        that is changed stays.
        """
        if self.thing is None:
            return [(cell, _PREFERRED_CELLS.index(cell)) for cell in free]
        stays = [(self.thing.cell, 0)]
        if self.cost:
            return stays
        here = self.thing.cell
        return stays + [(cell, _OP_COST + _MOVE_COST + _far(here, cell)) for cell in free if cell != here]


def _far(a: int, b: int) -> int:
    return (column(a) - column(b)) ** 2 + (row(a) - row(b)) ** 2


def _relate(kinds: Sequence[Kind], relation: Relation, scene: Scene) -> tuple[Op, ...]:
    """The operations that leave things of these kinds, the first in the relation to the second."""
    empty = free_cells(scene)
    found = min(_ways(kinds, relation, scene, empty), key=lambda way: way[0], default=None)
    if found is None:  # nine things: what is removed makes room
        found = min(_ways(kinds, relation, scene, list(range(len(CELLS)))), key=lambda way: way[0])
    _, roles, cells = found
    if len(cells) < len(roles):  # what is to stand beside is new
        cells = [*cells, next(cell for cell in _PREFERRED_CELLS if cell in empty and cell not in cells)]
    changes: list[Op | None] = []
    additions: list[Op] = []
    moves: list[Op] = []
    for role, cell in zip(roles, cells, strict=True):
        if role.thing is None:
            colour = role.kind[0] or _open_colour(role.kind[1], scene, additions)
            additions.append(Add(colour, role.kind[1], cell))
        elif role.thing.cell != cell:
            moves.append(Move(role.thing.colour, role.thing.shape, role.thing.cell, cell))
        else:
            changes.append(_change(role.thing, role.kind))
    removals = [_remove(thing) for thing in scene if all(role.thing is not thing for role in roles)]
    return tuple(op for op in (*moves, *changes, *removals, *additions) if op is not None)


_Way = tuple[int, list[_Role], list[int]]


def _ways(kinds: Sequence[Kind], relation: Relation, scene: Scene, free: Sequence[int]) -> Iterator[_Way]:
    """(cost, roles, cells) of every way to end in the relation; a thing that is new beside has no cell yet."""
    for first, second in dict.fromkeys(permutations((*scene, None, None), 2)):
        roles = _Role(kinds[0], first), _Role(kinds[1], second)
        rest = [thing for thing in scene if thing is not first and thing is not second]
        beside = [_beside(kind, rest) for kind in kinds[2:]]
        kept = sum(role.thing is not None for role in (*roles, *beside))
        base = sum(role.cost for role in (*roles, *beside)) + _OP_COST * (len(scene) - kept)
        stands = [role.thing.cell for role in beside if role.thing is not None]
        # Things that move may take each other's place; a new one takes no place that was just left, for an
        # instruction names each cell once.
        left = [thing.cell for role in roles if (thing := role.thing) is not None and not role.cost]
        room = [[*free, *left] if role.thing is not None else free for role in roles]
        for a, a_cost in roles[0].cells(room[0]):
            for b, b_cost in roles[1].cells(room[1]):
                if a != b and a not in stands and b not in stands and _is_related(relation, roles, (a, b)):
                    cost = base + a_cost + b_cost + _preference(roles, (a, b))
                    yield cost, [*roles, *beside], [a, b, *stands]


def _beside(kind: Kind, rest: Sequence[Thing]) -> _Role:
    """What is to become the thing beside the related ones: whatever of the rest is most like it."""
    return _Role(kind, min(rest, key=lambda thing: _change_cost(thing.kind, kind), default=None))


def _preference(roles: tuple[_Role, _Role], cells: tuple[int, int]) -> int:
    """Rather the first of the two is moved than the second, as it is the one that is spoken of; if both, they swap."""
    first, second = (role.thing for role in roles)
    first_moves = first is not None and first.cell != cells[0]
    second_moves = second is not None and second.cell != cells[1]
    if first and second and first_moves and second_moves:
        return 0 if (second.cell, first.cell) == cells else _NO_SWAP_COST
    return int(second_moves)


def _is_related(relation: Relation, roles: tuple[_Role, _Role], cells: tuple[int, int]) -> bool:
    first, second = (role.thing for role in roles)
    if first is not None and second is not None and (first.cell, second.cell) == cells:
        return holds(relation, first, second)
    return fits(relation, *cells)
