"""From a picture that was judged to its pixels, in no more memory than they need.

What each format costs, in bytes a pixel: a PNG 3. A JPEG 4, and where it is progressive 2 more for each sample, for
its decoder holds all of them to the end; what would be too much is decoded at half or a quarter of its size, which its
cosines give. A WebP 12, for its decoder holds two pictures and gives a third.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import ExifTags
from PIL import Image as PILImage
from PIL.WebPImagePlugin import WebPImageFile

from r3core.model.strips import Decoded
from server.picture_headers import Header, JpegParts
from server.png_pixels import png_exif, png_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

HELD_BYTES: Final = 52_500_000
_SCALES: Final = (1, 2, 4)


def decode(data: bytes, header: Header) -> Decoded:
    """The picture as it is stored, or smaller. Raises OSError and others of its kind for data that does not decode."""
    if header.jpeg is not None:
        return _jpeg(data, header, header.jpeg)
    if header.format == "WEBP":
        return _webp(data)
    exif = PILImage.Exif()
    exif.load(png_exif(data))
    return _of_pixels(png_pixels(data), _orientation(exif))


def _jpeg(data: bytes, header: Header, parts: JpegParts) -> Decoded:
    file = io.BufferedReader(_Joined(parts.front, memoryview(data)[parts.scans]))
    image = PILImage.open(file, formats=["JPEG"])
    if image.size != (header.width, header.height):
        raise OSError("two sizes")
    scale = next((scale for scale in _SCALES if _jpeg_bytes(header, parts, scale) <= HELD_BYTES), _SCALES[-1])
    image.draft(None, (header.width // scale, header.height // scale))
    orientation = _orientation(image.getexif())
    image.load()
    image.info.clear()  # or each strip would be turned once more
    return Decoded(image.size, orientation, image.crop)


def _jpeg_bytes(header: Header, parts: JpegParts, scale: int) -> int:
    each = 1 if parts.colours == 1 else 4
    return 2 * parts.held_samples + each * header.width * header.height // scale**2


def _webp(data: bytes) -> Decoded:
    image = WebPImageFile(io.BytesIO(data))
    pixels, _, _ = image._get_next()  # noqa: SLF001  what load() copies once more, beside all that the decoder holds
    width, height = image.size
    rows = np.frombuffer(pixels, np.uint8).reshape(height, width, 4)
    return _of_pixels(rows if image.mode == "RGBA" else rows[..., :3], _orientation(image.getexif()))


def _of_pixels(pixels: NDArray[np.uint8], orientation: int) -> Decoded:
    """Of uint8 [height, width, 3 or 4]."""
    height, width, _ = pixels.shape

    def crop(box: tuple[int, int, int, int]) -> PILImage.Image:
        left, top, right, bottom = box
        return PILImage.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))

    return Decoded((width, height), orientation, crop)


def _orientation(exif: PILImage.Exif) -> int:
    value = exif.get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) else 1


class _Joined(io.RawIOBase):
    """Two pieces read as one file, without a copy of either."""

    def __init__(self, front: bytes, rest: memoryview) -> None:
        self._front, self._rest, self._at = memoryview(front), rest, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        ends = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._front) + len(self._rest)}
        self._at = ends[whence] + offset
        return self._at

    def readinto(self, into: Any) -> int:
        behind = self._at - len(self._front)
        piece = self._front[self._at :] if behind < 0 else self._rest[behind:]
        taken = min(len(into), len(piece))
        into[:taken] = piece[:taken]
        self._at += taken
        return taken
