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
from r3core.model.image_processing import resize_to
from r3core.model.strips import along_columns, along_rows
from server.faults import ApiError, Fault
from server.picture_decoders import decode
from server.picture_headers import Header, NotAPicture, read_header
from server.sizes import fits_grid

MAX_PIXELS: Final = 16_000_000
MAX_WEBP_PIXELS: Final = 4_200_000  # its decoder holds three pictures: 2048x2048 are 50 MB
MAX_WEBP_BYTES: Final = 12_000_000  # and the file once more
MAX_PROGRESSIVE_SAMPLES: Final = 24_000_000  # its decoder holds each in two bytes
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
        decoded = decode(data, header)
        upright = decoded.upright((header.width, header.height))
        size = resize_to(upright, description.transforms["vae"])
        if not fits_grid(size, description):
            raise invalid_image(
                f"has {upright[0]}x{upright[1]} pixels, {size[0]}x{size[1]} to the model, which is more than its grid "
                "holds; crop it to a less extreme shape"
            )
        narrow = along_rows(decoded, size[0])
        del decoded  # what comes now would not fit beside it
    except _BROKEN as error:
        raise invalid_image(f"is broken and cannot be decoded ({type(error).__name__})") from error
    picture = along_columns(narrow, size[1])
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
    if fault := _fault_in(header, len(data)):
        raise invalid_image(fault)
    return header


def _fault_in(header: Header, size: int) -> str | None:
    """What is too much of it, completing "the image …"."""
    width, height = header.width, header.height
    pixels = width * height
    webp = header.format == "WEBP"
    most = MAX_WEBP_PIXELS if webp else MAX_PIXELS
    if not 0 < pixels <= most:
        other = f" in a WebP, and {MAX_PIXELS:,} in a PNG or JPEG" if webp else ""
        return f"has {width}x{height} = {pixels:,} pixels; from 1 to {most:,} are taken{other}"
    if webp and size > MAX_WEBP_BYTES:
        return (
            f"is a WebP of {size:,} bytes; at most {MAX_WEBP_BYTES:,} are taken in a WebP, and {MAX_BYTES:,} in a PNG "
            "or JPEG"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        return (
            f"has {width}x{height} pixels, and its longer side may be at most {MAX_ASPECT} times the shorter; crop it "
            "to a less extreme shape"
        )
    samples = 0 if header.jpeg is None else header.jpeg.held_samples
    if samples > MAX_PROGRESSIVE_SAMPLES:
        return (
            f"is a progressive JPEG of {width}x{height} pixels with {samples:,} samples; at most "
            f"{MAX_PROGRESSIVE_SAMPLES:,} are taken of that kind; save it as a baseline JPEG, or smaller"
        )
    return None
