"""A decoded picture made upright, put on white and resized, a strip at a time.

A phone's picture takes 50 MB decoded; every step over the whole of it would take as much again, and of a 16-bit one ten
times that. The filter works along the rows first, strip by strip, and then along the columns of what they came to: the
same to the bit as PIL's before 13, and the reference's; newer ones choose the order, which moves the rounding. The two
are apart so that whoever calls can let the decoded picture go between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image as PILImage

from r3core.model.image_processing import Size, to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRIP_PIXELS: Final = 100_000
# By EXIF orientation: how the stored picture becomes upright, whether its columns become rows, and whether these count
# from its far end.
_TURNS: Final = {
    2: (PILImage.Transpose.FLIP_LEFT_RIGHT, False, False),
    3: (PILImage.Transpose.ROTATE_180, False, True),
    4: (PILImage.Transpose.FLIP_TOP_BOTTOM, False, True),
    5: (PILImage.Transpose.TRANSPOSE, True, False),
    6: (PILImage.Transpose.ROTATE_270, True, False),
    7: (PILImage.Transpose.TRANSVERSE, True, True),
    8: (PILImage.Transpose.ROTATE_90, True, True),
}
_AS_STORED: Final = (None, False, False)


@dataclass(frozen=True)
class Decoded:
    """A picture as it is stored: its size and EXIF orientation, and any (left, top, right, bottom) of it.

    What `crop` gives has no orientation of its own.
    """

    size: Size
    orientation: int
    crop: Callable[[tuple[int, int, int, int]], PILImage.Image]

    def upright(self, size: Size) -> Size:
        """A size as it is stored, once the picture is upright."""
        return size[::-1] if _TURNS.get(self.orientation, _AS_STORED)[1] else size


def along_rows(picture: Decoded, columns: int) -> NDArray[np.uint8]:
    """The picture upright, in RGB on white, its rows resized to so many columns: [height, columns, 3]."""
    turn, turned, flipped = _TURNS.get(picture.orientation, _AS_STORED)
    width, height = picture.upright(picture.size)
    narrow = np.empty((height, columns, 3), np.uint8)
    step = max(1, STRIP_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        low, high = (height - bottom, height - top) if flipped else (top, bottom)
        stored = to_rgb(picture.crop((low, 0, high, width) if turned else (0, low, width, high)))
        strip = stored if turn is None else stored.transpose(turn)
        narrow[top:bottom] = np.asarray(strip.resize((columns, bottom - top), PILImage.Resampling.BICUBIC))
    return narrow


def along_columns(narrow: NDArray[np.uint8], rows: int) -> PILImage.Image:
    """What `along_rows` gave, its columns resized to so many rows."""
    return PILImage.fromarray(narrow).resize((narrow.shape[1], rows), PILImage.Resampling.BICUBIC)
