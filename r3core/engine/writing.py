"""Writes texts: what each feeds next, and what becomes of the tokens that are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from r3core.engine.batch import Output, Piece, Text, Working
from r3core.engine.feeds import Feeder
from r3core.engine.state import Turn, Writing
from r3core.engine.verdict import asked_after, verdict_of
from r3core.judge import Score
from r3core.model.sampling import sample
from r3core.model.tokenizer import Tokenizer


class Writer:
    """Takes the texts of a runner from token to token."""

    def __init__(self, tokenizer: Tokenizer, feeder: Feeder) -> None:
        self._tokenizer, self._feeder = tokenizer, feeder

    def turn(self, writing: Writing, texts: int) -> Turn:
        """What goes into the next forward, beside so many texts: the last token and drafts, or what is asked at the
        end.
        """
        if writing.ended is not None:
            return Turn([], [writing.ended[1]])
        # Its last choice is its end whatever the logits say, so what leads there is all that may be fed.
        drafted = writing.drafts.next(writing.ids, texts, writing.sampling.max_tokens - writing.tokens - 2)
        return Turn([self._feeder.text(writing.cursor, [writing.ids[-1], *drafted])], drafted=drafted)

    def choose(self, writing: Writing, logits: Tensor) -> int:
        """The next token, by logits [V]; takes one random number where there is chance in it."""
        if writing.tokens + 1 >= writing.sampling.max_tokens:
            return self._tokenizer.im_end  # forced at the last permitted choice, as in the reference
        uniform = float(writing.draws.random()) if writing.sampling.temperature else 0.0
        return sample(logits, writing.sampling, uniform)

    def wrote(self, writing: Writing, drafted: Sequence[int], chosen: Iterable[int]) -> Output:
        """One more token, and one more for each that was drafted and is chosen; no more of `chosen` are asked for."""
        writing.drafts.drafted += len(drafted)
        pieces: list[str] = []
        for id_, draft in zip(chosen, (*drafted, None), strict=True):
            writing.tokens += 1
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
