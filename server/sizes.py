"""Which picture sizes a checkpoint can draw: those that its VAE transform leaves as they are and its position grid
holds.
"""

from __future__ import annotations

from functools import lru_cache

from r3core.checkpoint import Description
from r3core.model.image_processing import Size, Transform, resize_to


def is_legal(size: Size, description: Description) -> bool:
    """Whether a picture of that (width, height) can be drawn."""
    return size in _legal_sizes(description.transforms["vae"], description.latent_stride, description.latent_side)


def nearest_legal(size: Size, description: Description) -> Size:
    """The legal size nearest to the one that was asked for, or to its shape where it is too large; of equally near
    ones the larger.
    """
    legal = _legal_sizes(description.transforms["vae"], description.latent_stride, description.latent_side)
    scale = min(1.0, max(map(max, legal)) / max(1, *size))
    width, height = size[0] * scale, size[1] * scale
    return min(legal, key=lambda s: ((s[0] - width) ** 2 + (s[1] - height) ** 2, -s[0] * s[1], s))


def fits_grid(size: Size, description: Description) -> bool:
    """Whether the position grid holds a picture of that size, which need not be a fixed point of the transform."""
    return max(size) <= description.latent_stride * description.latent_side


def parse_size(text: str) -> Size:
    """The (width, height) of "WxH"."""
    width, _, height = text.partition("x")
    return int(width), int(height)


@lru_cache(maxsize=32)
def _legal_sizes(transform: Transform, stride: int, side: int) -> frozenset[Size]:
    edges = range(stride, stride * side + 1, stride)
    return frozenset((w, h) for w in edges for h in edges if resize_to((w, h), transform) == (w, h))
