"""What the engine says while it works: every trajectory ends in exactly one terminal event, whatever fails.

Pictures travel as uint8 arrays [height, width, 3], RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from r3core.errors import R3Error
from r3core.judge import Score
from r3core.types import Image, Reflection, Trajectory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class TextDelta:
    """A piece of the text that is being written; the pieces, joined, are the whole text."""

    stage: Literal["reason", "reflect", "describe"]
    round: int
    text: str
    candidate: int = 0


@dataclass(frozen=True)
class Reasoned:
    """The whole plan of the first picture."""

    text: str


@dataclass(frozen=True)
class Progress:
    """`step` of `steps` denoising steps of the picture of `round` are done."""

    round: int
    step: int
    steps: int


@dataclass(frozen=True)
class Preview:
    """What the picture of `round` would be if denoising ended here."""

    round: int
    step: int
    steps: int
    pixels: Pixels


@dataclass(frozen=True)
class ImageReady:
    """A picture of `round` is finished; `trajectory` is the value to store."""

    round: int
    image: Image
    instruction: str | None
    pixels: Pixels
    trajectory: Trajectory
    candidate: int = 0


@dataclass(frozen=True)
class Reflected:
    """What was said of a picture of `round`."""

    round: int
    reflection: Reflection
    candidate: int = 0


@dataclass(frozen=True)
class Described:
    """The whole description of the picture of round 0."""

    text: str


@dataclass(frozen=True)
class Scored:
    """What one scorer says of a picture of `round`."""

    round: int
    candidate: int
    score: Score


@dataclass(frozen=True)
class Chose:
    """Which of the candidates of `round` goes on, and what the first scorer gave it."""

    round: int
    candidate: int
    value: float | None


@dataclass(frozen=True)
class Finished:
    """The trajectory is at its end; its stop reason says why."""

    trajectory: Trajectory


@dataclass(frozen=True)
class Failed:
    """The trajectory cannot go on; `trajectory` holds what was finished."""

    error: R3Error
    trajectory: Trajectory


@dataclass(frozen=True)
class Cancelled:
    """The trajectory was aborted by its owner; `trajectory` holds what was finished."""

    trajectory: Trajectory


Event = (
    TextDelta
    | Reasoned
    | Progress
    | Preview
    | ImageReady
    | Reflected
    | Described
    | Scored
    | Chose
    | Finished
    | Failed
    | Cancelled
)
TERMINAL: Final = (Finished, Failed, Cancelled)
