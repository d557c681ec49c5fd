"""When steps are guided and how many branches they take: the reference's times, and the counts that usage reports."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3core.schedule import branches, branches_per_step, is_guided, preview_steps, timesteps
from r3core.types import GENERATE_DEFAULTS, REFINE_DEFAULTS, ImageSampling
from tests.core.strategies import image_samplings


def test_times_equal_the_references_to_the_bit(golden: dict[str, Any]) -> None:
    assert golden["timesteps"]
    for recorded in golden["timesteps"]:
        times = timesteps(recorded["num_timesteps"], recorded["shift"])
        assert times[:-1] == recorded["t"]
        assert times[-1] == 0
        settings = ImageSampling(cfg_interval=(0.4, 1.0))
        assert [is_guided(t, settings) for t in times[:-1]] == recorded["cfg_active_0p4_1"]


def test_branches_equal_the_references(golden: dict[str, Any]) -> None:
    compared = 0
    for edit, recorded in [*((False, r) for r in golden["t2i"]), *((True, r) for r in golden["edit"])]:
        asked = recorded["settings"]
        if asked["cfg_text_scale"] <= 1:
            continue  # there the reference runs a branch that it then ignores
        settings = ImageSampling(
            num_timesteps=recorded["num_timesteps"],
            cfg_text_scale=asked["cfg_text_scale"],
            cfg_img_scale=asked["cfg_img_scale"] if edit else 1.0,
            cfg_interval=tuple(asked["cfg_interval"]),
            timestep_shift=asked["timestep_shift"],
        )
        assert branches_per_step(settings, edit=edit) == recorded["branches_per_step"], recorded["tag"]
        compared += 1
    assert compared > 10


def test_a_first_picture_is_90_forwards_and_an_edit_131_at_r3s_settings() -> None:
    generate = branches_per_step(GENERATE_DEFAULTS, edit=False)
    refine = branches_per_step(REFINE_DEFAULTS, edit=True)
    assert (len(generate), generate.count(2), sum(generate)) == (49, 41, 90)
    assert (len(refine), refine.count(3), sum(refine)) == (49, 41, 131)


@pytest.mark.parametrize(
    ("changes", "edit", "expected"),
    [
        ({"cfg_text_scale": 1.0}, True, 1),  # no text guidance means no picture guidance
        ({"cfg_text_scale": 0.0}, True, 1),
        ({"cfg_text_scale": 1.01}, True, 3),
        ({"cfg_img_scale": 1.0}, True, 2),
        ({"cfg_img_scale": 0.0}, True, 2),
        ({"cfg_img_scale": 1.01}, True, 3),
        ({"cfg_img_scale": 5.0}, False, 2),  # text-to-image never has a branch without a picture
    ],
)
def test_scales_of_one_or_less_take_no_branch(changes: dict[str, Any], edit: bool, expected: int) -> None:
    assert branches(0.9, replace(REFINE_DEFAULTS, **changes), edit=edit) == expected


def test_the_interval_is_open_below_and_closed_above() -> None:
    settings = ImageSampling(cfg_interval=(0.4, 0.8))
    assert [is_guided(t, settings) for t in (0.4, 0.400001, 0.8, 0.800001)] == [False, True, True, False]


@given(image_samplings, st.booleans())
def test_times_fall_from_one_to_zero_and_no_step_takes_more_branches_than_there_are(
    settings: ImageSampling, edit: bool
) -> None:
    times = timesteps(settings.num_timesteps, settings.timestep_shift)
    assert (len(times), times[0], times[-1]) == (settings.num_timesteps, 1.0, 0.0)
    assert all(before >= after for before, after in pairwise(times))
    counts = branches_per_step(settings, edit=edit)
    assert len(counts) == settings.num_timesteps - 1
    assert set(counts) <= ({0, 1, 2, 3} if edit else {0, 1, 2})


@given(st.integers(1, 199), st.integers(0, 20))
def test_previews_are_as_many_as_asked_for_and_never_first_or_last(steps: int, previews: int) -> None:
    made = preview_steps(steps, previews)
    assert len(made) == min(previews, steps - 1)
    assert made <= set(range(1, steps))
    gaps = [after - before for before, after in pairwise(sorted(made))]
    assert not gaps or max(gaps) - min(gaps) <= 1
