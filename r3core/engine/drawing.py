"""A picture that is being drawn. The candidates of a step are drawings with the same views and noise of their own."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from r3core.engine.packing import Cursor
from r3core.model import flow
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


@dataclass(frozen=True)
class Computed:
    """The velocities of a step's branches, each [n, d], as the transformer gave them at time t."""

    t: float
    branches: tuple[Tensor, ...]

    def at(self, t: float, before: Computed, count: int) -> tuple[Tensor, ...]:
        """The first `count` of them at a later time, each as it went on since `before`."""
        pairs = zip(before.branches[:count], self.branches[:count], strict=True)
        return tuple(flow.extrapolate(old, new, before.t, self.t, t) for old, new in pairs)


@dataclass
class Drawing:
    """Latent tokens x [n, d] at times[step], and what each branch sees. `counts` are the branches that are computed at
    each step, none where a step cache serves it; `step` is always one that is computed.
    """

    x: Tensor
    grid: tuple[int, int]
    places: Tensor  # [n, H], the latents' places on the grid in the decoder's space
    times: list[float]
    clock: Tensor  # [steps, H], the times there
    settings: ImageSampling
    edit: bool
    views: tuple[Cursor, ...]  # conditional, without text, without picture (an edit's only)
    counts: list[int]
    previews: frozenset[int]
    step: int = 0
    forwards: int = 0
    computed: Computed | None = None  # the last, where a step cache needs it
    decoding: list[Unshown] = field(default_factory=list)  # previews that are not shown yet, the oldest first

    @property
    def steps(self) -> int:
        """How many Euler steps there are."""
        return len(self.times) - 1

    def views_now(self) -> tuple[Cursor, ...]:
        """The branches of this step, only those that count."""
        return self.views[: self.counts[self.step]]

    def rows_now(self, markers: int) -> int:
        """Rows of this step in a forward, with so many markers around the latents of each branch."""
        return len(self.views_now()) * (self.x.shape[0] + markers)


@dataclass(frozen=True)
class Moved:
    """A drawing after more steps: x after `step` of them, the velocities that later steps go on from, and what it would
    come to after each step that is to be shown.
    """

    x: Tensor
    step: int
    forwards: int
    computed: Computed | None
    clean: tuple[tuple[int, Tensor], ...]


def moved(drawing: Drawing, own: tuple[Tensor, ...]) -> Moved:
    """The step that these branches were computed for, and those after it that a step cache serves. Nothing of the
    drawing changes.
    """
    settings, times, step, x = drawing.settings, drawing.times, drawing.step, drawing.x
    computed, velocities = Computed(times[step], own), own
    clean = []
    while True:
        v = flow.guide(settings, *velocities)
        if step + 1 in drawing.previews:
            clean.append((step + 1, flow.clean(x, v, times[step])))
        x = flow.euler(x, v, times[step], times[step + 1])
        step += 1
        if step == drawing.steps or drawing.counts[step]:
            break
        assert drawing.computed is not None  # the first two are computed
        count = branches(times[step], settings, edit=drawing.edit)
        velocities = computed.at(times[step], drawing.computed, count)
    is_kept = 0 in drawing.counts[step:]
    # A copy, for they are a part of what the whole forward gave.
    kept = Computed(computed.t, tuple(v.clone() for v in own)) if is_kept else None
    return Moved(x, step, len(own), kept, tuple(clean))


Own = tuple[str, Drawing]
"""A drawing and the key of its trajectory."""

Branches = tuple[Drawing, tuple[Tensor, ...]]
"""A drawing and the velocity of each of its branches, [n, d]."""
