"""What the scheduler hands to a runner and what comes back: the one border between deciding and computing. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from r3core.errors import R3Error
from r3core.judge import Score
from r3core.steps import Step
from r3core.types import Image, Trajectory

if TYPE_CHECKING:
    from r3core.events import Pixels


@dataclass(frozen=True)
class Picture:
    """A finished picture with its pixels, uint8 [height, width, 3]."""

    image: Image
    pixels: Pixels


@dataclass(frozen=True)
class Span:
    """Rows [start, start + rows) of the K/V cache, lent to one context."""

    start: int
    rows: int


@dataclass(frozen=True)
class Need:
    """What a step takes: cache rows of each of its contexts, rows of its first (prefill) forward, and rows of each
    denoising forward (0 for a text step).
    """

    spans: tuple[int, ...]
    prefill_rows: int
    draw_rows: int = 0


@dataclass(frozen=True)
class Begin:
    """Start `step` of a trajectory; `pictures` are those that it looks at, in the order of `loop.looks_at`.

    With `keeps` it goes on from the contexts of the step before, which lie in the same spans.
    """

    key: str
    step: Step
    trajectory: Trajectory
    spans: tuple[Span, ...]
    pictures: tuple[Picture, ...] = ()
    keeps: bool = False

    @property
    def picture(self) -> Picture:
        """The one picture of a step that looks at one."""
        return self.pictures[0]


@dataclass(frozen=True)
class Batch:
    """One turn: steps that start now, then one packed forward over `text` and `draw`.

    `text` holds all that write or judge, and every step that begins to draw, for its context is computed in that
    forward.
    """

    begin: tuple[Begin, ...] = ()
    text: tuple[str, ...] = ()
    draw: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.begin or self.text or self.draw)


@dataclass(frozen=True)
class Piece:
    """One more token was decoded; `text` is what can be shown of it (empty inside a character)."""

    text: str


@dataclass(frozen=True)
class Text:
    """A text is complete: `rest` is what no piece has shown yet, `tokens` counts what was decoded, the end included.

    `verdict` is a reflection's own score, where it was asked for.
    """

    text: str
    rest: str
    tokens: int
    verdict: Score | None = None


@dataclass(frozen=True)
class Shown:
    """A preview: what the picture looked like after `step` steps."""

    step: int
    pixels: Pixels


@dataclass(frozen=True)
class Stepped:
    """`step` of `steps` Euler steps are done, and these previews have come since the last."""

    step: int
    steps: int
    shown: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """The candidates of a step are complete, in their order; `forwards` counts the guidance branches that were run
    for each of them.
    """

    pictures: tuple[Pixels, ...]
    steps: int
    forwards: int
    shown: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class Looked:
    """Pictures are scored: for each candidate of a Judge step the scores in the order of its scorers."""

    scores: tuple[tuple[Score, ...], ...]


@dataclass(frozen=True)
class Likened:
    """Two pictures are compared: how alike they are, by the name of each measure."""

    similarities: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Working:
    """One turn of a step that takes several is done, and there is nothing to show of it. With `is_drawn` it needs no
    forward any more: its pictures are being decoded.
    """

    is_drawn: bool = False


@dataclass(frozen=True)
class Raised:
    """This trajectory's step failed; the others of the batch are not affected."""

    error: R3Error


Output = Piece | Text | Stepped | Drawn | Looked | Likened | Working | Raised
Part = Literal["text", "denoise", "decode"]


@dataclass(frozen=True)
class Took:
    """What the texts or the pictures of one packed forward took, or the decoding of one picture. A forward over both
    is told of each with all its seconds.

    `size` tokens of texts were chosen from it (new contexts are computed in the same forward and are not counted), or
    that many pictures had a step computed; `branches` counts the guidance branches of a denoising forward.
    """

    part: Part
    seconds: float
    size: int
    branches: int = 0


@dataclass(frozen=True)
class MemoryPlan:
    """What the device will hold, in bytes, decided before the first request.

    Activations are those of a forward of `forward_rows` rows and of all that writes beside them, with `kept_rows` rows
    of pictures that wait to be looked at again. Several trajectories should have no more than `batch_rows` in one.
    """

    device: str
    weights_bytes: int
    kv_cache_bytes: int
    kv_cache_rows: int
    activation_bytes: int
    total_bytes: int | None
    notes: tuple[str, ...] = field(default=())
    batch_rows: int = field(kw_only=True)
    forward_rows: int = field(kw_only=True)
    kept_rows: int = field(kw_only=True)

    def __str__(self) -> str:
        parts = [
            f"weights {_gib(self.weights_bytes)}",
            f"K/V cache {_gib(self.kv_cache_bytes)} ({self.kv_cache_rows} rows)",
            f"activations up to {_gib(self.activation_bytes)}",
        ]
        of = f" of {_gib(self.total_bytes)}" if self.total_bytes else ""
        needed = self.weights_bytes + self.kv_cache_bytes + self.activation_bytes
        return f"{self.device}: {', '.join(parts)}; {_gib(needed)}{of}" + "".join(f"; {n}" for n in self.notes)


class Runner(Protocol):
    """Computes batches. `r3core.engine.runner.ModelRunner` does it with the model, `r3core.fake.FakeRunner` without."""

    @property
    def cache_rows(self) -> int:
        """Rows of the K/V cache that the scheduler may lend."""
        ...

    @property
    def max_batch_rows(self) -> int:
        """The most rows a packed forward should have; a single trajectory may exceed it alone."""
        ...

    def plan(self) -> MemoryPlan:
        """What the device holds."""
        ...

    def check(self, trajectory: Trajectory) -> None:
        """Raise InvalidRequest, PromptTooLong or OutOfCapacity where the trajectory could never be served."""
        ...

    def need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:
        """What `step` takes; `keeps` says that the contexts of the step before are still held."""
        ...

    def run(self, batch: Batch) -> dict[str, Output]:
        """Compute one turn. Raises DeviceError only: everything else comes back as Raised for its own key."""
        ...

    def free(self, key: str) -> None:
        """Drop all that is held for a trajectory."""
        ...

    def took(self) -> list[Took]:
        """What was computed since this was last asked, as far as it is known by now."""
        ...

    def memory_used_bytes(self) -> int | None:
        """Memory of the device that is taken, by whomever; None for a CPU, whose memory is everybody's."""
        ...


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
