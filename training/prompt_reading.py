"""Prompts read back: words to the spec that they say, and to the frame and phrase in which they say it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from training.phrasing import FRAMES, NUMBERS, PHRASES, RELATION_FORMS, Form, Wording, form_of, listed
from training.spec import MOST_OF_A_KIND, RELATIONS, Group, Spec
from training.world import COLOURS, SHAPES

_COLOUR: Final = "|".join(COLOURS)
_SHAPE: Final = "|".join(SHAPES)
_ASKED_NUMBERS: Final = NUMBERS[2 : MOST_OF_A_KIND + 1]
_GROUP: Final = re.compile(rf"(a|an|one|{'|'.join(_ASKED_NUMBERS)}) (?:({_COLOUR}) )?({_SHAPE})(s?)")


@dataclass(frozen=True)
class Prompt:
    """A prompt that was understood."""

    spec: Spec
    wording: Wording


@lru_cache(maxsize=200_000)
def read_prompt(text: str) -> Prompt | None:
    """What a prompt asks and how it says it; None for one that this language cannot say."""
    text = text.strip().removesuffix(".")
    text = text[:1].lower() + text[1:]
    for f, (frame, _) in enumerate(FRAMES):
        head, tail = frame.split("{}")
        if not (text.startswith(head) and text.endswith(tail)):
            continue
        if found := _read_phrase(text[len(head) : len(text) - len(tail)]):
            return Prompt(found[0], Wording(f, found[1], found[2]))
    return None


@cache
def _patterns() -> tuple[tuple[Form, int, re.Pattern[str]], ...]:
    """Every phrase as a pattern with the fields as named groups."""
    found = []
    for form, phrases in PHRASES.items():
        for p, (phrase, _) in enumerate(phrases):
            pattern = re.sub(r"\{(\w+)\}", lambda field: _pattern(field[1]), phrase)
            found.append((form, p, re.compile(re.sub(r"\ba (?=\(\?)", "an? ", pattern))))
    return tuple(found)


def _pattern(field: str) -> str:
    kind, number = field.rstrip("0123456789"), field[-1]
    if kind == "list":
        return "(?P<list>.+)"
    if kind == "rel":
        return f"(?P<rel>{'|'.join(RELATION_FORMS[relation][int(number)] for relation in RELATIONS)})"
    if kind in ("n", "d"):
        return f"(?P<n{number}>{'|'.join(_ASKED_NUMBERS if kind == 'n' else map(str, range(2, MOST_OF_A_KIND + 1)))})"
    if kind == "c":
        return f"(?P<c{number}>{_COLOUR})"
    colour = f"(?:(?P<c{number}>{_COLOUR}) )?" if kind in ("x", "xs") else ""
    return f"{colour}(?P<s{number}>{_SHAPE}){'s' if kind in ('xs', 'ss') else ''}"


def _read_phrase(text: str) -> tuple[Spec, Form, int] | None:
    for form, p, pattern in _patterns():
        if (found := pattern.fullmatch(text)) and (spec := _spec(found.groupdict())) and form_of(spec) == form:
            return spec, form, p
    return None


def _spec(fields: dict[str, str | None]) -> Spec | None:
    groups = _read_list(fields["list"] or "") if "list" in fields else _read_groups(fields)
    words = fields.get("rel")
    relation = next((r for r in RELATIONS if words in RELATION_FORMS[r]), None)
    try:
        return Spec(groups, relation)
    except ValueError:
        return None


def _read_groups(fields: dict[str, str | None]) -> tuple[Group, ...]:
    numbers = [i for i in "123" if f"s{i}" in fields]
    return tuple(Group(_number(fields.get(f"n{i}") or "one"), fields[f"c{i}"], fields[f"s{i}"] or "") for i in numbers)


def _read_list(text: str) -> tuple[Group, ...]:
    found = [_GROUP.fullmatch(part) for part in re.split(", | and ", text)]
    groups = tuple(Group(_number(part[1]), part[2], part[3]) for part in found if part)
    # What would be said otherwise ("one stars", "a star and two hearts") is no phrase of ours.
    return groups if groups and None not in found and listed(groups) == text else ()


def _number(word: str) -> int:
    if word.isdigit():
        return int(word)
    return NUMBERS.index(word) if word in NUMBERS else 1
