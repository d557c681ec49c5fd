"""When a denoising step is guided, and by how many branches: pure arithmetic on a request's settings. No torch.

N timesteps are N points from 1 to 0, so N-1 Euler steps; t is then shifted, and guidance is on where lo < t <= hi,
tested on the shifted t (r3-model: section 6; the reference's modeling/bagel/bagel.py:generate_image).
"""

from __future__ import annotations

import numpy as np

from r3core.types import ImageSampling


def timesteps(num_timesteps: int, shift: float) -> list[float]:
    """The N shifted times from 1 down to 0, in the float32 arithmetic of the reference.

    The first is set to 1: a shift near 0 divides rounding errors by each other there.
    """
    count = num_timesteps
    linear = _linspace_down(count)
    s = np.float32(shift)
    later = linear[1:]
    shifted = s * later / (np.float32(1) + (s - np.float32(1)) * later)
    return [1.0, *(float(t) for t in shifted)]


def _linspace_down(count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """1 … 0 in `count` float32 points, each half counted from its own end, as torch.linspace does."""
    step = np.float64(np.float32(-1.0) / np.float32(count - 1))
    index = np.arange(count)
    from_start, from_end = 1.0 + step * index, -step * (count - 1 - index)  # rounded once, as a fused multiply-add
    return np.where(index < count // 2, from_start, from_end).astype(np.float32)


def is_guided(t: float, settings: ImageSampling) -> bool:
    """Whether guidance is on at the shifted time t."""
    low, high = (np.float32(bound) for bound in settings.cfg_interval)  # the reference compares in float32
    return bool(low < np.float32(t) <= high)


def branches(t: float, settings: ImageSampling, *, edit: bool) -> int:
    """Forward passes at time t: 1 without guidance, 2 with the text's, 3 with the picture's too.

    A text scale of 1 or less switches the picture's guidance off as well (r3-model: trap 8), and only an edit has one.
    """
    if not is_guided(t, settings) or settings.cfg_text_scale <= 1:
        return 1
    return 3 if edit and settings.cfg_img_scale > 1 else 2


def branches_per_step(settings: ImageSampling, *, edit: bool) -> list[int]:
    """The branch count of each of the N-1 steps: 90 in all for a first picture and 131 for an edit at R3's settings.

    With a step cache it is 0 where nothing is computed. That is never the last step, and only where the last two that
    are computed have all branches of the step: from them theirs go on.
    """
    times = timesteps(settings.num_timesteps, settings.timestep_shift)[:-1]
    found: list[int] = []
    known, age = (0, 0), 0  # branches of the last two computed steps, and steps since
    for i, t in enumerate(times):
        count = branches(t, settings, edit=edit)
        age += 1
        if i + 1 == len(times) or count > min(known) or age >= settings.step_cache:
            known, age = (known[1], count), 0
            found.append(count)
        else:
            found.append(0)
    return found


def preview_steps(steps: int, previews: int) -> frozenset[int]:
    """After which of `steps` steps a preview is made: `previews` of them, evenly spaced, never after the last."""
    return frozenset(round(steps * (i + 1) / (previews + 1)) for i in range(previews)) - {0, steps}
