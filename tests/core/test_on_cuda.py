"""What a CUDA device would be told, as far as it shows without one: nothing of the host among what is on the device,
the same results, and a host that waits only for what it must know. The device is pretended (tests.core.pretended_cuda).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r3core.bench import full_size
from r3core.bench.device_waits import TIMESTEPS, idle_share, waits_a_step
from r3core.bench.driving import Seen, drive
from r3core.bench.line import Ceiling
from r3core.bench.random_weights import SMALL, random_runtime, random_weights
from r3core.bench.rates import drawing
from r3core.bench.setting import Setting
from r3core.config import EngineConfig
from r3core.engine.batch import Picture
from r3core.engine.devices import device_of
from r3core.errors import DeviceError, StepFailed
from r3core.events import Event, ImageReady, Reasoned, Reflected, TextDelta
from r3core.model.attention import choose
from r3core.model.bagel import Bagel
from r3core.runtime import Runtime, load_engine
from r3core.types import Trajectory
from tests.core import pretended_cuda as pretended_module
from tests.core.pretended_cuda import CUDA, PretendedCuda, pretended_cuda

TEXTS = (TextDelta, Reasoned, Reflected)


@pytest.fixture
def cuda() -> Iterator[PretendedCuda]:
    with pretended_cuda() as pretended:
        yield pretended


def engine(checkpoint: Path, **chosen: Any) -> Runtime:
    return load_engine(EngineConfig(checkpoint, torch_threads=1, **chosen))


def setting(runtime: Runtime) -> Setting:
    return Setting(runtime, runs=1, quick=True, say=print)


def three_loops(checkpoint: Path, device: str) -> list[Seen]:
    """What comes of three at once, with scores and previews."""
    runtime = engine(checkpoint, device=device, dtype="fp32")
    scorers = ("gvu", "vqa", "lift", "verdict")
    asked = [setting(runtime).loop(max_rounds=2, seed=seed, scorers=scorers, previews=2) for seed in range(3)]
    return drive(runtime.engine, asked).seen


def test_what_a_device_draws_writes_and_judges_is_what_a_cpu_does(checkpoint: Path) -> None:
    here = three_loops(checkpoint, "cpu")
    with pretended_cuda():
        there = three_loops(checkpoint, "cuda")
    for one, other in zip(here, there, strict=True):
        assert [r.reflection for r in one.trajectory.rounds] == [r.reflection for r in other.trajectory.rounds]
        assert one.trajectory.usage == other.trajectory.usage
        assert len(one.pictures) == 3
        assert apart(one.pictures, other.pictures) <= 1
        for round_, same in zip(one.trajectory.rounds, other.trajectory.rounds, strict=True):
            assert [s.scorer for s in round_.scores] == [s.scorer for s in same.scores]
            assert [s.value for s in round_.scores] == pytest.approx([s.value for s in same.scores], abs=1e-3)


def apart(these: Sequence[Picture], those: Sequence[Picture]) -> int:
    """How far pictures are from each other at the most, of 255."""
    return max(
        int(np.abs(one.pixels.astype(int) - other.pixels).max()) for one, other in zip(these, those, strict=True)
    )


def test_attention_over_packed_lengths_sees_what_torchs_own_does(checkpoint: Path, cuda: PretendedCuda) -> None:
    runtime = engine(checkpoint, device="cuda", dtype="bf16", attention="varlen")
    assert runtime.attention.reason == "varlen passed its probe"
    plain = engine(checkpoint, device="cuda", dtype="bf16", attention="sdpa")
    asked = setting(runtime).loop(max_rounds=0, think=False)
    drawn = [
        drive(one.engine, [asked, replace(asked, request=replace(asked.request, seed=5))]) for one in (runtime, plain)
    ]
    for these, those in zip(*(driven.seen for driven in drawn), strict=True):
        assert apart(these.pictures, those.pictures) < 16  # rounded otherwise, to eight bits and more than once


def test_a_kernel_that_is_wrong_for_single_rows_is_not_chosen(
    cuda: PretendedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every token that is written alone is one, and kernels have code of its own for them."""
    flash = pretended_module._flash

    def wrong(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        out, normalizers, state = flash(*given)
        return (out * 2 if given[5] == 1 else out), normalizers, state

    assert choose(CUDA, torch.bfloat16, "varlen").reason == "varlen passed its probe"
    monkeypatch.setattr(pretended_module, "_flash", wrong)
    with pytest.raises(DeviceError, match="its probe differs from sdpa"):
        choose(CUDA, torch.bfloat16, "varlen")


def test_the_host_waits_for_nothing_but_what_it_must_know(checkpoint: Path, cuda: PretendedCuda) -> None:
    runtime = engine(checkpoint, device="cuda")
    for turn, events in turns(runtime, setting(runtime).loop(max_rounds=2), cuda):
        expected: Counter[str] = Counter()
        if any(isinstance(event, TEXTS) for event in events):
            expected["sampling.py choose"] = 1
        if any(isinstance(event, ImageReady) for event in events):
            expected["pictures.py decode"] = 1
        assert turn == expected, events
        assert events


def test_the_host_is_two_turns_ahead_of_the_device_and_no_more(checkpoint: Path, cuda: PretendedCuda) -> None:
    runtime = engine(checkpoint, device="cuda")
    asked = drawing(setting(runtime), 8)
    ahead = [len(cuda.under_way) for _ in turns(runtime, asked, cuda)]
    assert ahead == [1, 2, 2, 2, 2, 2, 2]


def test_a_device_that_is_lost_is_told_in_its_own_words(checkpoint: Path, cuda: PretendedCuda) -> None:
    runtime = engine(checkpoint, device="cuda")
    runtime.engine.add("0", drawing(setting(runtime), 8))
    runtime.engine.step()
    cuda.is_lost = True
    with pytest.raises(DeviceError, match=r"stopped answering: CUDA error: unspecified launch failure$"):
        runtime.engine.step()


def test_a_fault_that_shows_only_when_the_host_waits_is_the_devices(cuda: PretendedCuda) -> None:
    device = device_of(CUDA)
    for _ in range(2):
        device.turned()
    cuda.fails_to_wait = True
    with pytest.raises(DeviceError, match=r"stopped answering: CUDA error: unspecified launch failure$"):
        device.turned()


def test_a_device_is_asked_whether_it_still_answers(cuda: PretendedCuda) -> None:
    device = device_of(CUDA)
    assert device.answers()
    cuda.is_lost = True
    assert not device.answers()
    assert device_of(torch.device("cpu")).answers()


def turns(runtime: Runtime, asked: Trajectory, cuda: PretendedCuda) -> Iterator[tuple[Counter[str], list[Event]]]:
    """The waits and the events of each turn."""
    runtime.engine.add("0", asked)
    while runtime.engine.has_work:
        cuda.waits.clear()
        events = [event for _, event in runtime.engine.step()]
        yield Counter(cuda.waits), events


def test_the_bench_counts_the_waits_in_the_middle_of_a_picture(checkpoint: Path, cuda: PretendedCuda) -> None:
    runtime = random_runtime(random_weights(SMALL, checkpoint, CUDA, torch.float32), 64, 1)
    asked = drawing(setting(runtime), TIMESTEPS)
    assert waits_a_step(runtime.engine, asked) == 0
    assert idle_share(runtime.engine, asked) is None  # nothing is seen of a device
    assert not runtime.engine.has_work
    step = runtime.engine.step

    def and_read() -> list[tuple[str, Event]]:
        told = step()
        runtime.loaded.model.bagel.vae2llm.weight.sum().item()
        return told

    runtime.engine.step = and_read  # type: ignore[method-assign]
    assert waits_a_step(runtime.engine, asked) == 1


def test_a_picture_that_fails_is_waited_for_by_nobody(
    checkpoint: Path, cuda: PretendedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = random_runtime(random_weights(SMALL, checkpoint, CUDA, torch.float32), 64, 1)
    velocity, left = Bagel.velocity, Counter[str]()

    def fails_at_last(self: Bagel, hidden: Tensor) -> Tensor:
        left["calls"] -= 1
        if left["calls"] < 0:
            raise RuntimeError("no kernel image")
        return velocity(self, hidden)

    monkeypatch.setattr(Bagel, "velocity", fails_at_last)
    for measured, calls in ((waits_a_step, 0), (idle_share, 0), (waits_a_step, 4), (waits_a_step, 8)):
        left["calls"] = calls
        with pytest.raises(StepFailed, match="no kernel image"):
            measured(runtime.engine, drawing(setting(runtime), TIMESTEPS))
        assert not runtime.engine.has_work


def test_the_harness_says_where_a_part_failed(
    checkpoint: Path, cuda: PretendedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_here(self: Bagel, hidden: Tensor) -> Tensor:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(Bagel, "velocity", fails_here)
    runtime = random_runtime(random_weights(SMALL, checkpoint, CUDA, torch.bfloat16), 64, 1)
    budget, said = full_size.Budget(3600, time.perf_counter()), list[str]()
    assert list(full_size.FullSize(runtime, full_size.TRIAL, Ceiling(100, 10), said.append).measure(budget)) == []
    assert budget.left_out == [
        "failed: the first loop, without which nothing else is tried: StepFailed: RuntimeError: no kernel image"
    ]
    assert "in fails_here" in said[-1]


@pytest.mark.timeout(600)
def test_the_harness_for_a_gpu_finds_its_way(checkpoint: Path, cuda: PretendedCuda) -> None:
    """All its parts, for the first minutes on a GPU are dear."""
    sizes = full_size.TRIAL
    runtime = random_runtime(random_weights(SMALL, checkpoint, CUDA, torch.bfloat16), sizes.side, sizes.loops)
    budget = full_size.Budget(3600, time.perf_counter())
    lines = list(full_size.FullSize(runtime, sizes, Ceiling(100, 10), print).measure(budget))
    assert budget.left_out == []
    assert {line.part for line in lines} == {"pictures", "device", "decode", "choosing", "loops", "memory", "denoise"}
    assert [line.values for line in lines if line.part == "device"] == [(0,)]


# --- the device itself


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here,
        lambda there, here: torch.cat((there, here)),
        torch.nn.functional.linear,
        lambda there, here: here[there.long()],
        lambda there, here: there.numpy(),
        lambda there, here: there.to("cpu", non_blocking=True),
    ],
)
def test_a_mixture_of_host_and_device_is_refused(mixed: object, cuda: PretendedCuda) -> None:
    there = torch.zeros(2, 2, device=CUDA)
    assert callable(mixed)
    with pytest.raises((RuntimeError, TypeError), match=r"same device|can't convert cuda:0|before it is there"):
        mixed(there, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("act", "waits"),
    [
        (lambda there: there * 2 + 1, 0),
        (lambda there: there[torch.zeros(1, dtype=torch.long, device=CUDA)], 0),
        (lambda there: torch.ones(2).pin_memory().to(CUDA, non_blocking=True), 0),
        (lambda there: there.to(torch.bfloat16), 0),
        (lambda there: torch.ones(2).to(CUDA), 1),
        (lambda there: torch.ones(2).pin_memory().to(CUDA), 1),
        (lambda there: there.cpu(), 1),
        (lambda there: there.sum().item(), 1),
        (lambda there: float(there.sum()), 1),
        (lambda there: bool(there.sum() > 0), 1),
        (lambda there: there.tolist(), 1),
        (lambda there: there[there > 0], 1),
        (lambda there: there[[0, 1]], 1),
        (lambda there: there[torch.zeros(1, dtype=torch.long)], 1),
        (lambda there: there.copy_(torch.ones(2)), 1),
        (lambda there: there.nonzero(), 1),
        (lambda there: torch.where(there > 0), 1),
        (lambda there: torch.is_nonzero(there[0]), 1),
        (lambda there: 1.0 in there, 1),
        (repr, 1),
        (lambda there: torch.repeat_interleave(there, torch.ones(2, dtype=torch.long, device=CUDA)), 1),
        (lambda there: torch.tensor([1.0, 2.0], device=CUDA), 1),
        (lambda there: torch.as_tensor([1.0, 2.0], device=CUDA), 1),
        (lambda there: there.new_tensor([1.0, 2.0]), 1),
        (lambda there: torch.cuda.synchronize(), 1),
    ],
)
def test_what_a_host_waits_for_is_counted(act: object, waits: int, cuda: PretendedCuda) -> None:
    there = torch.ones(2, device=CUDA)
    assert callable(act)
    act(there)
    assert cuda.waits.total() == waits


def test_what_is_done_in_place_is_done_to_the_tensor(cuda: PretendedCuda) -> None:
    there = torch.zeros(3, device=CUDA)
    assert there.add_(1) is there
    there[1] = 5
    there[2:].copy_(there[:1] + 1)
    assert there.device == CUDA
    here: Tensor = there.cpu()
    assert here.device.type == "cpu"
    assert here.tolist() == [1, 5, 2]
