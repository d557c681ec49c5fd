"""Pictures as bytes: the lossless PNG master with its texts, the form for delivery, the small preview; and back."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from server import __version__

if TYPE_CHECKING:
    from r3core.events import Pixels

PREVIEW_SIDE: Final = 256
DEFAULT_QUALITY: Final = 90
_PNG_EFFORT: Final = 4  # of zlib's 9: a third of the time of 6 for a few percent more bytes


@dataclass(frozen=True)
class PictureTexts:
    """What a PNG says of itself beside its pixels."""

    prompt: str
    seed: int
    round: int
    candidate: int | None = None  # where the round has several


def png(pixels: Pixels, texts: PictureTexts) -> bytes:
    """The master: prompt, seed, round, candidate and server version stand in it as text chunks."""
    info = PngInfo()
    info.add_itxt("prompt", texts.prompt.encode("utf-8", "replace").decode())
    info.add_text("seed", str(texts.seed))
    info.add_text("round", str(texts.round))
    if texts.candidate is not None:
        info.add_text("candidate", str(texts.candidate))
    info.add_text("Software", f"r3-server {__version__}")
    return _saved(PILImage.fromarray(pixels), "PNG", pnginfo=info, compress_level=_PNG_EFFORT)


def lossy(pixels: Pixels, name: str, quality: int | None) -> bytes:
    """The picture as "webp" or "jpeg"; quality 0 to 100, the best. Raises ValueError for another format."""
    if name not in ("webp", "jpeg"):
        raise ValueError(f"output_format {name!r} is not known; png, webp and jpeg are")
    return _saved(PILImage.fromarray(pixels), name.upper(), quality=DEFAULT_QUALITY if quality is None else quality)


def preview(pixels: Pixels) -> tuple[bytes, int, int]:
    """A WebP of at most 256 pixels on its longer side, with its width and height."""
    small = PILImage.fromarray(pixels)
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), PILImage.Resampling.BILINEAR)
    return _saved(small, "WEBP", quality=75, method=2), small.width, small.height


def pixels_of(master: bytes) -> Pixels:
    """The pixels of a PNG that we stored, uint8 [height, width, 3]."""
    with PILImage.open(io.BytesIO(master), formats=["PNG"]) as picture:
        return np.array(picture.convert("RGB"))


def _saved(picture: PILImage.Image, name: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, name, **options)
    return out.getvalue()
