"""What an uploaded picture may cost: bombs nothing, the largest that are taken little more than their pixels."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage

from r3core.model.image_processing import resize_to, to_rgb
from server.pictures import MAX_BYTES, MAX_PIXELS, MAX_WEBP_PIXELS, start_picture
from tests.recorded import Record
from tests.server.api.by_hand import TINY
from tests.server.test_pictures import pixels, png_claiming, saved

pytestmark = pytest.mark.row("F3")

PROMISED_BYTES = 64 * 2**20
PROGRAM = r"""
import re, sys
from contextlib import suppress
from pathlib import Path
from server.faults import ApiError
from server.pictures import start_picture
from tests.server.api.by_hand import TINY

def kb(name):
    return int(re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])

data = sys.stdin.buffer.read()
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = kb("VmRSS")
with suppress(ApiError):
    start_picture(data, TINY)
print((kb("VmHWM") - before) * 1024)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def bytes_for(data: bytes) -> int:
    """The most that a process of its own takes beyond what it had, to judge a picture and make it ready."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=data, check=True, capture_output=True, timeout=100)
    return int(done.stdout)


def noise(mode: str, size: tuple[int, int]) -> PILImage.Image:
    """Noise, and where there is transparency other noise for it."""
    grey = _coarse(size)
    if mode == "I;16":
        return PILImage.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    if mode == "P":
        return grey.convert("RGB").quantize(16)
    image = grey.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(_coarse(size))
    return image


def _coarse(size: tuple[int, int]) -> PILImage.Image:
    """Of four greys, so that 16 million of them fit into an upload."""
    return PILImage.effect_noise(size, 60).point([value & 0xC0 for value in range(256)])


def turned(image: PILImage.Image, orientation: int, kind: str) -> bytes:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif)


def _mb(size: int) -> str:
    return f"{size / 2**20:.0f} MB"


@linux
def test_a_bomb_is_refused_without_being_decoded() -> None:
    """17 KB that would decode to 432 MB."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(36_001)) for _ in range(12_000)) + packer.flush()
    bomb = png_claiming(12_000, 12_000, data)
    assert len(bomb) < 500_000
    assert bytes_for(bomb) < PROMISED_BYTES


@linux
def test_a_line_of_pixels_is_refused_without_a_table_for_its_filter() -> None:
    assert bytes_for(saved(PILImage.new("L", (MAX_PIXELS, 1)))) < PROMISED_BYTES


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("I;16", "PNG"), ("P", "PNG")],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_largest_picture_takes_little_more_than_its_pixels(
    mode: str, kind: str, orientation: int, record: Record
) -> None:
    """Its pixels alone take 61 MB."""
    data = turned(noise(mode, (4000, 4000)), orientation, kind)
    assert len(data) < MAX_BYTES  # else it would be refused by its size alone
    took = bytes_for(data)
    record("F3", f"16 MP {kind} {mode}, orientation {orientation}: {_mb(took)}", kept=took <= PROMISED_BYTES)
    assert took < 3 * PROMISED_BYTES


@linux
@pytest.mark.slow
def test_the_largest_webp_takes_four_times_its_pixels(record: Record) -> None:
    side = int(MAX_WEBP_PIXELS**0.5)
    took = bytes_for(saved(noise("RGB", (side, side)), "WEBP"))
    record("F3", f"8 MP WEBP: {_mb(took)}", kept=took <= PROMISED_BYTES)
    assert took < 3 * PROMISED_BYTES


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_a_picture_made_ready_in_strips_is_the_same_as_in_one_piece(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r3core.model.strips.STRIP_PIXELS", 7001)
    data = turned(noise(mode, (613, 397)), orientation, "JPEG" if mode == "CMYK" else "PNG")
    ready = pixels(start_picture(data, TINY))
    upright = to_rgb(PILImage.open(io.BytesIO(data)))
    width, height = resize_to(upright.size, TINY.transforms["vae"])
    rows_first = upright.resize((width, upright.size[1]), PILImage.Resampling.BICUBIC)
    assert np.array_equal(ready, np.asarray(rows_first.resize((width, height), PILImage.Resampling.BICUBIC)))
