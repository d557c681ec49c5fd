"""Prompts: a spec in words.

A prompt is a frame ("a picture showing {}") around a phrase ("a {x1} to the left of a {x2}"). Each frame and each
phrase belongs to one split: "train", "validation" or "test"; those that are held out are new combinations of words
that are trained on. `held_out.py` decides for whole prompts, `prompt_reading.py` reads them back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final, Literal

from training.spec import Group, Relation, Spec

Split = Literal["train", "validation", "test"]
# More than anybody asks for: a picture can show nine of a kind.
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CANONICAL_RELATION: Final[dict[Relation, str]] = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
RELATION_FORMS: Final[dict[Relation, tuple[str, ...]]] = {
    "left": ("to the left of", "on the left of", "left of"),
    "right": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}

FRAMES: Final[tuple[tuple[str, Split], ...]] = (
    ("{}", "train"),
    ("a photo of {}", "train"),
    ("a picture of {}", "train"),
    ("an image of {}", "train"),
    ("a drawing of {}", "train"),
    ("a picture showing {}", "train"),
    ("an image with {}", "train"),
    ("a drawing showing {}", "train"),
    ("a simple drawing of {}", "train"),
    ("{} on a plain background", "train"),
    ("{} on a light background", "train"),
    ("a photo of {} on a plain background", "train"),
    ("a picture of {} on a light background", "train"),
    ("a drawing with {} on a plain background", "train"),
    ("draw {}", "train"),
    ("please draw {}", "train"),
    ("show me {}", "train"),
    ("make a picture of {}", "train"),
    ("a clean image showing {}", "train"),
    ("a photo of {} and nothing else", "train"),
    ("{} and nothing else", "train"),
    ("a simple picture with {}", "train"),
    ("a simple picture of {}", "validation"),
    ("draw an image of {}", "validation"),
    ("an image of {} on a plain background", "validation"),
    ("a photo showing {}", "test"),
    ("please draw a picture of {}", "test"),
    ("make a simple image with {}", "test"),
    ("show me a photo of {}", "test"),
    ("a clean drawing of {} on a light background", "test"),
    ("a picture showing {} and nothing else", "test"),
)

Form = Literal["one", "many", "pair", "list", "related", "beside"]
# x: colour and shape, or shape alone; xs its plural; c, s, ss the parts; n, d a number in letters, in digits.
PHRASES: Final[dict[Form, tuple[tuple[str, Split], ...]]] = {
    "one": (
        ("a {x1}", "train"),
        ("one {x1}", "train"),
        ("a single {x1}", "train"),
        ("just a {x1}", "train"),
        ("only one {x1}", "train"),
        ("a {s1} that is {c1}", "train"),
        ("a {s1} in {c1}", "train"),
        ("only a {x1}", "validation"),
        ("one {s1} in {c1}", "validation"),
        ("just one {x1}", "test"),
        ("one {s1} that is {c1}", "test"),
    ),
    "many": (
        ("{n1} {xs1}", "train"),
        ("exactly {n1} {xs1}", "train"),
        ("{d1} {xs1}", "train"),
        ("a group of {n1} {xs1}", "train"),
        ("{n1} {ss1} that are {c1}", "train"),
        ("{n1} {ss1} in {c1}", "train"),
        ("just {n1} {xs1}", "train"),
        ("a group of {d1} {xs1}", "validation"),
        ("exactly {n1} {ss1} that are {c1}", "validation"),
        ("exactly {d1} {xs1}", "test"),
        ("a group of {n1} {ss1} in {c1}", "test"),
    ),
    "pair": (
        ("a {x1} and a {x2}", "train"),
        ("one {x1} and one {x2}", "train"),
        ("a {x1} with a {x2}", "train"),
        ("a {x1} together with a {x2}", "train"),
        ("both a {x1} and a {x2}", "train"),
        ("a {s1} that is {c1} and a {s2} that is {c2}", "train"),
        ("a {s1} in {c1} and a {s2} in {c2}", "train"),
        ("one {x1} with one {x2}", "validation"),
        ("a {s1} in {c1} with a {s2} in {c2}", "validation"),
        ("one {x1} together with one {x2}", "test"),
        ("a {s1} that is {c1} with a {s2} that is {c2}", "test"),
    ),
    # Several groups, at least one of more than a single thing, or three groups.
    "list": (
        ("{list}", "train"),
        ("exactly {list}", "train"),
        ("a group of {list}", "train"),
        ("a group with {list}", "train"),
        ("just {list}", "validation"),
        ("only {list}", "test"),
    ),
    "related": (
        ("a {x1} {rel0} a {x2}", "train"),
        ("a {x1} {rel1} a {x2}", "train"),
        ("a {x1} {rel2} a {x2}", "train"),
        ("a {x1} that is {rel0} a {x2}", "train"),
        ("a {x1} that is {rel2} a {x2}", "train"),
        ("one {x1} {rel0} one {x2}", "train"),
        ("one {x1} {rel1} one {x2}", "train"),
        ("a {x1} placed {rel0} a {x2}", "train"),
        ("one {x1} placed {rel1} one {x2}", "train"),
        ("a {x1} that is {rel1} a {x2}", "validation"),
        ("one {x1} {rel2} one {x2}", "validation"),
        ("a {x1} placed {rel1} a {x2}", "test"),
        ("one {x1} that is {rel0} one {x2}", "test"),
    ),
    # The same, with a third thing somewhere.
    "beside": (
        ("a {x1} {rel0} a {x2}, and a {x3}", "train"),
        ("a {x1} {rel1} a {x2}, and a {x3}", "train"),
        ("a {x1} {rel2} a {x2}, and one {x3}", "train"),
        ("one {x1} {rel0} one {x2}, and one {x3}", "train"),
        ("a {x1} that is {rel0} a {x2}, and a {x3}", "train"),
        ("a {x1} {rel0} a {x2}, with a {x3}", "train"),
        ("a {x1} placed {rel1} a {x2}, and a {x3}", "train"),
        ("one {x1} {rel1} one {x2}, and a {x3}", "validation"),
        ("a {x1} that is {rel2} a {x2}, and a {x3}", "validation"),
        ("a {x1} placed {rel0} a {x2}, and a {x3}", "test"),
        ("a {x1} {rel2} a {x2}, with a {x3}", "test"),
    ),
}


@dataclass(frozen=True)
class Wording:
    """Which frame and which phrase (by their index) a prompt is said in."""

    frame: int
    form: Form
    phrase: int

    @property
    def splits(self) -> frozenset[Split]:
        """The splits of the two parts."""
        return frozenset((FRAMES[self.frame][1], PHRASES[self.form][self.phrase][1]))


def form_of(spec: Spec) -> Form:
    """Which phrases can say a spec."""
    if spec.relation is not None:
        return "related" if len(spec.groups) == 2 else "beside"
    counts = [group.count for group in spec.groups]
    if len(counts) == 1:
        return "one" if counts == [1] else "many"
    return "pair" if counts == [1, 1] else "list"


def with_article(words: str) -> str:
    """`a red circle`, `an orange circle`."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def name(group: Group, plural: bool = False) -> str:
    """`red circle`, `stars`."""
    shape = group.shape + "s" * plural
    return f"{group.colour} {shape}" if group.colour else shape


