"""Prompt lookup: what a text will probably say next, from what was said before.

A text forward that feeds several tokens costs little more than one that feeds a single token, and reflections repeat
the prompt, each other and the model's own turns of phrase. So the tokens that followed the same few tokens last time
are fed along; each is then chosen as it always is, from the logits after the ones before, and what was drafted counts
only up to the first that was chosen otherwise. The text is the same, whatever is drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from r3core.types import Trajectory

_LONGEST: Final = 4  # tokens of a draft, and of what is looked up
MOST_ROWS: Final = 32  # of a forward over all texts: beyond that drafts cost what they save
_TRIED: Final = 48  # drafted tokens after which a text that takes too few of them goes on without
_TAKEN: Final = 0.15


class Phrases:
    """Which token came after the last one to four, the latest time; `before` is asked where this knows nothing."""

    def __init__(self, before: Phrases | None = None) -> None:
        self.next: dict[tuple[int, ...], int] = {}
        self._before = {} if before is None else before.next

    def learn(self, ids: Sequence[int]) -> None:
        """Take in a text."""
        for end in range(1, len(ids)):
            self.follow(ids[:end] if end < _LONGEST else ids[end - _LONGEST : end], ids[end])

    def follow(self, before: Sequence[int], id_: int) -> None:
        """Take in one more token of a text, after its last ones."""
        last = tuple(before[-_LONGEST:])
        for first in range(len(last)):
            self.next[last[first:]] = id_

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to so many tokens that may follow `ids`."""
        last = tuple(ids[-_LONGEST:])
        found: list[int] = []
        while len(found) < most and (id_ := self._after(last)) is not None:
            found.append(id_)
            last = (*last, id_)[-_LONGEST:]
        return found

    def _after(self, last: tuple[int, ...]) -> int | None:
        for first in range(len(last)):
            key = last[first:]
            found = self.next.get(key, self._before.get(key))
            if found is not None:
                return found
        return None


class Drafts:
    """The drafts of one text, and how many of their tokens it took."""

    def __init__(self, phrases: Phrases) -> None:
        self.phrases = phrases
        self.drafted = 0
        self.taken = 0

    def next(self, ids: Sequence[int], texts: int, left: int) -> list[int]:
        """What to feed after the last of `ids`, of which `left` more may follow, beside the forward's other texts."""
        if self.drafted > _TRIED and self.taken < _TAKEN * self.drafted:
            return []
        return self.phrases.draft(ids, min(_LONGEST, MOST_ROWS // texts - 1, left))


def texts_of(trajectory: Trajectory) -> list[str]:
    """What the model has written of a trajectory, the oldest first."""
    pictures = chain.from_iterable(round_.pictures for round_ in trajectory.rounds)
    said = [reflection.text for picture in pictures for reflection in picture.reflections]
    return [text for text in (trajectory.reasoning, *said) if text]
