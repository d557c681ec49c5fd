"""Uploaded pictures: what is refused from the header alone, and what becomes of the rest."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from PIL import ImageOps

from r3core.model.image_processing import resize_to
from server.faults import ApiError
from server.picture_decoders import decode
from server.picture_headers import read_header
from server.pictures import MAX_BYTES, StartPicture, from_base64, start_picture
from tests.server.api.by_hand import TINY

pytestmark = pytest.mark.row("F3")

NOISE = PILImage.effect_noise((320, 256), 80).convert("RGB")


def saved(image: PILImage.Image, image_format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of almost no bytes that says it is that large; all of it is one byte, packed."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data or zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


def webp_claiming(width: int, height: int) -> bytes:
    """A lossless WebP that says it is that large."""
    whole = saved(NOISE, "WEBP", lossless=True)
    return whole[:21] + struct.pack("<I", (width - 1) | (height - 1) << 14) + whole[25:]


def webp_with(size: int) -> bytes:
    """A WebP with so many bytes in it that nobody needs."""
    whole = saved(NOISE, "WEBP", exif=b"Exif\0\0")
    whole += b"JUNK" + struct.pack("<I", size) + bytes(size)
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def jpeg_claiming(width: int, height: int, **options: Any) -> bytes:
    """A progressive JPEG that says it is that large."""
    whole = saved(NOISE, "JPEG", progressive=True, **options)
    return whole.replace(struct.pack(">HH", 256, 320), struct.pack(">HH", height, width))


def scan_in(progressive: bytes) -> bytes:
    """The last one of its scans."""
    return progressive[progressive.rindex(b"\xff\xda") : -2]


def animated(image_format: str) -> bytes:
    frames = [PILImage.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    return saved(frames[0], image_format, save_all=True, append_images=frames[1:])


def pixels(picture: StartPicture) -> np.ndarray[Any, Any]:
    return np.asarray(PILImage.open(io.BytesIO(picture.png)))


def refusal(data: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        start_picture(data, TINY)
    assert caught.value.code == "invalid_image"
    assert caught.value.faults[0].pointer == "/image"
    return caught.value.detail


PROGRESSIVE = saved(NOISE, "JPEG", progressive=True)
WHOLE = {"PNG": saved(NOISE), "JPEG": saved(NOISE, "JPEG"), "WEBP": saved(NOISE, "WEBP")}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png_claiming(12_000, 12_000), "144,000,000 pixels"),
        (png_claiming(0, 10), "0 pixels"),
        (png_claiming(2**31, 2**31), "pixels"),
        (png_claiming(16_000_000, 1), "at most 100 times the shorter"),
        (png_claiming(39, 4000), "at most 100 times the shorter"),
        (webp_claiming(2050, 2049), "4,200,450 pixels; from 1 to 4,200,000 are taken in a WebP, and 16,000,000 in"),
        (webp_with(12_000_000), "at most 12,000,000 are taken in a WebP, and 20,000,000 in"),
        (jpeg_claiming(4000, 4000, subsampling=0), "48,000,000 samples; at most 24,000,000 are taken of that kind"),
        (jpeg_claiming(4000, 4016, subsampling=2), "pixels; from 1 to 16,000,000"),
        (WHOLE["JPEG"].replace(b"\xff\xc0", b"\xff\xc3"), "rare kind"),
        (WHOLE["JPEG"].replace(b"\xff\xc0", b"\xff\xc0\0\x02\xff\xc0"), "states its size twice"),
        (WHOLE["JPEG"][:2] + (b"\xff\xdb\xff\xff" + bytes(65533)) * 17 + WHOLE["JPEG"][2:], "bytes of tables"),
        (PROGRESSIVE[:-2] + scan_in(PROGRESSIVE) * 100 + PROGRESSIVE[-2:], "more than 100 scans"),
        (WHOLE["JPEG"].replace(struct.pack(">HH", 256, 320), struct.pack(">HH", 60_000, 60_000)), "pixels"),
        (
            saved(NOISE, "WEBP", lossless=True)[:21] + b"\xff\xff\xff\x0f" + saved(NOISE, "WEBP", lossless=True)[25:],
            "pixels",
        ),
        (WHOLE["PNG"][: len(WHOLE["PNG"]) // 2], "truncated"),
        (WHOLE["JPEG"][: len(WHOLE["JPEG"]) // 2], "truncated"),
        (WHOLE["WEBP"][: len(WHOLE["WEBP"]) // 2], "truncated"),
        (WHOLE["PNG"][:20], "truncated"),
        (WHOLE["JPEG"][:20], "truncated"),
        (WHOLE["WEBP"][:20], "truncated"),
        (WHOLE["PNG"] + b"PK\x03\x04 and a zip", "behind its end"),
        (WHOLE["JPEG"] + b"<script>alert(1)</script>", "behind its end"),
        (WHOLE["WEBP"] + b"%PDF-1.7", "behind its end"),
        (animated("PNG"), "animated"),
        (animated("WEBP"), "animated"),
        (animated("GIF"), "GIF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg/>', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (saved(NOISE, "BMP"), "BMP"),
        (saved(NOISE, "TIFF"), "TIFF"),
        (b"\0\0\0\x1cftypheic", "HEIC"),
        (b"hello", "no picture"),
        (b"", "no picture"),
        (WHOLE["PNG"] + b"\0" * MAX_BYTES, "bytes; at most"),
        (png_claiming(64, 64, data=b"not zlib"), "broken"),
        (png_claiming(4000, 4000), "broken"),
    ],
)
def test_what_is_no_still_and_whole_picture_is_refused(data: bytes, reason: str) -> None:
    assert reason in refusal(data)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_a_picture_comes_out_as_png_of_the_transforms_size(name: str) -> None:
    picture = start_picture(WHOLE[name], TINY)
    assert (picture.width, picture.height) == resize_to(NOISE.size, TINY.transforms["vae"]) == (320, 256)
    assert pixels(picture).shape == (256, 320, 3)


def test_a_png_of_the_right_size_comes_out_to_the_bit() -> None:
    assert np.array_equal(pixels(start_picture(WHOLE["PNG"], TINY)), np.asarray(NOISE))


def test_a_large_picture_is_resized_once_by_the_filter_of_the_reference() -> None:
    large = PILImage.effect_noise((1600, 900), 60).convert("RGB")
    size = resize_to(large.size, TINY.transforms["vae"])
    expected = np.asarray(large.resize(size, PILImage.Resampling.BICUBIC))
    assert np.array_equal(pixels(start_picture(saved(large), TINY)), expected)


def test_orientation_is_applied() -> None:
    exif = PILImage.Exif()
    exif[0x0112] = 6
    turned = start_picture(saved(NOISE, "PNG", exif=exif), TINY)
    assert (turned.width, turned.height) == (256, 320)
    assert np.array_equal(pixels(turned), np.asarray(NOISE.transpose(PILImage.Transpose.ROTATE_270)))


@pytest.mark.parametrize(
    "converted",
    [
        lambda: saved(PILImage.new("RGBA", (256, 256), (255, 0, 0, 0))),
        lambda: saved(PILImage.new("LA", (256, 256), (0, 0))),
        lambda: saved(PILImage.new("RGB", (256, 256), (9, 9, 9)), transparency=(9, 9, 9)),
        lambda: saved(PILImage.new("RGBA", (256, 256), (255, 0, 0, 0)).quantize(4)),
    ],
)
def test_what_is_transparent_is_white(converted: Callable[[], bytes]) -> None:
    assert (pixels(start_picture(converted(), TINY)) == 255).all()


def test_other_colour_models_become_rgb() -> None:
    half = np.full((256, 256), 32768, dtype=np.uint16)
    grey = pixels(start_picture(saved(PILImage.fromarray(half)), TINY))
    assert set(np.unique(grey)) <= {127, 128}
    cmyk = pixels(start_picture(saved(NOISE.convert("CMYK"), "JPEG"), TINY))
    assert cmyk.shape == (256, 320, 3)
    palette = pixels(start_picture(saved(PILImage.new("RGB", (256, 256), (1, 2, 3)).quantize(2)), TINY))
    assert (palette == (1, 2, 3)).all()
    one_bit = pixels(start_picture(saved(PILImage.new("1", (256, 256), 1)), TINY))
    assert (one_bit == 255).all()


def test_a_cameras_second_picture_behind_the_first_is_left_out() -> None:
    pair = saved(NOISE, "MPO", save_all=True, append_images=[ImageOps.invert(NOISE)])
    assert start_picture(pair, TINY).width == 320
    assert start_picture(WHOLE["JPEG"] + b"\0" * 100, TINY).width == 320


def test_texts_and_profiles_do_not_reach_the_decoder() -> None:
    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    whole = WHOLE["PNG"]
    with_text = whole[:33] + chunk(b"zTXt", b"Comment\0\0" + bomb) + whole[33:]
    assert start_picture(with_text, TINY).width == 320


def test_a_picture_too_extreme_for_the_grid_is_refused() -> None:
    small = replace(TINY, latent_side=16)
    with pytest.raises(ApiError, match="grid"):
        start_picture(WHOLE["PNG"], small)


@given(st.binary(max_size=300), st.sampled_from(sorted(WHOLE)))
@settings(max_examples=60, deadline=None)
def test_a_broken_file_is_refused_and_never_a_crash(noise: bytes, name: str) -> None:
    """A good picture overwritten at the front or in the middle: it decodes, or it is refused."""
    whole = WHOLE[name]
    for at in (12, len(whole) // 2):
        broken = whole[:at] + noise + whole[at + len(noise) :]
        with suppress(ApiError):
            start_picture(broken, TINY)


def test_base64_comes_bare_or_as_data_url() -> None:
    text = base64.b64encode(b"bytes").decode()
    for given_ in (
        text,
        f"data:image/png;base64,{text}",
        f"DATA:image/jpeg;charset=x;base64,{text}",
        f"{text[:4]}\r\n{text[4:]}\n",
    ):
        assert from_base64(given_) == b"bytes"


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        "AAA",
        "data:image/png,raw",
        "data:text/html;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        "äöü=",
        "AA AA",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        from_base64(text)
    assert caught.value.code == "invalid_image"


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ApiError, match="at most"):
        from_base64("A" * 27_000_000)


@pytest.mark.parametrize(("held_bytes", "scale"), [(400_000, 1), (120_000, 2), (1000, 4)])
def test_a_jpeg_that_would_be_too_much_is_decoded_smaller_and_comes_out_alike(
    held_bytes: int, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = NOISE.resize((40, 32)).resize((320, 256), PILImage.Resampling.BICUBIC)
    exif = PILImage.Exif()
    exif[0x0112] = 6
    data = saved(smooth, "JPEG", quality=95, exif=exif)
    whole = start_picture(data, TINY)
    monkeypatch.setattr("server.picture_decoders.HELD_BYTES", held_bytes)
    decoded = decode(data, read_header(data))
    assert (decoded.size, decoded.orientation) == ((320 // scale, 256 // scale), 6)
    smaller = start_picture(data, TINY)
    assert (smaller.width, smaller.height) == (whole.width, whole.height) == (256, 320)
    assert np.abs(pixels(smaller).astype(int) - pixels(whole)).mean() < 3


def test_of_a_jpegs_notes_a_decoder_gets_what_says_which_side_is_up_and_which_colours() -> None:
    exif = PILImage.Exif()
    exif[0x0112] = 3
    whole = saved(NOISE.convert("CMYK"), "JPEG", exif=exif, icc_profile=b"profile" * 99, comment="comment")
    jpeg = read_header(whole).jpeg
    assert jpeg is not None
    assert b"Exif" in jpeg.front
    assert b"Adobe" in jpeg.front
    assert b"profile" not in jpeg.front
    assert b"comment" not in jpeg.front
