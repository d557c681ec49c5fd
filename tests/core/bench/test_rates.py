"""Rates are of what the device did, however far ahead of it the host is."""

from __future__ import annotations

import pytest

from r3core.bench.driving import Driven, Seen
from r3core.bench.rates import _steps_a_second
from r3core.engine.devices import AHEAD


def told(steps: int, ahead: int) -> Driven:
    """A picture whose steps take the device a second each and the host nothing, told by a host that is so far ahead."""
    ended = [max(0.0, step + 1.0 - ahead) for step in range(steps)]
    ended[-1] = float(steps)  # the picture is waited for
    return Driven([Seen(0.0, steps=ended)], ended, [])


@pytest.mark.parametrize("ahead", [0, AHEAD])
@pytest.mark.parametrize("steps", [7, 20, 49])
def test_a_step_a_second_is_a_step_a_second(steps: int, ahead: int) -> None:
    assert _steps_a_second(told(steps, ahead)) == 1.0


def test_a_picture_of_few_steps_has_a_rate() -> None:
    assert _steps_a_second(told(3, 0)) == 1.0
