"""From what a client gave as `image` to the picture that round 0 is: judged, decoded, upright, on white, resized once.

Errors are ApiError `invalid_image`, with the pointer of the field. All of this blocks and takes memory in
proportion to the picture, so callers run it in a thread, a few at a time.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from PIL import Image as PILImage

from r3core.checkpoint import Description
from r3core.model.strips import upright_resized
from server.faults import ApiError, Fault
from server.picture_headers import Header, NotAPicture, read_header
from server.sizes import fits_grid

MAX_PIXELS: Final = 16_000_000
MAX_WEBP_PIXELS: Final = 8_000_000  # its decoder holds four copies, that of others one
MAX_ASPECT: Final = 100  # the filter's table grows with it, to hundreds of MB for a line of pixels
MAX_BYTES: Final = 20_000_000
_DATA_URL: Final = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/jpg", "image/webp", "application/octet-stream", ""})
# What PIL raises for broken data, by plugin and by Python version.
_BROKEN: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error, zlib.error),
    PILImage.DecompressionBombError,
)


@dataclass(frozen=True)
class StartPicture:
    """The picture of round 0 as a lossless PNG; sizes in pixels."""

    png: bytes
    width: int
    height: int


def from_base64(text: str) -> bytes:
    """The bytes in a base64 text or data URL. Raises ApiError invalid_image."""
    url = _DATA_URL.match(text[:1000])
    if url is not None:
        kind, parameters = url.group(1).strip().lower(), url.group(2).lower()
        if kind not in _TYPES or not parameters.endswith(";base64"):
            raise invalid_image(f"is a data URL of {url.group(0)[:60]!r}; send data:image/png;base64,… or jpeg or webp")
        text = text[url.end() :]
    if "\n" in text:  # what `base64` writes is broken into lines
        text = "".join(text.split())
    if len(text) * 3 // 4 > MAX_BYTES + 2:
        raise invalid_image(f"has about {len(text) * 3 // 4:,} bytes; at most {MAX_BYTES:,} are taken")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_image(
            "is neither base64, nor a data URL, nor the id of an image (img_ and 32 hex digits)"
        ) from error


def start_picture(data: bytes, description: Description) -> StartPicture:
    """An uploaded file, or a stored master, as the checkpoint sees it. Raises ApiError invalid_image."""
    header = _judged(data)
    try:
        with PILImage.open(io.BytesIO(header.needed), formats=[header.format]) as opened:
            if opened.size != (header.width, header.height):
                raise invalid_image("states two sizes")
            picture = upright_resized(opened, description.transforms["vae"])
    except _BROKEN as error:
        raise invalid_image(f"is broken and cannot be decoded ({type(error).__name__})") from error
    if not fits_grid(picture.size, description):
        raise invalid_image(
            f"has {header.width}x{header.height} pixels, {picture.width}x{picture.height} to the model, which is more "
            "than its grid holds; crop it to a less extreme shape"
        )
    out = io.BytesIO()
    picture.save(out, "PNG")
    return StartPicture(out.getvalue(), picture.width, picture.height)


def invalid_image(what: str) -> ApiError:
    """422 for the field `image`; `what` completes "the image …"."""
    return ApiError("invalid_image", f"the image {what}", [Fault("/image", what)])


def _judged(data: bytes) -> Header:
    if len(data) > MAX_BYTES:
        raise invalid_image(f"has {len(data):,} bytes; at most {MAX_BYTES:,} are taken")
    try:
        header = read_header(data)
    except NotAPicture as error:
        raise invalid_image(str(error)) from error
    pixels = header.width * header.height
    most = MAX_WEBP_PIXELS if header.format == "WEBP" else MAX_PIXELS
    if not 0 < pixels <= most:
        other = f" in a WebP, and {MAX_PIXELS:,} in a PNG or JPEG" if most < MAX_PIXELS else ""
        raise invalid_image(
            f"has {header.width}x{header.height} = {pixels:,} pixels; from 1 to {most:,} are taken{other}"
        )
    if max(header.width, header.height) > MAX_ASPECT * min(header.width, header.height):
        raise invalid_image(
            f"has {header.width}x{header.height} pixels, and its longer side may be at most {MAX_ASPECT} times the "
            "shorter; crop it to a less extreme shape"
        )
    return header
