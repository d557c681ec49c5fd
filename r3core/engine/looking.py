"""Scores of pictures, read from the likelihood of texts after them (r3core.judge says what each is).

A picture's rows are stored once; over them goes one text for each thing that is asked, and leaves no trace:

    gvu, lift   the question for a description, then the prompt as its answer
    vqa         the question whether the picture shows the prompt, then "yes", and again then "no"
    the prior   the first of these without any picture: once for a prompt
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from r3core.engine.batch import Begin, Picture
from r3core.engine.feeds import Feeder
from r3core.engine.packing import Cursor, Feed
from r3core.errors import StepFailed
from r3core.judge import Score, WordLift
from r3core.model.tokenizer import Tokenizer
from r3core.prompts import NO, YES, PromptStrings
from r3core.steps import Judge

_DIGITS: Final = 6
_MOST_WORDS: Final = 200


@dataclass(frozen=True)
class Asked:
    """A feed that leaves no trace, and the ids whose likelihood is read from it: those after its row `first`."""

    feed: Feed
    first: int
    ids: list[int]


@dataclass(frozen=True)
class Prompt:
    """A prompt as it is scored: its ids, the texts around it, and its words by token."""

    ids: list[int]
    question: list[int]
    yes_no: list[int]
    answers: tuple[list[int], list[int]]
    words: tuple[str, ...]
    owners: tuple[int, ...]

    @classmethod
    def of(cls, prompt: str, tokenizer: Tokenizer, strings: PromptStrings) -> Prompt:
        """The prompt in a checkpoint's tokens."""
        words, owners = _grouped(*tokenizer.words(prompt))
        return cls(
            ids=tokenizer.encode(prompt),
            question=[*tokenizer.segment(strings.describe_question), tokenizer.im_start],
            yes_no=[*tokenizer.segment(strings.yes_no_question(prompt)), tokenizer.im_start],
            answers=(tokenizer.encode(YES), tokenizer.encode(NO)),
            words=words,
            owners=owners,
        )

    def texts(self, scorers: Sequence[str]) -> list[int]:
        """Rows of each text that is fed of it for one picture."""
        described = [len(self.question) + len(self.ids) - 1] if _describes(scorers) else []
        return described + [len(self.yes_no) + len(ids) - 1 for ids in self.answers if "vqa" in scorers]

    def prior_rows(self, scorers: Sequence[str]) -> int:
        """Rows that are fed of it once."""
        return len(self.question) + len(self.ids) - 1 if _describes(scorers) else 0


@dataclass
class Looking:
    """A Judge step: pictures go through turns, as many at once as it was lent spans."""

    begin: Begin
    prompt: Prompt
    prior: list[float] | None
    done: list[tuple[Score, ...]] = field(default_factory=list)

    @property
    def scorers(self) -> tuple[str, ...]:
        """What is to be said of each picture."""
        assert isinstance(self.begin.step, Judge)
        return self.begin.step.scorers

    @property
    def is_done(self) -> bool:
        """Whether every picture was looked at."""
        return len(self.done) == len(self.begin.pictures)

    def turn(self, feeder: Feeder, look: Callable[[Picture], Tensor]) -> tuple[list[Feed], list[Asked]]:
        """What goes into the next forward: pictures, and what is asked after them."""
        eyes: list[Feed] = []
        asked: list[Asked] = []
        for span, picture in zip(self.begin.spans, self._next(), strict=False):
            eye = feeder.vit(Cursor(span.start), look(picture))
            eyes.append(eye)
            asked += self._asked(feeder, eye.at.after(eye))
        if _describes(self.scorers) and self.prior is None:
            asked.append(_ask(feeder, Cursor(self.begin.spans[0].start), self.prompt.question, self.prompt.ids))
        return eyes, asked

    def read(self, likelihoods: Sequence[list[float]]) -> None:
        """Take in the likelihoods of what the turn asked, in its order."""
        if not all(math.isfinite(one) for own in likelihoods for one in own):
            raise StepFailed("a score is not a finite number; the checkpoint's weights may be damaged")
        found = list(likelihoods)
        if _describes(self.scorers) and self.prior is None:
            self.prior = found.pop()
        texts = iter(found)
        count = min(len(self.begin.spans), len(self.begin.pictures) - len(self.done))
        self.done += [self._scores(texts) for _ in range(count)]

    def _next(self) -> tuple[Picture, ...]:
        return self.begin.pictures[len(self.done) :]

    def _asked(self, feeder: Feeder, at: Cursor) -> Iterator[Asked]:
        if _describes(self.scorers):
            yield _ask(feeder, at, self.prompt.question, self.prompt.ids)
        if "vqa" in self.scorers:
            for answer in self.prompt.answers:
                yield _ask(feeder, at, self.prompt.yes_no, answer)

    def _scores(self, texts: Iterator[list[float]]) -> tuple[Score, ...]:
        found: dict[str, Score] = {}
        if _describes(self.scorers):
            assert self.prior is not None
            found |= said_of(self.prompt, next(texts), self.prior)
        if "vqa" in self.scorers:
            yes, no = sum(next(texts)), sum(next(texts))
            found["vqa"] = Score("vqa", 1 / (1 + math.exp(min(no - yes, 700.0))))
        return tuple(found[scorer] for scorer in self.scorers)


def said_of(prompt: Prompt, likelihoods: Sequence[float], prior: Sequence[float]) -> dict[str, Score]:
    """gvu and lift from the log-likelihood of each token of the prompt, with the picture and without."""
    lifts = [with_it - without for with_it, without in zip(likelihoods, prior, strict=True)]
    by_word = [0.0] * len(prompt.words)
    for owner, lift in zip(prompt.owners, lifts, strict=True):
        if by_word:  # a prompt of white space has tokens and no words
            by_word[owner] += lift
    # A long prompt has many words, and they are stored and told with every picture.
    words = tuple(WordLift(text, round(lift, _DIGITS)) for text, lift in zip(prompt.words, by_word, strict=True))
    lift = sum(lifts) / len(lifts)
    gvu = math.exp(sum(likelihoods) / len(likelihoods))
    return {"gvu": Score("gvu", gvu, lift, words), "lift": Score("lift", lift, lift, words)}


def _grouped(words: tuple[str, ...], owners: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The words of a long prompt in groups of neighbours, so that no more stand with each picture than can be read."""
    size = -(-len(words) // _MOST_WORDS)
    if size <= 1:
        return words, owners
    groups = tuple(" ".join(words[at : at + size]) for at in range(0, len(words), size))
    return groups, tuple(owner // size for owner in owners)


def _ask(feeder: Feeder, at: Cursor, before: list[int], ids: list[int]) -> Asked:
    return Asked(feeder.text(at, [*before, *ids[:-1]], stored=False), len(before) - 1, ids)


def _describes(scorers: Sequence[str]) -> bool:
    return "gvu" in scorers or "lift" in scorers
