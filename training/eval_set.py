"""The prompts by which the trained model is measured, and those by which choices are made while it is trained.

    test         640 prompts, 80 of each category; once for each published figure, for nothing else
    validation   192 prompts, 24 of each; for choosing checkpoints and settings

Every prompt asks for a held-out combination (`single` has none), and half of them, for `single` all, in a held-out
wording too. The two sets share no combination, frame or phrase that is held out. The seed of each prompt's pictures
is fixed with it. The lists are computed; DIGESTS says that they are still those of the published figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import blake2s
from random import Random
from typing import Final, Literal

from training.held_out import held_out_wordings, split_of
from training.phrasing import form_of, say
from training.sampler import any_spec
from training.spec import CATEGORIES, Category, Spec

HeldOutSplit = Literal["validation", "test"]
SIZES: Final[dict[HeldOutSplit, int]] = {"test": 80, "validation": 24}  # prompts a category
DIGESTS: Final[dict[HeldOutSplit, str]] = {"test": "c608aa2ae5936324", "validation": "6b99ebfc76eceac7"}
_FIRST_SEED: Final[dict[HeldOutSplit, int]] = {"test": 20_000, "validation": 50_000}


@dataclass(frozen=True)
class Case:
    """One prompt to measure by: what it asks, and the seed to draw with."""

    category: Category
    prompt: str
    spec: Spec
    seed: int


@cache
def cases(split: HeldOutSplit = "test") -> tuple[Case, ...]:
    """The cases of a split, category after category."""
    first = _FIRST_SEED[split]
    prompts = [(category, *pair) for category in CATEGORIES for pair in _prompts(category, split)]
    return tuple(Case(category, prompt, spec, first + i) for i, (category, prompt, spec) in enumerate(prompts))


def quick_cases(per_category: int = 8) -> tuple[Case, ...]:
    """The first validation cases of each category: for a quick check that a change has not blinded the model."""
    return tuple(
        case
        for category in CATEGORIES
        for case in [case for case in cases("validation") if case.category == category][:per_category]
    )


def digest(split: HeldOutSplit) -> str:
    """What DIGESTS holds: changes with any prompt, its order and its seed."""
    lines = "\n".join(f"{case.seed} {case.prompt}" for case in cases(split))
    return blake2s(lines.encode(), digest_size=8).hexdigest()


def _prompts(category: Category, split: HeldOutSplit) -> list[tuple[str, Spec]]:
    rng = Random(f"{split} {category}")
    found: dict[str, Spec] = {}
    while len(found) < SIZES[split]:
        spec = any_spec(category, rng)
        of = split_of(spec)
        if of != (split if category != "single" else "train"):
            continue
        wordings = held_out_wordings(form_of(spec), spec.coloured, split, of)
        new = [wording for wording in wordings if split in wording.splits]
        known = [wording for wording in wordings if split not in wording.splits]
        wording = rng.choice(known if known and rng.random() < 0.5 else new)
        found.setdefault(say(spec, wording), spec)
    return list(found.items())
