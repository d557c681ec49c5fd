"""What training must never see: held-out phrasings, combinations and pictures, and the check that it does not.

A combination is what is asked, whatever the words: red heart; three green stars; a red circle with a blue square; a
red circle left of a blue square (the same as that square right of that circle); three things or more, wherever they
are. Every combination has one split, by
the tables here where there are few, by a hash of its name where there are many. `single` has none: five shapes are
too few to leave one out, so only phrasings are held out there.

A prompt is of the train split when its frame, phrase and combination all are; of the test split when some part is
and none is of the validation split; and the other way round. The rest belong to nobody.

A picture that shows exactly a held-out combination with its colours is held out too, whatever it was drawn for.
Combinations without colours ("a star and a heart") are held out as prompts only: their pictures are of any colours.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import blake2s
from random import Random
from typing import Final

from training.phrasing import FRAMES, PHRASES, Form, Split, Wording, form_of, is_worded, say, vary
from training.prompt_reading import read_prompt
from training.spec import OPPOSITE, Category, Spec, relations_of, spec_of
from training.world import Thing

_TEST_PERCENT: Final = 8
_VALIDATION_PERCENT: Final = 3
_FEW: Final[dict[str, Split]] = {
    "red triangle": "test",
    "green heart": "test",
    "blue star": "test",
    "yellow circle": "test",
    "purple square": "test",
    "orange star": "validation",
    "green square": "validation",
    "circle + heart": "test",
    "square + star": "test",
    "heart + triangle": "validation",
    "3 triangle": "test",
    "2 heart": "test",
    "6 circle": "test",
    "4 circle": "validation",
    "5 square": "validation",
}
# How prompts are worded in training: the first frame and phrase are the plainest, the second frame is GenEval's.
_PLAIN_FRAME: Final = 0.3
_PHOTO_FRAME: Final = 0.2
_PLAIN_PHRASE: Final = 0.35


class HeldOut(ValueError):
    """A training pool holds what is kept for validation or test; leave it out of the pool."""


def combination(spec: Spec) -> str:
    """The name of what is asked, the same for every way to say it."""
    groups = spec.groups
    if spec.relation in ("right", "below"):
        groups = (groups[1], groups[0], *groups[2:])
    names = [f"{group.count} {group.colour or ''} {group.shape}".replace("  ", " ") for group in groups]
    if not spec.counted:
        names = [name.removeprefix("1 ") for name in names]
    if spec.relation is not None:
        relation = OPPOSITE[spec.relation] if groups is not spec.groups else spec.relation
        return " + ".join([f" {relation} ".join(names[:2]), *names[2:]])
    return " + ".join(sorted(names))


@cache
def combination_split(name: str, category: Category) -> Split:
    """Which split a combination is of by its name."""
    if category == "single":
        return "train"
    if name in _FEW:
        return _FEW[name]
    if category in ("colour", "two") or (category == "counting" and len(name.split()) == 2):
        return "train"
    share = int.from_bytes(blake2s(name.encode(), salt=b"r3-small").digest()[:4], "big") % 100
    if share < _TEST_PERCENT:
        return "test"
    return "validation" if share < _TEST_PERCENT + _VALIDATION_PERCENT else "train"


def split_of(spec: Spec) -> Split:
    """The split of what is asked. A relation between things that are held out together is held out with them: its
    pictures show them together. Where a third thing stands beside, that alone decides: relations between two of three
    things are in every such picture.
    """
    if spec.relation is not None and spec.coloured:
        together = Spec(spec.groups)
        split = combination_split(combination(together), together.category)
        if split != "train" or len(spec.groups) > 2:
            return split
    return combination_split(combination(spec), spec.category)


def prompt_split(text: str) -> Split | None:
    """The split of a prompt; None for one that is of no split (parts of two, or not of this language)."""
    if (prompt := read_prompt(text)) is None:
        return None
    return _one_split(prompt.wording, split_of(prompt.spec))


def is_held_out_picture(things: Iterable[Thing]) -> bool:
    """Whether a picture of these things shows a combination that is kept for validation or test."""
    scene = tuple(things)
    if (spec := spec_of(scene)) is None:
        return False
    return any(split_of(shown) != "train" for shown in (spec, *relations_of(scene)))


def check_prompts(prompts: Iterable[str]) -> None:
    """HeldOut if any of these may not be trained on: of another split, or not of this language."""
    for text in prompts:
        if (split := prompt_split(text)) != "train":
            raise HeldOut(f"prompt {text!r} is of split {split}, not train; leave it out of the pool")


def check_pictures(scenes: Iterable[Iterable[Thing]]) -> None:
    """HeldOut if any of these scenes shows a held-out combination."""
    for things in scenes:
        scene = tuple(things)
        if is_held_out_picture(scene):
            raise HeldOut(f"the picture of {scene} shows a held-out combination; leave it out of the pool")


def training_prompt(spec: Spec, rng: Random) -> str:
    """The spec in words of the train split; HeldOut for a spec that is not."""
    if split_of(spec) != "train":
        raise HeldOut(f"{combination(spec)!r} is kept for {split_of(spec)}; draw another spec")
    form = form_of(spec)
    phrases = [p for p in _train_phrases(form) if is_worded(form, p, spec.coloured)]
    phrase = phrases[0] if rng.random() < _PLAIN_PHRASE else rng.choice(phrases)
    share = rng.random()
    frame = 0 if share < _PLAIN_FRAME else 1 if share < _PLAIN_FRAME + _PHOTO_FRAME else rng.choice(_train_frames())
    return vary(say(spec, Wording(frame, form, phrase)), rng)


def held_out_wordings(form: Form, coloured: bool, split: Split, combined: Split) -> list[Wording]:
    """Every wording that makes a prompt of `split` out of a spec of the split `combined`."""
    return [
        wording
        for p in range(len(PHRASES[form]))
        if is_worded(form, p, coloured)
        for f in range(len(FRAMES))
        if _one_split(wording := Wording(f, form, p), combined) == split
    ]


def _one_split(wording: Wording, combined: Split) -> Split | None:
    held = (wording.splits | {combined}) - {"train"}
    if not held:
        return "train"
    return next(iter(held)) if len(held) == 1 else None


@cache
def _train_frames() -> tuple[int, ...]:
    return tuple(f for f, (_, split) in enumerate(FRAMES) if split == "train")


@cache
def _train_phrases(form: Form) -> tuple[int, ...]:
    return tuple(p for p, (_, split) in enumerate(PHRASES[form]) if split == "train")