def joined(parts: list[str]) -> str:
    """`x`, `x and y`, `x, y and z`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def listed(groups: tuple[Group, ...]) -> str:
    """`two yellow stars and one red circle`; where every group is one thing, `a red circle and a blue square`."""
    if all(group.count == 1 for group in groups):
        return joined([with_article(name(group)) for group in groups])
    return joined([f"{NUMBERS[group.count]} {name(group, group.count > 1)}" for group in groups])


def canonical(spec: Spec) -> str:
    """A spec in its plainest words: the first phrase, without a frame."""
    return say(spec, Wording(0, form_of(spec), 0))


def wordings(spec: Spec) -> Iterator[Wording]:
    """Every wording of every split that can say a spec."""
    return iter(_wordings(form_of(spec), spec.coloured))


def say(spec: Spec, wording: Wording) -> str:
    """The prompt; a phrase that needs colours raises KeyError on a spec without any."""
    frame, phrase = FRAMES[wording.frame][0], PHRASES[wording.form][wording.phrase][0]
    said = frame.format(phrase.format(**_fields(spec)))
    return re.sub(r"\ba (?=orange)", "an ", said)


def vary(prompt: str, rng: Random) -> str:
    """The prompt as people may type it: most often as it is, now and then with a capital letter or a full stop."""
    if rng.random() < 0.15:
        prompt = prompt[0].upper() + prompt[1:]
    return f"{prompt}." if rng.random() < 0.15 else prompt


def is_worded(form: Form, phrase: int, coloured: bool) -> bool:
    """Whether a phrase can be said with or without colours."""
    return coloured or "{c1}" not in PHRASES[form][phrase][0]


@cache
def _wordings(form: Form, coloured: bool) -> tuple[Wording, ...]:
    phrases = [p for p in range(len(PHRASES[form])) if is_worded(form, p, coloured)]
    return tuple(Wording(f, form, p) for f in range(len(FRAMES)) for p in phrases)


def _fields(spec: Spec) -> dict[str, str]:
    fields = {"list": listed(spec.groups)}
    for i, group in enumerate(spec.groups, 1):
        fields |= {f"x{i}": name(group), f"xs{i}": name(group, plural=True), f"s{i}": group.shape}
        fields |= {f"ss{i}": f"{group.shape}s", f"n{i}": NUMBERS[group.count], f"d{i}": str(group.count)}
        if group.colour:
            fields[f"c{i}"] = group.colour
    if spec.relation is not None:
        fields |= {f"rel{k}": form for k, form in enumerate(RELATION_FORMS[spec.relation])}
    return fields
