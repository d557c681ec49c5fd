"""A picture that is being drawn. The candidates of a step are drawings with the same views and noise of their own."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from r3core.engine.packing import Cursor
from r3core.schedule import branches
from r3core.types import ImageSampling

if TYPE_CHECKING:
    from r3core.events import Pixels


@dataclass(frozen=True)
class Unshown:
    """A preview: what a drawing would have come to after `step` steps, `clean` [n, d], and its pixels once they are
    there.
    """

    step: int
    clean: Tensor
    pixels: Future[Pixels]


@dataclass
class Drawing:
    """Latent tokens x [n, d] at times[step], and what each branch sees."""

    x: Tensor
    grid: tuple[int, int]
    places: Tensor  # [n, H], the latents' places on the grid in the decoder's space
    times: list[float]
    clock: Tensor  # [steps, H], the times there
    settings: ImageSampling
    edit: bool
    views: tuple[Cursor, ...]  # conditional, without text, without picture (an edit's only)
    previews: frozenset[int]
    step: int = 0
    forwards: int = 0
    decoding: list[Unshown] = field(default_factory=list)  # previews that are not shown yet, the oldest first

    @property
    def steps(self) -> int:
        """How many Euler steps there are."""
        return len(self.times) - 1

    def views_now(self) -> tuple[Cursor, ...]:
        """The branches of this step, only those that count."""
        return self.views[: branches(self.times[self.step], self.settings, edit=self.edit)]

    def rows_now(self, markers: int) -> int:
        """Rows of this step in a forward, with so many markers around the latents of each branch."""
        return len(self.views_now()) * (self.x.shape[0] + markers)


@dataclass(frozen=True)
class Moved:
    """A drawing after one more step: x, and what it would come to, where that is to be shown."""

    x: Tensor
    forwards: int
    clean: Tensor | None = None


Own = tuple[str, Drawing]
"""A drawing and the key of its trajectory."""

Branches = tuple[Drawing, tuple[Tensor, ...]]
"""A drawing and the velocity of each of its branches, [n, d]."""
