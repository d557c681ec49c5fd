"""What an uploaded file claims to be, read from its structure alone, before any decoder sees it.

17 KB can decode to 700 MB, so size is judged here, and only pictures of known shape go on: PNG, JPEG and WebP,
still, whole, and with nothing behind their end (a file that is a picture and something else besides is refused).
What a decoder does not need (texts, colour profiles) is not handed on to it. Nothing here copies more of a file than
its head.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
# Of the chunks that are not read a piece at a time the longest that makes sense: 256 colours, and a preview in EXIF.
_MAX_PNG_CHUNK: Final = {b"IHDR": 13, b"PLTE": 768, b"tRNS": 256, b"eXIf": 2**20}
_MAX_CHUNKS: Final = 100_000
# A marker inside a JPEG scan: FF and neither a stuffed zero, nor a restart, nor a fill byte.
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})
_JPEG_KNOWN: Final = frozenset({0xC0, 0xC1, 0xC9}) | _JPEG_PROGRESSIVE
_JPEG_SCAN: Final = 0xDA
_JPEG_END: Final = 0xD9
_JPEG_BARE: Final = frozenset({0x01, 0xD8, _JPEG_END})  # markers without a length
# JFIF, Adobe's colours, EXIF and XMP (which say what is up); of each the first.
_JPEG_NOTES: Final = (b"\xff\xe0", b"\xff\xee", b"\xff\xe1..Exif\0\0", b"\xff\xe1..http://ns.adobe.com/xap/1.0/\0")
_JPEG_NOTE: Final = re.compile(b"|".join(b"(%b)" % note.replace(b".com", rb"\.com") for note in _JPEG_NOTES), re.DOTALL)
_MAX_JPEG_FRONT: Final = 2**20
_MAX_SCANS: Final = 100  # a progressive one has ten; each costs a pass over all of the picture
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
class JpegParts:
    """Where the parts of a JPEG are, and what it asks of a decoder.

    `front` is what stands before the first scan, less what a decoder does not need; `scans` is where the rest stands.
    `held_samples` are those that must be held to the end, for they do not come in order.
    """

    front: bytes
    scans: slice
    colours: int
    held_samples: int


@dataclass(frozen=True)
class Header:
    """What the file says of itself: width and height in pixels as stored."""

    format: Format
    width: int
    height: int
    jpeg: JpegParts | None = None


def read_header(data: bytes) -> Header:
    """The header of a still and whole PNG, JPEG or WebP. Raises NotAPicture."""
    try:
        if data.startswith(PNG_MAGIC):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise NotAPicture("is truncated") from error
    name = next((name for magic, name in _OTHERS if magic.match(data[:2000])), None)
    raise NotAPicture(f"is {name or 'no picture that is known here'}; send PNG, JPEG or WebP")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk, none of them copied. Raises NotAPicture and struct.error."""
    at = len(PNG_MAGIC)
    whole = memoryview(data)
    for _ in range(_MAX_CHUNKS):
        if at >= len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise NotAPicture("is truncated")
        if kind in _MAX_PNG_CHUNK and zlib.crc32(whole[at + 4 : end - 4]).to_bytes(4) != whole[end - 4 : end]:
            raise NotAPicture(f"is broken: its {kind.decode()} chunk is not what its checksum says")
        yield kind, whole[at + 8 : end - 4]
        if kind == b"IEND" and end != len(data):
            raise NotAPicture(f"is a PNG with {len(data) - end} more bytes behind its end; save it anew")
        at = end
    raise NotAPicture(f"is a PNG of more than {_MAX_CHUNKS} chunks")


