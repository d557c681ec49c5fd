"""The texts that the tokenizer is trained on: R3's prompt strings, and whatever the model reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from r3core import prompts
from training.language import match_question
from training.sampler import Sampler

_SEED: Final = 7
# R3's strings stand in front of every answer; so often that each of their words becomes one token.
_TIMES_FIXED: Final = 400


def texts(count: int = 3000) -> Iterator[str]:
    """`count` prompts, plans, reflections and questions of the train split, and the fixed strings."""
    sampler = Sampler(_SEED)
    for _ in range(count):
        drawing, pair = sampler.drawing(), sampler.pair()
        yield from (drawing.prompt, drawing.reason, pair.reflection, prompts.reflect_question(pair.prompt))
        yield from (sampler.edit().instruction, match_question(drawing.prompt), sampler.description().text)
    for _ in range(_TIMES_FIXED):
        yield from fixed()


def fixed() -> Iterator[str]:
    """Every string that is the same for every prompt."""
    yield from (prompts.GENERATE_SYSTEM, prompts.REFLECT_SYSTEM, prompts.reflect_question(""))
    yield from (prompts.MALFORMED_INSTRUCTION, prompts.DESCRIBE_QUESTION, match_question(""))
    yield from (prompts.YES, prompts.NO)
