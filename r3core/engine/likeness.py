"""How alike two pictures are: by what this model's own eye and hand make of them, by pixels, and by other models.

    self     cosine of the ViT's features, pooled over the picture, before the connector
    latent   cosine of the VAE's latents
    psnr     of the pixels, in dB; 100 for equal pictures
The first three are proxies: no published table has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from r3core.engine.feeds import Feeder

if TYPE_CHECKING:
    from r3core.events import Pixels
    from r3core.similarity import Similarity

EQUAL_DB: Final = 100.0


class Likeness:
    """Compares pictures; `models` add a value of their own each, under their names."""

    def __init__(self, feeder: Feeder, models: Sequence[Similarity] = ()) -> None:
        self._feeder, self._models = feeder, models

    def of(self, one: Pixels, other: Pixels) -> tuple[tuple[str, float], ...]:
        """Every measure of two pictures of one size, by name."""
        pair = one, other
        return (
            ("self", cosine(*(self._feeder.features(pixels).float().mean(0) for pixels in pair))),
            ("latent", cosine(*(self._feeder.latent(pixels).flatten() for pixels in pair))),
            ("psnr", psnr(one, other)),
            *((model.name, cosine(*(model.features(pixels) for pixels in pair))) for model in self._models),
        )


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine of the angle between two vectors."""
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal to noise of uint8 pictures in dB, no more than that of equal ones."""
    error = float(np.square(one.astype(np.float64) - other.astype(np.float64)).mean())
    return min(EQUAL_DB, 10 * float(np.log10(255.0**2 / error))) if error else EQUAL_DB
