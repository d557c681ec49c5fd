"""What the engine says it took: every token, denoising step and branch once, and nothing for what failed."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from r3core.engine.batch import Took
from r3core.engine.engine import Engine
from r3core.engine.stopwatch import REMEMBERED, Stopwatch
from r3core.events import Finished
from r3core.fake import FakeRunner
from r3core.types import ImageSampling, Request, Trajectory, Usage

FEW_STEPS = ImageSampling(num_timesteps=5)
ASKED = Request("a cat edits=1", 64, 48, seed=1, generate=FEW_STEPS, refine=FEW_STEPS)


def run(engine: Engine) -> tuple[list[Took], Usage]:
    """Everything that was said to be taken, and what the finished trajectories say they used."""
    took: list[Took] = []
    used = Usage()
    while engine.has_work:
        for _, event in engine.step():
            if isinstance(event, Finished):
                used += event.trajectory.usage
        took += engine.took()
    return took, used


def test_what_was_taken_adds_up_to_what_the_trajectories_used() -> None:
    engine = Engine(FakeRunner())
    engine.add("a", Trajectory(ASKED, 0))
    engine.add("b", Trajectory(ASKED, 1))
    took, used = run(engine)
    sizes: Counter[str] = Counter()
    for one in took:
        sizes[one.part] += one.size
    assert (sizes["text"], sizes["denoise"]) == (used.text_tokens, used.denoise_steps)
    assert sum(one.branches for one in took) == used.forwards
    assert sizes["decode"] == 4  # two trajectories of two pictures
    assert max(one.size for one in took if one.part == "denoise") == 2  # they share their forwards


def test_a_forward_takes_as_long_as_it_takes() -> None:
    engine = Engine(FakeRunner(step_s=0.01))
    engine.add("a", Trajectory(ASKED, 0))
    took, _ = run(engine)
    assert all(one.seconds >= 0.01 for one in took if one.part != "decode")


def test_a_forward_takes_what_its_pace_says_of_part_company_and_branches() -> None:
    asked: list[tuple[str, int, int]] = []

    def pace(part: str, size: int, branches: int) -> float:
        asked.append((part, size, branches))
        return 0.02 if part == "denoise" else 0.0

    engine = Engine(FakeRunner(pace=pace))
    engine.add("a", Trajectory(ASKED, 0))
    engine.add("b", Trajectory(ASKED, 1))
    took, _ = run(engine)
    forwards = [one for one in took if one.part != "decode"]
    assert asked == [(one.part, one.size, one.branches) for one in forwards]
    assert max(size for _, size, _ in asked) == 2
    assert all(one.seconds >= 0.02 for one in forwards if one.part == "denoise")


def test_what_is_asked_is_told_once_and_what_nobody_asks_for_is_forgotten() -> None:
    watch = Stopwatch()
    for _ in range(2 * REMEMBERED):
        with watch.timing("text", 1):
            pass
    assert len(watch.took()) == REMEMBERED
    assert watch.took() == []


def test_what_raises_is_not_counted() -> None:
    watch = Stopwatch()
    with pytest.raises(RuntimeError, match="no"), watch.timing("denoise", 1, 2):
        raise RuntimeError("no")
    assert watch.took() == []


def test_the_cache_that_is_held_is_given_back_at_the_end() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    assert engine.kv_cache_used_bytes == 0
    engine.add("a", Trajectory(ASKED, 0))
    engine.step()
    assert engine._scheduler.rows_held == 100  # what the fake asks for a step
    run(engine)
    assert engine._scheduler.rows_held == 0


@pytest.mark.gpu
def test_a_devices_own_clock_measures_what_the_host_does_not_wait_for() -> None:
    import torch

    from r3core.engine.device_stopwatch import DeviceStopwatch

    device = torch.device("cuda")
    a = torch.ones(8192, 8192, device=device)
    torch.cuda.synchronize()
    watch = DeviceStopwatch(device)
    began_s = time.perf_counter()
    with watch.timing("denoise", 3, 5):
        for _ in range(50):
            a = a @ a
    launched_s = time.perf_counter() - began_s
    torch.cuda.synchronize()
    (took,) = watch.took()
    assert (took.part, took.size, took.branches) == ("denoise", 3, 5)
    assert took.seconds > launched_s
