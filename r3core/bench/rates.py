"""How fast tokens are decoded and pictures denoised, by how many there are at once.

All of a batch ask for the same, so that they begin and end together and the batch is whole all the while. The engine
makes no use of that: each has contexts and random numbers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from r3core.bench.driving import Driven, drive
from r3core.bench.line import Line
from r3core.bench.setting import Setting
from r3core.engine.batch import Picture
from r3core.engine.devices import AHEAD
from r3core.types import ImageSampling, Trajectory

BATCHES: Final = (1, 2, 4, 8, 16)
INSTRUCTION: Final = "Change the colour of one thing."


def measure_decode(setting: Setting, batches: tuple[int, ...] = BATCHES) -> Iterator[Line]:
    """Tokens a second of reflections on one picture, from the first token on."""
    picture = a_picture(setting)
    asked = setting.loop(kind="reflect", given_image=True, max_rounds=0)
    for batch, engine in setting.batches(*batches):
        drive(engine, [asked] * batch, [picture])
        driven = [drive(engine, [asked] * batch, [picture]) for _ in range(setting.runs)]
        work = setting.count.reflected_token(asked.request, driven[0].seen[0].texts[0], batch)
        rates = tuple(map(_tokens_a_second, driven))
        yield Line("decode", "tokens decoded", "tokens/s", rates, {"batch": batch}, work.gflop, work.gbytes)


def measure_denoise(
    setting: Setting, batches: tuple[int, ...] = BATCHES, timesteps: int | None = None
) -> Iterator[Line]:
    """Guided picture steps a second, of first pictures and of edits, which have so many `timesteps` where named."""
    picture = a_picture(setting)
    for name, asked, pictures in (
        ("text-to-image", drawing(setting, timesteps), []),
        ("edit", editing(setting, timesteps), [picture]),
    ):
        for batch, engine in setting.batches(*batches):
            drive(engine, [asked] * batch, pictures)
            driven = [drive(engine, [asked] * batch, pictures) for _ in range(setting.runs)]
            work = setting.count.guided_step(asked.request, batch)
            at: dict[str, float | str] = {"batch": batch, "phase": name}
            rates = tuple(map(_steps_a_second, driven))
            yield Line("denoise", f"{name} steps", "steps/s", rates, at, work.gflop, work.gbytes)


def _tokens_a_second(driven: Driven) -> float:
    """The first turn reads the question and gives the first token of each."""
    tokens = sum(seen.texts[0] - 1 for seen in driven.seen)
    return tokens / (driven.turns[-1] - driven.turns[0])


def _steps_a_second(driven: Driven) -> float:
    """Between the first step, whose turn computes the context, and the last, whose turn decodes the picture.

    On a device the first steps are told before they are drawn, until the host is as far ahead as it may be: from then
    on one is told when one is drawn. Where there are few steps, the last of them count all the same.
    """
    first = min(AHEAD, len(driven.seen[0].steps) - 3)
    began_s, ended_s = min(s.steps[first] for s in driven.seen), max(s.steps[-2] for s in driven.seen)
    return sum(len(s.steps) - 2 - first for s in driven.seen) / (ended_s - began_s)


def a_picture(setting: Setting) -> Picture:
    """One that the model drew, small or large."""
    return drive(setting.engine, [setting.loop(max_rounds=0, think=False)]).seen[0].pictures[0]


def drawing(setting: Setting, timesteps: int | None = None) -> Trajectory:
    """A first picture alone, guided in every step."""
    return setting.loop(max_rounds=0, think=False, generate=_guided(setting.request().generate, timesteps))


def editing(setting: Setting, timesteps: int | None = None) -> Trajectory:
    """One edit of a given picture, guided in every step."""
    refine = _guided(setting.request().refine, timesteps)
    return setting.loop(max_rounds=1, given_image=True, instruction=INSTRUCTION, refine=refine)


def _guided(settings: ImageSampling, timesteps: int | None) -> ImageSampling:
    return replace(settings, cfg_interval=(0.0, 1.0), num_timesteps=timesteps or settings.num_timesteps)
