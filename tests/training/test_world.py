"""Scenes are drawn cleanly inside their cells, and the parser reads back exactly what was drawn."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tests.training.drawing import random_scene
from training.parse import parse
from training.render import render, repaint
from training.spec import LAYOUTS, RELATIONS, Relation, fits, holds
from training.world import (
    BACKGROUND,
    BLOB,
    CELLS,
    COLOURS,
    PITCH_PX,
    RADIUS_PX,
    SHAPES,
    Scene,
    Thing,
    cell_centre,
    column,
    in_reading_order,
    layout,
    move,
    place,
    row,
)

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    rng = Random(11)
    return [random_scene(rng) for _ in range(2400)]


@pytest.fixture(scope="module")
def pictures(many: list[Scene]) -> Pixels:
    return render(many)


def share_read(many: list[Scene], pictures: Pixels) -> float:
    read = parse(pictures)
    return float(np.mean([layout(scene) == layout(seen) for scene, seen in zip(many, read, strict=True)]))


def blurred(pictures: Pixels, sigma_px: float) -> Pixels:
    blur = ImageFilter.GaussianBlur(sigma_px)
    return np.stack([np.asarray(Image.fromarray(picture).filter(blur)) for picture in pictures])


def noisy(pictures: Pixels, sigma: float) -> Pixels:
    noise = np.random.default_rng(3).normal(0, sigma, pictures.shape)
    return np.clip(np.rint(pictures + noise), 0, 255).astype(np.uint8)


def ringing(pictures: Pixels) -> Pixels:
    sharpen = ImageFilter.UnsharpMask(2, 80, 0)
    return np.stack([np.asarray(Image.fromarray(picture).filter(sharpen)) for picture in pictures])


def test_every_rendered_scene_is_read_back_exactly(many: list[Scene], pictures: Pixels) -> None:
    assert share_read(many, pictures) == 1.0


def test_scenes_are_read_through_blur_noise_and_ringing(many: list[Scene], pictures: Pixels) -> None:
    some, few = pictures[:800], many[:800]
    assert share_read(few, noisy(blurred(some, 0.7), 6)) >= 0.995
    assert share_read(few, noisy(ringing(blurred(some, 0.7)), 6)) >= 0.995
    assert share_read(few, blurred(some, 1.2)) >= 0.995


def test_places_and_sizes_are_read_to_a_fraction_of_a_pixel(many: list[Scene], pictures: Pixels) -> None:
    for scene, seen in zip(many[:500], parse(pictures[:500]), strict=True):
        for drawn, read in zip(scene, seen, strict=True):
            assert abs(drawn.cx - read.cx) < 0.35
            assert abs(drawn.cy - read.cy) < 0.35
            assert abs(drawn.radius - read.radius) <= 0.5


@pytest.mark.parametrize("shape", [*SHAPES, BLOB])
def test_no_thing_leaves_its_cell(shape: str) -> None:
    rng = Random(5)
    inks = [place("red", shape, 4, rng) for _ in range(300)]
    extreme = [Thing("red", shape, 4, x, y, RADIUS_PX[1]) for x in (45.5, 50.5) for y in (45.5, 50.5)]
    drawn = render([(thing,) for thing in (*inks, *extreme)])
    border = drawn.copy()
    border[:, PITCH_PX + 1 : 2 * PITCH_PX - 1, PITCH_PX + 1 : 2 * PITCH_PX - 1] = BACKGROUND
    assert (border == np.array(BACKGROUND, dtype=np.uint8)).all()


def test_blobs_are_read_as_blobs_of_their_colour() -> None:
    rng = Random(2)
    scenes: list[Scene] = [(place(rng.choice(list(COLOURS)), BLOB, rng.randrange(9), rng),) for _ in range(600)]
    assert share_read(scenes, render(scenes)) == 1.0


def test_two_colours_in_one_shape_are_a_blob() -> None:
    picture = render([(place("red", "circle", 4),)])
    half = render([(place("blue", "circle", 4),)])
    picture[:, :, 48:] = half[:, :, 48:]
    assert [thing.shape for thing in parse(picture)[0]] == [BLOB]


def test_a_faint_or_tiny_mark_is_nothing() -> None:
    picture = render([()])
    picture[:, 10:13, 10:13] = COLOURS["red"]
    picture[:, 40:60, 40:60] = (230, 230, 240)
    assert parse(picture) == [()]


def test_an_empty_list_of_pictures_is_read() -> None:
    assert parse(render([])) == []


def test_pictures_of_another_form_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\(1, 64, 64, 3\)"):
        parse(np.zeros((1, 64, 64, 3), dtype=np.uint8))


def test_repainting_keeps_the_pixels_of_blobs_that_stay_and_cleans_the_rest() -> None:
    before = in_reading_order((place("red", BLOB, 0), place("blue", "star", 4)))
    after = in_reading_order((place("red", BLOB, 0), place("green", "star", 4)))
    own = noisy(render([before]), 20)[0]
    painted = repaint(own, before, after)
    assert (painted[:PITCH_PX, :PITCH_PX] == own[:PITCH_PX, :PITCH_PX]).all()
    assert (painted[PITCH_PX:] == render([after])[0][PITCH_PX:]).all()


def test_colours_are_far_from_each_other_and_from_the_background() -> None:
    inks = [np.array(colour, dtype=float) for colour in COLOURS.values()]
    for i, ink in enumerate(inks):
        assert np.linalg.norm(ink - np.array(BACKGROUND)) > 190
        assert all(np.linalg.norm(ink - other) >= 90 for other in inks[:i])


def test_two_things_in_one_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="middle, middle"):
        in_reading_order((place("red", "star", 4), place("blue", "star", 4)))


@pytest.mark.parametrize("cell", range(len(CELLS)))
def test_cells_are_named_for_where_they_lie(cell: int) -> None:
    name = CELLS[cell]
    assert ("top" in name) == (row(cell) == 0)
    assert ("bottom" in name) == (row(cell) == 2)
    assert ("left" in name) == (column(cell) == 0)
    assert ("right" in name) == (column(cell) == 2)
    moved = move(Thing("red", "star", 0, 17.0, 14.0, 9.0), cell)
    assert (moved.cx - 1, moved.cy + 2) == cell_centre(cell)


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_layout_of_a_relation_holds_wherever_the_things_stand_in_their_cells(relation: Relation) -> None:
    rng = Random(4)
    for a, b in LAYOUTS[relation]:
        assert fits(relation, a, b)
        assert holds(relation, place("red", "star", a, rng), place("red", "star", b, rng))
