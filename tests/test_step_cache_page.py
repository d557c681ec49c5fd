"""docs/step_cache.md says what its run found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as PILImage

from benchmarks.step_cache import CACHES, PAGE, PICTURE, RESULT, with_tables, written
from r3core.engine.likeness import EQUAL_DB, psnr
from r3core.schedule import branches_per_step
from r3core.types import ImageSampling

RECORD = json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_page_has_the_tables_that_the_run_makes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_tables(text, RECORD)
    with PILImage.open(PICTURE) as shown:
        assert shown.size == (len(CACHES) * 192, 4 * 192)


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="begin run"):
        with_tables("# Nothing", RECORD)


def test_each_cache_stands_above_as_many_forwards_without_one() -> None:
    for way in RECORD["near"]:
        settings = ImageSampling(way["timesteps"], step_cache=way["step_cache"], cfg_interval=(0.0, 1.0))
        assert way["forwards"] == sum(branches_per_step(settings, edit=False))
    caches, instead = (
        [way for way in RECORD["near"] if (way["timesteps"] == way["of"]) is own] for own in (True, False)
    )
    assert [way["forwards"] for way in caches if way["step_cache"] > 1] == [way["forwards"] for way in instead]
    assert "| the same |  |" in written(RECORD)["near"]
    assert RECORD["loops"][0]["forwards"] > 1.5 * RECORD["loops"][1]["forwards"]


def test_decibels_are_of_the_mean_square() -> None:
    dark, light = (np.full((4, 4, 3), value, dtype=np.uint8) for value in (100, 110))
    assert psnr(dark, light) == pytest.approx(20 * np.log10(25.5))
    assert psnr(dark, dark) == EQUAL_DB
