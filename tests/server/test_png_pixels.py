"""A PNG read a strip at a time holds what PIL reads at once: of every colour type, filter and order of rows."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage

from r3core.model.image_processing import to_rgb
from server.png_pixels import png_pixels
from tests.server.test_pictures import chunk, refusal

pytestmark = pytest.mark.row("F3")

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [
    *((0, depth) for depth in (1, 2, 4, 8, 16)),
    *((3, depth) for depth in (1, 2, 4, 8)),
    *((colour, depth) for colour in (2, 4, 6) for depth in (8, 16)),
]
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_of_noise(kind: tuple[int, int], size: tuple[int, int], *, interlaced: bool, levels: int = 256) -> bytes:
    """Any bytes are a picture, if each row begins with a filter; of few levels they pack well."""
    colour, depth = kind
    width, height = size
    random = np.random.default_rng(depth)
    packer = zlib.compressobj(1)
    packed = []
    for left, top, right, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        row_bytes = (columns * CHANNELS[colour] * depth + 7) // 8
        for _ in range(rows if columns > 0 else 0):
            filtered = random.integers(0, levels, row_bytes, dtype=np.uint8).tobytes()
            packed.append(packer.compress(bytes([random.integers(0, 5)]) + filtered))
    packed.append(packer.flush())
    data = b"".join(packed)
    middle = len(data) // 2
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))),
            chunk(b"PLTE", random.bytes(3 * 2 ** min(depth, 8))) if colour == 3 else b"",
            chunk(b"tRNS", {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\x00\x80"}[colour]) if colour in (0, 2, 3) else b"",
            chunk(b"IDAT", data[:middle]),
            chunk(b"IDAT", b""),
            chunk(b"IDAT", data[middle:]),
            chunk(b"IEND", b""),
        )
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(83, 71), (1, 9), (5, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_strips_of_a_png_are_what_pil_reads_at_once(
    kind: tuple[int, int], size: tuple[int, int], interlaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.png_pixels._STRIP_PIXELS", 500)
    monkeypatch.setattr("server.png_pixels._INFLATED_AT_ONCE", 77)
    data = png_of_noise(kind, size, interlaced=interlaced)
    assert np.array_equal(png_pixels(data), np.asarray(to_rgb(PILImage.open(io.BytesIO(data)))))


@pytest.mark.parametrize("colour", [0, 2])
def test_the_one_clear_colour_of_a_16_bit_png_lies_on_white(colour: int) -> None:
    """PIL looks at eight bits of it; a colour that has these eight in common stays."""
    clear = (np.arange(CHANNELS[colour]) + 301).astype(">u2")
    rows = np.broadcast_to(clear, (6, 4, len(clear))).copy()
    rows[3:] += 700  # seen
    rows[5] = clear + np.uint16(1)
    packed = zlib.compress(np.insert(rows.reshape(6, -1).view(np.uint8), 0, 0, axis=1).tobytes())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 6, 16, colour, 0, 0, 0))
    parts = (header, chunk(b"tRNS", clear.tobytes()), chunk(b"IDAT", packed), chunk(b"IEND", b""))
    pixels = png_pixels(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert (pixels[:3] == 255).all()
    assert (pixels[3:] < 10).all()


@pytest.mark.parametrize(
    "header",
    [(83, 72, 8, 2, 0, 0, 0), (83, 71, 3, 2, 0, 0, 0), (83, 71, 8, 5, 0, 0, 0), (83, 71, 8, 2, 0, 1, 0)],
    ids=["a row is missing", "3 bits", "colour type 5", "filters of another kind"],
)
def test_a_png_that_does_not_hold_what_it_says_is_refused(header: tuple[int, ...]) -> None:
    whole = png_of_noise((2, 8), (83, 71), interlaced=False)
    said = chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    assert "broken and cannot be decoded" in refusal(whole[:8] + said + whole[33:])


def test_a_header_that_is_not_what_it_was_is_refused() -> None:
    whole = png_of_noise((2, 8), (83, 71), interlaced=False)
    assert "broken: its IHDR" in refusal(whole[:20] + b"\1" + whole[21:])


def test_a_filter_that_there_is_not_is_refused() -> None:
    rows = zlib.compress((b"\x05" + bytes(30)) * 10)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert "broken" in refusal(data)


def test_a_palette_of_a_megabyte_is_refused() -> None:
    whole = png_of_noise((2, 8), (83, 71), interlaced=False)
    assert "PLTE has 1,000,000 bytes" in refusal(whole[:33] + chunk(b"PLTE", bytes(10**6)) + whole[33:])
