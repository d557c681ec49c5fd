"""A reflection's own score: how likely it was to be satisfied where its answer begins, right after its thought."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from r3core.engine.feeds import Feeder
from r3core.engine.looking import Asked
from r3core.engine.packing import Cursor
from r3core.errors import StepFailed
from r3core.judge import Score
from r3core.model.tokenizer import Tokenizer
from r3core.prompts import SATISFIED_ANSWER, THINK_CLOSE


def asked_after(ids: Sequence[int], start: Cursor, tokenizer: Tokenizer, feeder: Feeder) -> Asked | None:
    """What to ask of a reflection whose `ids` were fed from `start` on; None where its thought has no end."""
    found = _thought(ids, tokenizer)
    if found is None:
        return None
    before, lead = found
    at = start.past(before)
    answer = tokenizer.encode(SATISFIED_ANSWER)
    return Asked(feeder.text(at, [*lead, *answer[:-1]], stored=False), len(lead) - 1, answer)


def verdict_of(likelihoods: Sequence[float]) -> Score:
    """The mean log-likelihood of the answer's tokens."""
    value = sum(likelihoods) / len(likelihoods)
    if not math.isfinite(value):
        raise StepFailed("the verdict is not a finite number; the checkpoint's weights may be damaged")
    return Score("verdict", value)


def _thought(ids: Sequence[int], tokenizer: Tokenizer) -> tuple[int, list[int]] | None:
    """How many ids stand whole before the end of the last thought, and what leads from there to it.

    That is the id which ends with it; where one ends beyond, it is not taken, and its bytes up to there are.
    """
    text, ends = b"", []
    for id_ in ids:
        if id_ in (tokenizer.im_start, tokenizer.im_end):
            break  # nothing after it is of the text
        text += tokenizer.bytes_of(id_)
        ends.append(len(text))
    mark = THINK_CLOSE.encode()
    if mark not in text:
        return None
    end = text.rindex(mark) + len(mark)
    before = bisect.bisect_left(ends, end)
    if ends[before] == end:
        return before, [ids[before]]
    rest = text[ends[before - 1] if before else 0 : end]
    return before, tokenizer.encode(rest.decode(errors="replace"))
