"""A decoded picture made upright, put on white and resized, a strip at a time.

A phone's picture takes 50 MB decoded; every step over the whole of it would take as much again, and of a 16-bit one ten
times that. The filter works along the rows first, strip by strip, and then along the columns of what they came to: the
same to the bit as PIL's before 13, and the reference's; newer ones choose the order, which moves the rounding.
"""

from __future__ import annotations

from typing import Final

from PIL import Image as PILImage

from r3core.model.image_processing import Transform, resize_to, resized, to_rgb

STRIP_PIXELS: Final = 500_000
_ORIENTATION: Final = 0x0112
# By EXIF orientation: whether rows of the upright picture are columns of the stored one, and whether they count from
# its far end.
_TURNS: Final = {
    3: (False, True),
    4: (False, True),
    5: (True, False),
    6: (True, False),
    7: (True, True),
    8: (True, True),
}


def upright_resized(image: PILImage.Image, transform: Transform) -> PILImage.Image:
    """What `resized(to_rgb(image), transform)` gives, up to rounding. Raises OSError for data that does not decode."""
    image.load()
    turned, flipped = _TURNS.get(image.getexif().get(_ORIENTATION, 1), (False, False))
    width, height = image.size[::-1] if turned else image.size
    if width * height <= STRIP_PIXELS or image.mode in ("I", "F"):  # these are scaled by their brightest pixel
        return resized(to_rgb(image), transform)
    columns, rows = resize_to((width, height), transform)
    narrow = PILImage.new("RGB", (columns, height))
    step = max(1, STRIP_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        low, high = (height - bottom, height - top) if flipped else (top, bottom)
        box = (low, 0, high, image.size[1]) if turned else (0, low, image.size[0], high)
        strip = to_rgb(image.crop(box))  # which turns it, for its EXIF is the whole picture's
        narrow.paste(strip.resize((columns, bottom - top), PILImage.Resampling.BICUBIC), (0, top))
    return narrow.resize((columns, rows), PILImage.Resampling.BICUBIC)