def _png(data: bytes) -> Header:
    size: tuple[int, int] | None = None
    kind, has_data = b"", False
    for kind, content in png_chunks(data):
        if size is None:
            if kind != b"IHDR" or len(content) != 13:
                raise NotAPicture("is a PNG that does not begin with its header")
            width, height = struct.unpack_from(">II", content)
            size = width, height
        if kind == b"acTL":
            raise NotAPicture("is animated; send a still picture")
        if len(content) > _MAX_PNG_CHUNK.get(kind, len(content)):
            raise NotAPicture(f"is a PNG whose {kind.decode()} has {len(content):,} bytes; save it anew")
        has_data = has_data or kind == b"IDAT"
    if size is None or kind != b"IEND":
        raise NotAPicture("is truncated")
    if not has_data:
        raise NotAPicture("is a PNG without any picture in it")
    return Header("PNG", *size)


@dataclass(frozen=True)
class _Segment:
    """Of a JPEG: its marker's code, where that begins, and where what it says begins and ends."""

    code: int
    start: int
    content: int
    end: int


def _jpeg(data: bytes) -> Header:
    frame: _Segment | None = None
    scans: list[_Segment] = []
    front = bytearray(b"\xff\xd8")
    seen: set[int | None] = set()
    for segment in _jpeg_segments(data):
        if segment.code == _JPEG_END:
            if frame is None or not scans:
                raise NotAPicture("is a JPEG without any picture in it")
            _refuse_jpeg_trailer(data, segment.end)
            return _jpeg_header(data, frame, scans[0], bytes(front), segment.end)
        if segment.code == _JPEG_SCAN:
            scans.append(segment)
        if segment.code in _JPEG_FRAMES:
            if frame is not None:
                raise NotAPicture("is a JPEG that states its size twice")
            frame = segment
        if not scans and segment.code not in _JPEG_BARE:
            front += _jpeg_needed(data[segment.start : segment.end], seen)
        if len(front) > _MAX_JPEG_FRONT:
            raise NotAPicture(
                f"is a JPEG whose picture begins behind {_MAX_JPEG_FRONT:,} bytes of tables; save it anew"
            )
        if len(scans) > _MAX_SCANS:
            raise NotAPicture(f"is a JPEG of more than {_MAX_SCANS} scans; save it as a baseline JPEG")
    raise NotAPicture("is truncated")


def _jpeg_segments(data: bytes) -> Iterator[_Segment]:
    at = 2
    for _ in range(_MAX_CHUNKS):
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            return
        code, at = data[marker.start() + 1], marker.end()
        length = 0 if code in _JPEG_BARE else int.from_bytes(data[at : at + 2])
        yield _Segment(code, marker.start(), at + 2, at + length)
        at += length
    raise NotAPicture(f"is a JPEG of more than {_MAX_CHUNKS} segments")


def _jpeg_needed(segment: bytes, seen: set[int | None]) -> bytes:
    """The segment, or nothing where a decoder does not need it, or has it by then."""
    if not 0xE0 <= segment[1] <= 0xEF and segment[1] != 0xFE:
        return segment
    note = _JPEG_NOTE.match(segment)
    if note is None or note.lastindex in seen:
        return b""
    seen.add(note.lastindex)
    return segment


def _jpeg_header(data: bytes, frame: _Segment, scan: _Segment, front: bytes, end: int) -> Header:
    if frame.code not in _JPEG_KNOWN:
        raise NotAPicture("is a JPEG of a rare kind, lossless or hierarchical; save it as a baseline JPEG")
    height, width, colours = struct.unpack_from(">HHB", data, frame.content + 1)
    samplings = [divmod(data[frame.content + 7 + 3 * colour], 16) for colour in range(colours)]
    if not all(1 <= across <= 4 and 1 <= down <= 4 for across, down in samplings) or not samplings:
        raise NotAPicture("is a JPEG whose picture is broken")
    most_across, most_down = (max(values) for values in zip(*samplings, strict=True))
    held = sum(-(-width * across // most_across) * -(-height * down // most_down) for across, down in samplings)
    comes_in_order = frame.code not in _JPEG_PROGRESSIVE and data[scan.content] == colours
    parts = JpegParts(front, slice(scan.start, end), colours, 0 if comes_in_order else held)
    return Header("JPEG", width, height, parts)


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
    return Header("WEBP", *size)


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
