"""Writes texts: what each feeds next, and what becomes of the tokens that are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from torch import Tensor

from r3core.engine.batch import Output, Piece, Text, Working
from r3core.engine.feeds import Feeder
from r3core.engine.state import Turn, Writing
from r3core.engine.verdict import asked_after, verdict_of
from r3core.errors import StepFailed
from r3core.judge import Score
from r3core.model.sampling import NOT_A_NUMBER, Choice, choose
from r3core.model.tokenizer import Tokenizer


class Writer:
    """Takes the texts of a runner from token to token."""

    def __init__(self, tokenizer: Tokenizer, feeder: Feeder) -> None:
        self._tokenizer, self._feeder = tokenizer, feeder

    def turns(self, writings: Mapping[str, Writing], texts: int) -> dict[str, Turn]:
        """What these put into the next forward, which so many texts share: the last token of each, and drafts."""
        if not writings:
            return {}
        drafted = [
            # Its last choice is its end whatever the logits say, so what leads there is all that may be fed.
            writing.drafts.next(writing.ids, texts, writing.sampling.max_tokens - writing.tokens - 2)
            for writing in writings.values()
        ]
        each = zip(writings.values(), drafted, strict=True)
        feeds = self._feeder.texts([(writing.cursor, [writing.ids[-1], *own]) for writing, own in each])
        turns = zip(writings, feeds, drafted, strict=True)
        return {key: Turn([feed], drafted=own) for key, feed, own in turns}

    def choose(self, texts: Sequence[tuple[Writing, Sequence[int]]], logits: Tensor) -> list[list[int]]:
        """Of each text and what was drafted of it, the tokens chosen after its last one and after each draft, by logits
        [n, V] of all. Nothing is remembered: what comes after a draft counts only where that is chosen.
        """
        choices = [
            Choice(writing.sampling, uniform)
            for writing, drafted in texts
            for uniform in writing.draws.next(1 + len(drafted))
        ]
        chosen = iter(choose(logits, choices))
        return [list(islice(chosen, 1 + len(drafted))) for _, drafted in texts]

    def wrote(self, writing: Writing, drafted: Sequence[int], chosen: Sequence[int]) -> Output:
        """One more token, and one more for each that was drafted and is chosen; each takes one random number."""
        writing.drafts.drafted += len(drafted)
        pieces: list[str] = []
        for likely, draft in zip(chosen, (*drafted, None), strict=True):
            writing.tokens += 1
            writing.draws.take()
            # Forced at the last permitted choice, as in the reference.
            id_ = self._tokenizer.im_end if writing.tokens >= writing.sampling.max_tokens else likely
            if id_ == NOT_A_NUMBER:
                raise StepFailed("the model gave no numbers to choose the next token by")
            if id_ == self._tokenizer.im_end:
                return self._ended(writing, pieces)
            writing.drafts.phrases.follow(writing.ids, id_)
            writing.ids.append(id_)
            pieces.append(writing.stream.push(id_))
            if id_ != draft:
                break
            # What was drafted is fed already, and stands.
            writing.cursor = writing.cursor.past(1)
            writing.drafts.taken += 1
        return Piece("".join(pieces))

    def _ended(self, writing: Writing, pieces: list[str]) -> Output:
        rest = "".join((*pieces, writing.stream.finish()))
        text = Text(writing.stream.whole, rest, writing.tokens)
        if not writing.verdict:
            return text
        asked = asked_after(writing.ids, writing.prompt.past(1), self._tokenizer, self._feeder)
        if asked is None:
            return replace(text, verdict=Score("verdict", None))
        writing.ended = text, asked
        return Working()


def judged(writing: Writing, likelihoods: Sequence[float]) -> Text:
    """A text that ended, with its own score by what was asked then."""
    assert writing.ended is not None
    return replace(writing.ended[0], verdict=verdict_of(likelihoods))
