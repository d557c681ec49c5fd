"""What an uploaded file claims to be, read from its structure alone, before any decoder sees it.

17 KB can decode to 700 MB, so size is judged here, and only pictures of known shape go on: PNG, JPEG and WebP,
still, whole, and with nothing behind their end (a file that is a picture and something else besides is refused).
What a decoder does not need (texts, colour profiles) is not handed on to it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

_PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_PNG_NEEDED: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
_MAX_CHUNKS: Final = 100_000
# A marker inside a JPEG scan: FF and neither a stuffed zero, nor a restart, nor a fill byte.
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_OTHERS: Final = (
    (re.compile(rb"GIF8"), "a GIF"),
    (re.compile(rb"BM"), "a BMP"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF"),
    (re.compile(rb".{4}ftyp", re.DOTALL), "a HEIC, AVIF or video"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"(?s)\s*(<\?xml.*?)?(<!--.*?-->\s*)?(<!DOCTYPE[^>]*>\s*)?<svg", re.IGNORECASE), "an SVG"),
)

Format = Literal["PNG", "JPEG", "WEBP"]


class NotAPicture(ValueError):
    """The bytes are no picture that is taken here; the message completes "the image …"."""


@dataclass(frozen=True)
class Header:
    """What the file says of itself: width and height in pixels as stored, and the bytes that a decoder needs."""

    format: Format
    width: int
    height: int
    needed: bytes


def read_header(data: bytes) -> Header:
    """The header of a still and whole PNG, JPEG or WebP. Raises NotAPicture."""
    try:
        if data.startswith(_PNG_MAGIC):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise NotAPicture("is truncated") from error
    name = next((name for magic, name in _OTHERS if magic.match(data[:2000])), None)
    raise NotAPicture(f"is {name or 'no picture that is known here'}; send PNG, JPEG or WebP")


def _png(data: bytes) -> Header:
    kept, has_data = [_PNG_MAGIC], False
    size: tuple[int, int] | None = None
    for kind, chunk, end in _png_chunks(data):
        if size is None:
            if kind != b"IHDR" or len(chunk) != 25:
                raise NotAPicture("is a PNG that does not begin with its header")
            width, height = struct.unpack(">II", chunk[8:16])
            size = width, height
        if kind == b"acTL":
            raise NotAPicture("is animated; send a still picture")
        has_data = has_data or kind == b"IDAT"
        if kind in _PNG_NEEDED:
            kept.append(chunk)
        if kind == b"IEND":
            if end != len(data):
                raise NotAPicture(f"is a PNG with {len(data) - end} more bytes behind its end; save it anew")
            if not has_data:
                raise NotAPicture("is a PNG without any picture in it")
            return Header("PNG", *size, b"".join(kept))
    raise NotAPicture("is truncated")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Kind, whole bytes and end of each chunk."""
    at = len(_PNG_MAGIC)
    for _ in range(_MAX_CHUNKS):
        if at >= len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise NotAPicture("is truncated")
        yield kind, data[at:end], end
        at = end
    raise NotAPicture(f"is a PNG of more than {_MAX_CHUNKS} chunks")


def _jpeg(data: bytes) -> Header:
    size: tuple[int, int] | None = None
    at = 2
    for _ in range(_MAX_CHUNKS):
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            raise NotAPicture("is truncated")
        code, at = data[marker.start() + 1], marker.end()
        if code == 0xD9:
            if size is None:
                raise NotAPicture("is a JPEG without any picture in it")
            _refuse_jpeg_trailer(data, at)
            return Header("JPEG", *size, data[:at])
        if code in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            if size not in (None, (width, height)):
                raise NotAPicture("is a JPEG that states two sizes")
            size = width, height
        if code not in (0x01, 0xD8):
            (length,) = struct.unpack_from(">H", data, at)
            at += length
    raise NotAPicture(f"is a JPEG of more than {_MAX_CHUNKS} segments")


def _refuse_jpeg_trailer(data: bytes, end: int) -> None:
    """Cameras put a second JPEG (a preview, a gain map) or padding behind the first; nothing else belongs there."""
    behind = data[end:].lstrip(b"\0")
    if behind and not behind.startswith(b"\xff\xd8\xff"):
        raise NotAPicture(f"is a JPEG with {len(behind)} bytes of something else behind its end; save it anew")


def _webp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 4)
    end = 8 + length
    if len(data) < end:
        raise NotAPicture("is truncated")
    if len(data) > end + length % 2:
        raise NotAPicture(f"is a WebP with {len(data) - end} more bytes behind its end; save it anew")
    canvas, size = None, None
    for kind, start in _riff_chunks(data, end):
        if kind == b"VP8X":
            canvas = _uint24(data, start + 4) + 1, _uint24(data, start + 7) + 1
        if kind in (b"ANIM", b"ANMF") or (kind == b"VP8X" and data[start] & 0x02):
            raise NotAPicture("is animated; send a still picture")
        if kind in (b"VP8 ", b"VP8L"):
            if size is not None:
                raise NotAPicture("is a WebP with two pictures in it")
            size = _vp8_size(data, start) if kind == b"VP8 " else _vp8l_size(data, start)
    if size is None:
        raise NotAPicture("is a WebP without any picture in it")
    if canvas not in (None, size):
        raise NotAPicture("is a WebP that states two sizes")
    return Header("WEBP", *size, data)


def _riff_chunks(data: bytes, end: int) -> Iterator[tuple[bytes, int]]:
    """Kind and start of each chunk's content."""
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            raise NotAPicture("is truncated")
        yield kind, at + 8
        at += 8 + length + length % 2
    raise NotAPicture(f"is a WebP of more than {_MAX_CHUNKS} chunks")


def _vp8_size(data: bytes, start: int) -> tuple[int, int]:
    if data[start + 3 : start + 6] != b"\x9d\x01\x2a":
        raise NotAPicture("is a WebP whose picture is broken")
    width, height = struct.unpack_from("<HH", data, start + 6)
    return width & 0x3FFF, height & 0x3FFF


def _vp8l_size(data: bytes, start: int) -> tuple[int, int]:
    signature, bits = struct.unpack_from("<BI", data, start)
    if signature != 0x2F:
        raise NotAPicture("is a WebP whose picture is broken")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _uint24(data: bytes, at: int) -> int:
    return data[at] | data[at + 1] << 8 | data[at + 2] << 16
