"""A PNG's pixels in RGB on white, three bytes each and little beside them: PIL's own way takes four for each, and four
more for each step after that.

The rows are inflated a strip at a time. A filter adds to a byte what stands in the same place of the pixels to the left
and above: so the first bytes of all pixels are a grey picture, and the second ones another, and PIL undoes the filters
of those. The rows without filters are a PNG of that strip alone, and PIL says which colours it holds.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image as PILImage

from r3core.model.image_processing import to_rgb
from server.picture_headers import PNG_MAGIC, png_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIP_PIXELS: Final = 100_000
_INFLATED_AT_ONCE: Final = 65_536  # what is left of a piece is copied at each call
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS: Final = (1, 2, 4, 8, 16)
_WHOLE: Final = ((0, 0, 1, 1),)
# Adam7, by which an interlaced picture comes: left, top, and the steps to the right and down.
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_pixels(data: bytes) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] of a PNG that `read_header` has judged. Raises OSError, and what PIL and zlib do."""
    colours = _Colours.read(data)
    inflated = _Inflated(content for kind, content in png_chunks(data) if kind == b"IDAT")
    pixels = np.empty((colours.height, colours.width, 3), np.uint8)
    for left, top, right, down in _PASSES if colours.is_interlaced else _WHOLE:
        part = pixels[top::down, left::right]
        if part.size:
            _fill(part, inflated, colours)
    return pixels


def png_exif(data: bytes) -> bytes:
    """The content of its eXIf chunk, empty where there is none."""
    return next((bytes(content) for kind, content in png_chunks(data) if kind == b"eXIf"), b"")


@dataclass(frozen=True)
class _Colours:
    """What says how bits are colours: the header, and the chunks of palette and transparency as they are.

    `clear` is the one colour of a 16-bit picture that is transparent, as its pixels are stored; of such a colour PIL
    would look at eight bits.
    """

    header: bytes
    chunks: bytes
    clear: bytes

    @staticmethod
    def read(data: bytes) -> _Colours:
        found: dict[bytes, memoryview] = {}
        for kind, content in png_chunks(data):
            found.setdefault(kind, content)
        header = bytes(found[b"IHDR"])
        clear = bytes(found.pop(b"tRNS", b"")) if header[8] == 16 and header[9] in (0, 2) else b""
        chunks = b"".join(_chunk(kind, found[kind]) for kind in (b"PLTE", b"tRNS") if kind in found)
        colours = _Colours(header, chunks, clear if len(clear) == 2 * _CHANNELS.get(header[9], 0) else b"")
        if colours.header[8] not in _DEPTHS or colours.header[9] not in _CHANNELS:
            raise OSError("no such colours")
        return colours

    @property
    def width(self) -> int:
        return int.from_bytes(self.header[:4])

    @property
    def height(self) -> int:
        return int.from_bytes(self.header[4:8])

    @property
    def bits(self) -> int:
        """Of a pixel."""
        return self.header[8] * _CHANNELS[self.header[9]]

    @property
    def is_interlaced(self) -> bool:
        return self.header[12] != 0

    def picture(self, raw: NDArray[np.uint8], width: int) -> PILImage.Image:
        """Rows without filters, [rows, bytes of a row], as a picture."""
        header = struct.pack(">II", width, len(raw)) + self.header[8:12] + b"\0"
        rows = zlib.compress(np.insert(raw, 0, 0, axis=1).tobytes(), 0)
        file = PNG_MAGIC + _chunk(b"IHDR", header) + self.chunks + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
        return PILImage.open(BytesIO(file), formats=["PNG"])


class _Inflated:
    """The bytes that the pieces hold, inflated no further than was asked for."""

    def __init__(self, contents: Iterator[memoryview]) -> None:
        self._pieces = (
            content[at : at + _INFLATED_AT_ONCE]
            for content in contents
            for at in range(0, len(content), _INFLATED_AT_ONCE)
        )
        self._stream = zlib.decompressobj()
        self._left: bytes | memoryview = b""

    def read(self, size: int) -> bytes:
        """That many bytes. Raises OSError where they end before."""
        out = bytearray()
        while len(out) < size:
            piece = self._left or next(self._pieces, b"")
            more = self._stream.decompress(piece, size - len(out))
            self._left = self._stream.unconsumed_tail
            if not (more or piece) or (self._stream.eof and not more):
                raise OSError("the picture ends before its last row")
            out += more
        return bytes(out)


def _fill(part: NDArray[np.uint8], inflated: _Inflated, colours: _Colours) -> None:
    """The rows of the picture, or of one of its passes, into their places [height, width, 3]."""
    height, width, _ = part.shape
    row_bytes = (width * colours.bits + 7) // 8
    above = np.zeros(row_bytes, np.uint8)
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        rows = min(step, height - top)
        filtered = np.frombuffer(inflated.read(rows * (1 + row_bytes)), np.uint8).reshape(rows, 1 + row_bytes)
        raw = _unfiltered(filtered, above, max(1, colours.bits // 8))
        strip = part[top : top + rows]
        strip[:] = np.asarray(to_rgb(colours.picture(raw, width)))
        if colours.clear:
            is_clear = raw.reshape(rows, width, -1) == np.frombuffer(colours.clear, np.uint8)
            strip[is_clear.all(axis=2)] = 255
        above = raw[-1]


def _unfiltered(filtered: NDArray[np.uint8], above: NDArray[np.uint8], pixel_bytes: int) -> NDArray[np.uint8]:
    """Rows [rows, 1 + bytes] that begin with their filter, without it: [rows, bytes]; `above` is the row before."""
    raw = np.empty((len(filtered), len(above)), np.uint8)
    for place in range(pixel_bytes):
        grey = np.concatenate((filtered[:, :1], filtered[:, 1 + place :: pixel_bytes]), axis=1)
        first = np.insert(above[place::pixel_bytes], 0, 0)
        packed = zlib.compress(np.vstack((first, grey)).tobytes(), 0)
        size = grey.shape[1] - 1, len(grey) + 1
        raw[:, place::pixel_bytes] = np.asarray(PILImage.frombytes("L", size, packed, "zip", "L"))[1:]
    return raw


def _chunk(kind: bytes, content: bytes | memoryview) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
