"""Controls: is it reading the picture that makes a loop better, or would other pictures do as well?

chance        as many first pictures as the loop has drawn, one of them picked blindly
shuffled      the loop's first pictures, edited by what was said of other prompts' pictures
elsewhere     reflections on a picture that was drawn for another prompt, of the same category or of another
blank         reflections on an empty picture
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from PIL import Image as PILImage

from training.eval_set import Case
from training.figures import ROUNDS, Json, Mean, Share, mean, reflected, share, sight
from training.loops import Loop
from training.world import BACKGROUND, SIDE_PX

FRESH: Final = ROUNDS  # with the loop's own first picture as many as the longest loop draws
_FRESH_SEED: Final = 10_000_000
_SHUFFLE_SEED: Final = 7


def fresh_seed(case: Case) -> int:
    """The first of the seeds of a case's fresh pictures: no loop's, and no two cases share one."""
    return _FRESH_SEED + 10 * case.seed


def fresh_bodies(cases: Sequence[Case]) -> list[Json]:
    """First pictures alone, with seeds of their own."""
    return [{"prompt": c.prompt, "seed": fresh_seed(c), "n": FRESH, "max_rounds": 0} for c in cases]


@dataclass(frozen=True)
class Chance:
    """With k first pictures: how often one picked blindly is right, and how often there is a right one to pick."""

    pictures: int
    picked: Mean
    any_right: Share


def chance(loops: Sequence[Loop], fresh: Sequence[Loop]) -> list[Chance]:
    """For k from 1 (the loop's own first picture) to all; `fresh` holds FRESH loops for each of `loops`."""
    own = np.array([[loop.rounds[0].is_right] for loop in loops], dtype=bool)
    others = np.array([loop.rounds[0].is_right for loop in fresh], dtype=bool).reshape(len(loops), FRESH)
    right = np.concatenate([own, others], axis=1)
    first = [right[:, :k] for k in range(1, right.shape[1] + 1)]
    return [Chance(some.shape[1], mean(some.mean(1)), share(map(any, some.tolist()))) for some in first]


@dataclass(frozen=True)
class Swap:
    """A loop's first picture, and the instruction that another loop's first picture was given."""

    loop: Loop
    instruction: str

    @property
    def body(self) -> Json:
        """The edit alone, with the noise that the loop's own had."""
        case = self.loop.case
        return {
            "prompt": case.prompt,
            "seed": case.seed,
            "image": self.loop.rounds[0].image_id,
            "instruction": self.instruction,
            "max_rounds": 1,
        }


def swaps(loops: Sequence[Loop]) -> list[Swap]:
    """All loops that were edited, each with another's first instruction."""
    edited = [loop for loop in loops if len(loop.rounds) > 1]
    given = [loop.rounds[1].instruction or "" for loop in edited]
    return [Swap(loop, given[other]) for loop, other in zip(edited, _others(len(edited)), strict=True)]


@dataclass(frozen=True)
class Shuffled:
    """Of the loops that were edited, how many were right before, after their own edit, and after another's."""

    before: Share
    own: Share
    others: Share
    difference: Mean


def shuffled(asked: Sequence[Swap], edited: Sequence[Loop]) -> Shuffled:
    """What the swaps came to."""
    own = [swap.loop.at(1).is_right for swap in asked]
    others = [loop.at(1).is_right for loop in edited]
    return Shuffled(
        share(swap.loop.at(0).is_right for swap in asked),
        share(own),
        share(others),
        mean(float(a) - float(b) for a, b in zip(own, others, strict=True)),
    )


def elsewhere_bodies(loops: Sequence[Loop], *, same_category: bool) -> list[Json]:
    """Each prompt with the last picture of another one."""
    bodies = []
    for loop, other in zip(loops, _pictures_elsewhere(loops, same_category=same_category), strict=True):
        bodies.append(_look(loop.case, other.rounds[-1].image_id))
    return bodies


def blank_bodies(cases: Sequence[Case]) -> list[Json]:
    """Each prompt with an empty picture."""
    content = io.BytesIO()
    PILImage.new("RGB", (SIDE_PX, SIDE_PX), BACKGROUND).save(content, "PNG")
    blank = base64.b64encode(content.getvalue()).decode()
    return [_look(case, blank) for case in cases]


def first_sight(loops: Sequence[Loop]) -> dict[str, Share]:
    """How well the given pictures were known: what was said of round 0."""
    return sight([shown for loop in loops for shown in reflected([loop])[:1]])


def _look(case: Case, image: str) -> Json:
    return {"prompt": case.prompt, "seed": case.seed, "image": image, "max_rounds": 1}


def _pictures_elsewhere(loops: Sequence[Loop], *, same_category: bool) -> list[Loop]:
    """For each loop another one; of the next category, if not of the same."""
    members: dict[str, list[int]] = {}
    for index, loop in enumerate(loops):
        members.setdefault(loop.case.category, []).append(index)
    groups = list(members.values())
    found = list(loops)
    for group, after in zip(groups, [*groups[1:], *groups[:1]], strict=True):
        for i, index in enumerate(group):
            found[index] = loops[group[_others(len(group))[i]] if same_category else after[(i + 1) % len(after)]]
    return found


def _others(count: int) -> list[int]:
    """For each index another one, every one once; the same at every run. A single one has only itself."""
    order = list(range(count))
    Random(_SHUFFLE_SEED).shuffle(order)
    after = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [after[index] for index in range(count)]


def fresh_shares(found: Sequence[Chance]) -> Json:
    """Plain values, by the number of pictures."""
    return {
        str(one.pictures): {"picked blindly": one.picked.to_json(), "any right": one.any_right.to_json()}
        for one in found
    }
