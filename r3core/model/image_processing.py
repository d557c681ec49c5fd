"""From a picture to the numbers the model sees: the size rule, RGB on white, and pixels in [-1, 1]. No torch.

A transform is (max, min, stride): the long edge is shrunk to `max`, the short edge enlarged to `min`, both rounded to
multiples of `stride` (r3-model: section 3; the reference's data/transforms.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

Transform = tuple[int, int, int]
Size = tuple[int, int]

MAX_PIXELS: Final = 14 * 14 * 9 * 1024


def resize_to(size: Size, transform: Transform) -> Size:
    """The (width, height) that the transform gives a picture of (width, height) `size`.

    Rounding is to even at halves, twice, as in the reference; a tiny `min` wins over `max` until the last rule, which
    lets `max` win over `min` for extreme shapes.
    """
    longest, shortest, _ = transform
    scale = min(longest / max(size), 1.0)
    scale = max(scale, shortest / min(size))
    width, height = _scaled(size, scale, transform)
    if width * height > MAX_PIXELS:
        # The reference takes the ratio of areas as a factor of lengths; a checkpoint was trained on the result.
        width, height = _scaled((width, height), MAX_PIXELS / (width * height), transform)
    if max(width, height) > longest:
        width, height = _scaled((width, height), longest / max(width, height), transform)
    return width, height


def to_rgb(image: PILImage.Image) -> PILImage.Image:
    """The picture upright, in RGB, with transparency on white. Raises OSError for data that does not decode."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        upright = _eight_bit(upright)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = PILImage.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return upright.convert("RGB")


def resized(image: PILImage.Image, transform: Transform) -> PILImage.Image:
    """The picture at the transform's size, by PIL's antialiased bicubic filter; unchanged where the size is right.

    Along its rows first, as PIL before 13 always does and the reference therefore did. Newer ones choose the order by
    the size, and each pass rounds and clips.
    """
    columns, rows = resize_to(image.size, transform)
    if (columns, rows) == image.size:
        return image
    along_rows = image.resize((columns, image.height), PILImage.Resampling.BICUBIC)
    return along_rows.resize((columns, rows), PILImage.Resampling.BICUBIC)


def to_unit_range(image: PILImage.Image) -> NDArray[np.float32]:
    """An RGB picture as float32 [3, height, width] in [-1, 1]."""
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255.0)
    return np.ascontiguousarray(((pixels - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1))


def preprocess(pixels: NDArray[np.uint8], transform: Transform) -> NDArray[np.float32]:
    """uint8 [height, width, 3] through a transform to float32 [3, h, w] in [-1, 1]."""
    return to_unit_range(resized(PILImage.fromarray(pixels), transform))


def _scaled(size: Size, scale: float, transform: Transform) -> Size:
    stride = transform[2]
    width, height = (max(stride, round(round(v * scale) / stride) * stride) for v in size)
    return width, height


def _eight_bit(image: PILImage.Image) -> PILImage.Image:
    """16- and 32-bit greys scaled to 8 bits (PIL's own conversion would clip them), what is transparent white."""
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
    clear = image.info.get("transparency")
    scaled = np.where(values == clear, 1.0, values / top) if isinstance(clear, int) else values / top
    return PILImage.fromarray((np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8))
