"""What an uploaded picture may cost: bombs nothing, the largest that are taken little more than their pixels."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as PILImage

from r3core.model.image_processing import resize_to, to_rgb
from server.pictures import MAX_BYTES, MAX_PIXELS, start_picture
from tests.recorded import Record
from tests.server.api.by_hand import TINY
from tests.server.test_pictures import pixels, png_claiming, saved
from tests.server.test_png_pixels import png_of_noise

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


def _in_full(image: PILImage.Image) -> PILImage.Image:
    """The picture with a noise of its own in each colour."""
    return PILImage.merge(image.mode, [_coarse(image.size) for _ in image.getbands()])


def _with_notes(jpeg: bytes) -> bytes:
    """A JPEG that says so much of its colours that it is as long as may be."""
    note = b"\xff\xe2\xff\xffICC_PROFILE\0\1\1" + bytes(65519)
    return jpeg[:2] + note * ((MAX_BYTES - len(jpeg)) // len(note)) + jpeg[2:]


# By what they are called in docs/reliability.md: the largest that are taken, by what costs most to decode.
LARGEST: dict[str, Callable[[], bytes]] = {
    "16 MP JPEG RGB": lambda: saved(noise("RGB", (4000, 4000)), "JPEG"),
    "16 MP JPEG CMYK": lambda: saved(noise("CMYK", (4000, 4000)), "JPEG"),
    "16 MP JPEG, 20 MB of notes": lambda: _with_notes(saved(noise("RGB", (4000, 4000)), "JPEG", quality=50)),
    "13 MP JPEG, whole": lambda: turned(noise("RGB", (3622, 3622)), 6, "JPEG"),
    "16 MP progressive JPEG": lambda: saved(
        _in_full(noise("RGB", (4000, 4000))), "JPEG", progressive=True, subsampling=2, quality=60
    ),
    "8 MP progressive JPEG, colours in full": lambda: saved(
        _in_full(noise("RGB", (2828, 2828))), "JPEG", progressive=True, subsampling=0, quality=60
    ),
    "6 MP progressive JPEG CMYK": lambda: saved(
        _in_full(noise("CMYK", (2449, 2449))), "JPEG", progressive=True, subsampling=0, quality=50
    ),
    "16 MP PNG RGB": lambda: saved(noise("RGB", (4000, 4000))),
    "16 MP PNG RGB, turned": lambda: turned(noise("RGB", (4000, 4000)), 6, "PNG"),
    "16 MP PNG RGBA, turned": lambda: turned(noise("RGBA", (4000, 4000)), 6, "PNG"),
    "16 MP PNG LA": lambda: saved(noise("LA", (4000, 4000))),
    "16 MP PNG I;16": lambda: saved(noise("I;16", (4000, 4000))),
    "16 MP PNG P": lambda: saved(noise("P", (4000, 4000))),
    "16 MP PNG RGB, interlaced": lambda: png_of_noise((2, 8), (4000, 4000), interlaced=True, levels=4),
    "16 MP PNG RGBA, 16 bits": lambda: png_of_noise((6, 16), (4000, 4000), interlaced=False, levels=1),
    "1:100 PNG": lambda: saved(noise("RGBA", (400, 40_000))),
    "4.2 MP WebP": lambda: saved(_in_full(noise("RGB", (2049, 2049))), "WEBP"),
    "4.2 MP WebP, transparent": lambda: saved(noise("RGBA", (2049, 2049)), "WEBP"),
    "4.2 MP WebP, lossless, 12 MB": lambda: saved(_rich((2049, 2049)), "WEBP", lossless=True, method=0, quality=0),
}


def _rich(size: tuple[int, int]) -> PILImage.Image:
    """Noise of which a pixel takes 21 bits, whatever packs it."""
    width, height = size
    greys = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PILImage.fromarray(greys & 0xFE)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_pictures_take_no_more_memory_than_is_promised(name: str, record: Record) -> None:
    data = LARGEST[name]()
    assert start_picture(data, TINY).png  # else it would be cheap because it is refused
    took = bytes_for(data)
    record("F3", f"{name}: {_mb(took)}", kept=took <= PROMISED_BYTES)
    assert took <= PROMISED_BYTES


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
