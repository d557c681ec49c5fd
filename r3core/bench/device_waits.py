"""What happens on a CUDA device inside a denoising loop: how often the host waits for it, and how long it idles."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Final

import torch

from r3core.engine.engine import Engine
from r3core.events import Event, Failed, Progress
from r3core.types import Trajectory

_STEPS: Final = 5
TIMESTEPS: Final = _STEPS + 5  # of a picture with so many steps between its second and its last


def waits_a_step(engine: Engine, asked: Trajectory) -> float:
    """Calls that wait for the device, for each denoising step in the middle of a picture of TIMESTEPS or more; torch
    warns of them.
    """
    _to_the_second_step(engine, asked)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(_STEPS):
                _turn(engine)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    _to_the_end(engine)
    # Not any word of synchronizing: the first call of the mode warns that it is a prototype.
    return sum("called a synchronizing" in str(one.message) for one in warned) / _STEPS


def idle_share(engine: Engine, asked: Trajectory) -> float | None:
    """The part of the time in the middle of such a picture in which nothing ran on the device, by torch's profiler,
    which slows the host: where the host is what the device waits for, it idles less without. None where the profiler
    saw nothing there.
    """
    _to_the_second_step(engine, asked)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(_STEPS):
            _turn(engine)
        torch.cuda.synchronize()
    _to_the_end(engine)
    events = seen.events() or []
    spans = [(e.time_range.start, e.time_range.end) for e in events if e.device_type.name == "CUDA"]
    return idle(spans) if spans else None


def idle(spans: Iterable[tuple[float, float]]) -> float:
    """Of the time from the first start to the last end, the part that no span covers."""
    ordered = sorted(spans)
    covered, until = 0.0, ordered[0][0]
    for start, end in ordered:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - covered / (until - ordered[0][0])


def _to_the_second_step(engine: Engine, asked: Trajectory) -> None:
    engine.add("0", asked)
    steps = 0
    while steps < 2:
        steps += sum(isinstance(event, Progress) for event in _turn(engine))


def _to_the_end(engine: Engine) -> None:
    while engine.has_work:
        _turn(engine)


def _turn(engine: Engine) -> list[Event]:
    """What a turn told. Raises what a picture failed of: whoever waits for its steps would wait for ever."""
    events = [event for _, event in engine.step()]
    for event in events:
        if isinstance(event, Failed):
            raise event.error
    return events
