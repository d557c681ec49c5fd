"""What is run for a replay, and what is seen of it.

A job is a trajectory and the noise of its pictures; a trace is what was seen: texts with the logits of every choice,
latents and branch velocities of every step, passes through the decoder, and the engine's own events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from r3core.engine.batch import Picture
from r3core.errors import R3Error, StepFailed
from r3core.events import Event, ImageReady
from r3core.types import TextSampling, Trajectory

E = TypeVar("E", bound=Event)
K = TypeVar("K")
V = TypeVar("V")


def greedy(max_tokens: int) -> TextSampling:
    """Every recorded text is greedy."""
    return TextSampling(max_tokens=max_tokens, temperature=0.0, top_p=1.0, top_k=0)


@dataclass(frozen=True)
class Job:
    """A trajectory to run. `noise` is that of each round's picture; the job ends at the first event of type `until`.

    `keep` asks for hidden rows, and for the K/V of the first picture's context.
    """

    key: str
    trajectory: Trajectory
    picture: Picture | None = None
    noise: Mapping[int, Tensor] = field(default_factory=dict)
    until: type[Event] | None = None
    keep: bool = False


@dataclass
class Written:
    """A greedy text: the ids with both markers, and the logits [V] that each id after the first was chosen from."""

    ids: list[int]
    logits: list[Tensor] = field(default_factory=list)

    @property
    def margin(self) -> float:
        """By how much the best choice was ahead of the next one, where it was ahead least."""
        best = torch.stack(self.logits).topk(2).values
        return float((best[:, 0] - best[:, 1]).min())


@dataclass
class Drawn:
    """A picture: x [steps + 1, n, d], the guided velocity of each step, and each step's branch velocities."""

    x: list[Tensor]
    grid: tuple[int, int]
    velocities: list[Tensor] = field(default_factory=list)
    branches: list[tuple[Tensor, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Pass:
    """One segment in a forward, in sequence order.

    `given` and `out` are its rows [n, H] before the first layer and after the last, kept for stored segments of a job
    that asked for them.
    """

    past: int
    causal: bool
    stored: bool
    positions: list[int]
    drawn: list[bool]  # which rows are the drawing expert's
    given: Tensor | None = None
    out: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        """The rows after the last layer, or a fault that says why there are none."""
        if self.out is None:
            raise StepFailed("no hidden rows were kept of this pass")
        return self.out


@dataclass
class Seen:
    """What the ViT was given and what it gave for one picture."""

    patches: Tensor
    ids: Tensor
    features: Tensor


@dataclass(frozen=True)
class Likelihoods:
    """What was asked of a picture or without one: ids, and the log-probability of each."""

    ids: list[int]
    likelihoods: list[float]


@dataclass
class Trace:
    """What was seen of one job."""

    job: Job
    events: list[Event] = field(default_factory=list)
    texts: dict[str, Written] = field(default_factory=dict)  # "reason", "reflect 0", "reflect 1", ...
    drawn: dict[int, Drawn] = field(default_factory=dict)  # by round
    passes: list[Pass] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    context: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # K and V of each layer
    scored: list[Likelihoods] = field(default_factory=list)
    error: R3Error | None = None

    def asked(self) -> list[Likelihoods]:
        """All that was asked of pictures, in order. Raises what the job failed with."""
        self._raise()
        return self.scored

    def text(self, stage: str) -> Written:
        """The text of a stage. Raises what the job failed with, or StepFailed where it never came to that."""
        return self._of(self.texts, stage, f"text of {stage}")

    def picture(self, round_: int) -> Drawn:
        """How the picture of a round came about. Raises as `text` does."""
        return self._of(self.drawn, round_, f"picture of round {round_}")

    def event(self, kind: type[E], index: int = 0) -> E:
        """The engine's index-th event of a kind. Raises as `text` does."""
        found = dict(enumerate(e for e in self.events if isinstance(e, kind)))
        return self._of(found, index, f"{kind.__name__} {index}")

    def pixels(self, round_: int) -> Tensor:
        """The finished picture of a round, uint8 [H, W, 3]. Raises as `text` does."""
        found = {e.round: e for e in self.events if isinstance(e, ImageReady)}
        return torch.from_numpy(self._of(found, round_, f"picture of round {round_}").pixels)

    def prefill(self) -> list[Pass]:
        """The passes that stored whole segments, in their order."""
        self._raise()
        return [p for p in self.passes if p.stored and p.out is not None]

    def _of(self, found: Mapping[K, V], key: K, what: str) -> V:
        self._raise()
        if key not in found:
            raise StepFailed(f"{self.job.key}: there was no {what}")
        return found[key]

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error
