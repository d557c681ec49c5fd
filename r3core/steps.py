"""The steps that loop and tasks are made of, and what may come of them: the border between deciding and computing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from r3core.judge import Score, Scorer
from r3core.types import Image

FIRST: Final[tuple[int, ...]] = (0,)


@dataclass(frozen=True)
class Reason:
    """Write the plan of the first picture."""


@dataclass(frozen=True)
class Generate:
    """Draw these candidates of the first picture."""

    candidates: tuple[int, ...] = FIRST


@dataclass(frozen=True)
class Reflect:
    """Say of a picture of `round` how to edit it; `attempt` counts the times it was asked before."""

    round: int
    attempt: int = 0
    candidate: int = 0


@dataclass(frozen=True)
class Refine:
    """Make these candidates of the picture of `round` from the picture of round `base` by `instruction`."""

    round: int
    instruction: str
    base: int
    candidates: tuple[int, ...] = FIRST


@dataclass(frozen=True)
class Judge:
    """Score these candidates of the picture of `round` against the prompt."""

    round: int
    candidates: tuple[int, ...]
    scorers: tuple[Scorer, ...]


@dataclass(frozen=True)
class Describe:
    """Say what the picture of round 0 shows, or answer the request's question about it."""


@dataclass(frozen=True)
class Reconstruct:
    """Draw the picture of round 1 from the description alone."""


@dataclass(frozen=True)
class Compare:
    """Say how alike the pictures of rounds 0 and 1 are."""


Step = Reason | Generate | Reflect | Refine | Judge | Describe | Reconstruct | Compare


def draws(step: Step) -> tuple[int, ...]:
    """The candidates that a step draws; none of one that draws nothing."""
    match step:
        case Generate(candidates) | Refine(candidates=candidates):
            return candidates
        case Reconstruct():
            return FIRST
        case _:
            return ()


@dataclass(frozen=True)
class Wrote:
    """The outcome of Reason, Reflect and Describe; a reflection may bring its own score."""

    text: str
    verdict: Score | None = None


@dataclass(frozen=True)
class Drew:
    """One finished picture of Generate, Refine or Reconstruct: the next of the candidates that were asked for.

    `forwards` counts the guidance-branch passes that it took.
    """

    image: Image
    forwards: int = 0


@dataclass(frozen=True)
class Judged:
    """The outcome of Judge: for each of its candidates, the scores in the order of its scorers."""

    scores: tuple[tuple[Score, ...], ...]


@dataclass(frozen=True)
class Compared:
    """The outcome of Compare."""

    similarities: tuple[tuple[str, float], ...]


Outcome = Wrote | Drew | Judged | Compared
