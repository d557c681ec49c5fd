"""Scenes and specs for the tests of the world and the language: Hypothesis strategies and random scenes."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from training.sampler import any_spec
from training.spec import CATEGORIES, Category, Spec
from training.world import BLOB, CELLS, COLOURS, SHAPES, Scene, in_reading_order, place

ALL_CATEGORIES: tuple[Category, ...] = CATEGORIES


def random_scene(rng: Random, most: int = 6, shapes: tuple[str, ...] = SHAPES) -> Scene:
    """Up to `most` things anywhere."""
    cells = rng.sample(range(len(CELLS)), rng.randint(0, most))
    return in_reading_order(place(rng.choice(list(COLOURS)), rng.choice(shapes), cell, rng) for cell in cells)


seeds = st.integers(0, 2**32)
scenes = st.builds(
    lambda seed, most: random_scene(Random(seed), most, (*SHAPES, BLOB)), seeds, st.sampled_from((3, 5, 6, 9))
)
specs: st.SearchStrategy[Spec] = st.builds(
    lambda category, seed: any_spec(category, Random(seed)), st.sampled_from(ALL_CATEGORIES), seeds
)
