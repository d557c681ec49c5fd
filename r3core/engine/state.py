"""What a runner holds of a trajectory between turns, and what the trajectory puts into a text forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from r3core.engine.batch import Text
from r3core.engine.drafting import Drafts, Phrases
from r3core.engine.drawing import Drawing
from r3core.engine.looking import Asked, Looking
from r3core.engine.packing import Cursor, Feed
from r3core.model.sampling import Uniforms
from r3core.model.tokenizer import TextStream
from r3core.types import TextSampling

if TYPE_CHECKING:
    from r3core.events import Pixels


@dataclass
class Writing:
    """A text that is being decoded. `prompt` is where its first token went in, so that it can be asked again."""

    cursor: Cursor
    sampling: TextSampling
    draws: Uniforms
    stream: TextStream
    prompt: Cursor
    drafts: Drafts
    tokens: int = 0
    ids: list[int] = field(default_factory=list)  # what was chosen, the end left out; the last is the one to feed next
    verdict: bool = False  # whether its own score is wanted
    ended: tuple[Text, Asked] | None = None  # the whole text, and what is still to be asked for its score


@dataclass
class State:
    """All that is held for one trajectory."""

    prefill: list[Feed] = field(default_factory=list)
    writing: Writing | None = None
    looking: Looking | None = None
    drawings: list[Drawing] = field(default_factory=list)
    decoded: list[Future[Pixels]] = field(default_factory=list)  # the pictures of drawings that are finished
    vit_rows: dict[str, Tensor] = field(default_factory=dict)  # by image id, [n, H]
    latents: dict[str, Future[Tensor]] = field(default_factory=dict)  # by image id, of those encoded ahead
    prior: list[float] | None = None  # the prompt's likelihoods without a picture
    phrases: Phrases | None = None  # of the texts that it has, once one is written

    @property
    def text(self) -> Writing:
        """The text that is being written, where one is."""
        assert self.writing is not None
        return self.writing

    @property
    def goes_on(self) -> bool:
        """Whether nothing but the next token of its text is wanted."""
        begun = self.looking is None and not self.prefill
        return begun and self.writing is not None and self.writing.ended is None


@dataclass(frozen=True)
class Turn:
    """What a trajectory puts into the text forward: `stored` rows, and what is read off rows that leave no trace.

    Of a text that is being written the next token comes from the last row of `stored`, and from the rows before it for
    as many tokens as were `drafted`, which are the last that it feeds.
    """

    stored: list[Feed]
    asked: list[Asked] = field(default_factory=list)
    drafted: Sequence[int] = ()

    @property
    def feeds(self) -> list[Feed]:
        """All that goes in, in its order."""
        return [*self.stored, *(one.feed for one in self.asked)]

    @property
    def rows(self) -> int:
        """Rows in the forward."""
        return sum(feed.rows for feed in self.feeds)


@dataclass(frozen=True)
class Places:
    """Packed rows of a turn: the last that it stores, if any, and for each thing asked the first that is read."""

    end: int
    asked: list[int]


def places_of(turns: Mapping[str, Turn], firsts: Sequence[int]) -> dict[str, Places]:
    """Where each turn's rows lie in a forward whose feeds begin at the rows `firsts`."""
    left = iter(firsts)
    places = {}
    for key, turn in turns.items():
        ends = [next(left) + feed.und.shape[0] - 1 for feed in turn.stored]
        places[key] = Places(ends[-1] if ends else -1, [next(left) + one.first for one in turn.asked])
    return places
