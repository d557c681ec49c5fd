"""From a picture to what the model sees: the size rule, pictures upright and on white, and values in [-1, 1]."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from r3core.model.image_processing import MAX_PIXELS, preprocess, resize_to, resized, to_rgb, to_unit_range

RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """The picture as it comes from a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def colour(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)


def test_the_size_rule_equals_the_references(golden: dict[str, Any]) -> None:
    rows = golden["resize_table"]["rows"]
    assert len(rows) > 100
    for row in rows:
        width, height = row["inp"]
        assert resize_to((width, height), (row["max"], row["min"], row["stride"])) == tuple(row["out"]), row


def test_the_pixels_equal_the_references(golden: dict[str, Any], golden_tensors: dict[str, Tensor]) -> None:
    source = golden_tensors["preproc.image_75x131_u8"].numpy()
    for name in ("vae", "vit"):
        seen = torch.from_numpy(preprocess(source, tuple(golden["transforms"][name])))
        recorded = golden_tensors[f"preproc.tiny_{name}"]
        assert torch.allclose(seen, recorded.reshape(seen.shape), atol=1e-6)


sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
transforms = st.sampled_from([(512, 256, 16), (504, 252, 14), (1024, 512, 16), (980, 224, 14), (128, 32, 16)])


@given(sizes, transforms)
def test_every_size_becomes_multiples_of_the_stride_within_the_long_edge(
    size: tuple[int, int], transform: tuple[int, int, int]
) -> None:
    longest, _, stride = transform
    width, height = resize_to(size, transform)
    assert width % stride == height % stride == 0
    assert min(width, height) >= stride
    assert max(width, height) <= longest
    assert width * height <= MAX_PIXELS


@given(
    st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    st.sampled_from([((512, 256, 16), (504, 252, 14)), ((128, 32, 16), (112, 28, 14))]),
)
def test_no_size_however_long_leaves_the_position_tables(
    size: tuple[int, int], both: tuple[tuple[int, int, int], tuple[int, int, int]]
) -> None:
    """R3's own transforms and the small checkpoint's, on tables of 64 latent tokens and 70 patches a side."""
    for transform, cell, side in zip(both, (16, 14), (64, 70), strict=True):
        width, height = resize_to(size, transform)
        assert 1 <= min(width, height) // cell <= max(width, height) // cell <= side


@given(sizes, transforms)
def test_the_rule_knows_no_up_and_down(size: tuple[int, int], transform: tuple[int, int, int]) -> None:
    width, height = resize_to(size, transform)
    assert resize_to(size[::-1], transform) == (height, width)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (2, 3), WHITE)
    upright.putpixel((0, 0), RED)
    turned = {2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (2,), 7: (6,), 8: (4,)}.get(orientation, ())
    stored = upright
    for method in turned:
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = to_rgb(saved(stored, exif=exif))
    assert seen.size == (2, 3)
    assert colour(seen) == RED
    assert colour(seen, 1, 2) == WHITE


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("LA", (2, 2), (0, 0)), WHITE),
        (Image.new("LA", (2, 2), (40, 255)), (40, 40, 40)),
        (Image.new("L", (2, 2), 40), (40, 40, 40)),
        (Image.new("1", (2, 2), 1), WHITE),
        (Image.new("RGB", (2, 2), RED), RED),
    ],
    ids=["opaque", "clear", "half", "clear grey", "opaque grey", "grey", "one bit", "plain"],
)
def test_transparency_lies_on_white(image: Image.Image, expected: tuple[int, int, int]) -> None:
    seen = to_rgb(saved(image))
    assert seen.mode == "RGB"
    assert colour(seen) == expected


def test_a_palette_gives_its_colours_and_its_transparent_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert colour(to_rgb(saved(image))) == RED
    seen = to_rgb(saved(image, transparency=0))
    assert colour(seen) == WHITE
    assert colour(seen, 1, 0) == (0, 0, 255)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257 * 40, 65535]], dtype=np.uint16)
    seen = to_rgb(saved(Image.fromarray(values)))
    assert [colour(seen, x) for x in range(3)] == [(0, 0, 0), (40, 40, 40), WHITE]


def test_the_one_clear_value_of_a_16_bit_grey_lies_on_white() -> None:
    values = np.full((2, 2), 1000, np.uint16)
    values[0] = 300
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", transparency=300)
    seen = to_rgb(Image.open(io.BytesIO(file.getvalue())))
    assert (colour(seen, 0, 0), colour(seen, 0, 1)) == (WHITE, (4, 4, 4))


def test_cmyk_becomes_rgb() -> None:
    seen = to_rgb(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert seen.mode == "RGB"
    red, green, blue = colour(seen)
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("size", [(352, 512), (288, 256), (400, 496), (512, 352), (512, 512)])
def test_a_picture_is_resized_along_its_rows_before_its_columns(size: tuple[int, int]) -> None:
    """As PIL before 13 does; a newer one goes the other way for the first three."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    transform = (504, 252, 14)
    columns, rows = resize_to(size, transform)
    narrow = [image.crop((0, y, size[0], y + 1)).resize((columns, 1), Image.Resampling.BICUBIC) for y in range(size[1])]
    between = Image.fromarray(np.concatenate([np.asarray(row) for row in narrow]))
    expected = np.asarray(between.resize((columns, rows), Image.Resampling.BICUBIC))
    assert np.array_equal(np.asarray(resized(image, transform)), expected)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    image = Image.new("RGB", (64, 64), RED)
    assert resized(image, (128, 32, 16)) is image


def test_values_lie_between_minus_one_and_one() -> None:
    image = Image.new("RGB", (16, 32))
    image.putpixel((1, 0), WHITE)
    seen = to_unit_range(image)
    assert seen.shape == (3, 32, 16)
    assert seen.dtype == np.float32
    assert (seen[:, 0, 0] == -1).all()
    assert (seen[:, 0, 1] == 1).all()
