"""How the whole loop grows: with its rounds, with the steps of a picture, with a picture's size, and with company."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from r3core.bench.counting import Work, total
from r3core.bench.driving import Driven, drive
from r3core.bench.line import Line
from r3core.bench.setting import Setting
from r3core.engine.engine import Engine
from r3core.errors import R3Error
from r3core.model.image_processing import resize_to
from r3core.types import Trajectory

_ROUNDS: Final = (0, 1, 2, 3)
_STEPS: Final = (5, 9, 17, 33)  # timesteps; a picture takes one step less
_SIDES: Final = (0.5, 1.0, 2.0)
_BATCHES: Final = (1, 2, 4, 8)


def measure_growth(setting: Setting) -> Iterator[Line]:
    """One thing is changed at a time; all else is the checkpoint's own, with one refinement."""
    for rounds in _ROUNDS[:2] if setting.quick else _ROUNDS:
        yield from _lines(setting, "rounds", rounds, max_rounds=rounds)
    for timesteps in _STEPS[:2] if setting.quick else _STEPS:
        own = setting.request()
        drawn = replace(own.generate, num_timesteps=timesteps), replace(own.refine, num_timesteps=timesteps)
        yield from _lines(setting, "steps", timesteps - 1, generate=drawn[0], refine=drawn[1])
    for side in _sides(setting):
        yield from _lines(setting, "side", side, width=side, height=side)
    for batch, engine in setting.batches(*_BATCHES):
        asked = [setting.loop(i, max_rounds=1) for i in range(batch)]
        yield from _timed(setting, engine, asked, "batch", batch)


def _lines(setting: Setting, what: str, value: int, **changes: Any) -> Iterator[Line]:
    asked = setting.loop(**{"max_rounds": 1, **changes})
    yield from _timed(setting, setting.engine, [asked], what, value)


def _timed(setting: Setting, engine: Engine, asked: list[Trajectory], what: str, value: int) -> Iterator[Line]:
    drive(engine, asked)
    driven = [drive(engine, asked) for _ in range(setting.runs)]
    work = work_of(setting, driven[0])
    seconds = tuple(d.seconds for d in driven)
    yield Line("growth", f"whole loop by {what}", "s", seconds, {what: value}, work.gflop, work.gbytes)


def work_of(setting: Setting, driven: Driven) -> Work:
    """What all loops of a run take; each reads the weights by itself, which together they need not."""
    return total(setting.count.loop(s.trajectory, s.texts) for s in driven.seen)


def _sides(setting: Setting) -> list[int]:
    """Half the default side, itself, and twice, as far as the checkpoint draws and sees them as they are."""
    own = setting.description.default_size[0]
    return [side for side in (int(own * times) for times in _SIDES) if _is_legal(setting, side)]


def _is_legal(setting: Setting, side: int) -> bool:
    transform, stride = setting.description.transforms["vae"], setting.description.latent_stride
    if side % stride or resize_to((side, side), transform) != (side, side):
        return False
    try:
        setting.engine.check(setting.loop(max_rounds=1, width=side, height=side))
    except R3Error:
        return False
    return True
