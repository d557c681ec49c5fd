"""The memory that was planned at start against what is taken under the fullest load that is let in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from r3core.bench.driving import drive
from r3core.bench.line import Line
from r3core.bench.setting import Setting
from r3core.config import EngineConfig
from r3core.model.image_processing import resize_to
from r3core.runtime import build
from r3core.types import Trajectory

_STATM: Final = Path("/proc/self/statm")


def measure_memory(setting: Setting) -> Iterator[Line]:
    """As many loops as there is room for, of the largest picture, each with two refinements and all that it may write.

    On CUDA what tensors took at their fullest is held against the whole plan. A CPU's allocator does not tell: there it
    is the growth of the process's resident memory with an engine that has not run yet, looked at after every turn, and
    the weights are not in it.
    """
    device = setting.runtime.loaded.model.bagel.device
    loops = 2 if setting.quick else setting.engine.max_trajectories
    asked = [fullest(setting, i) for i in range(loops)]
    at: dict[str, float | str] = {"loops": loops, "side": asked[0].request.width}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        drive(setting.engine, asked)
        taken, planned = torch.cuda.max_memory_allocated(device), _planned_bytes(setting, weights=True)
        yield Line("memory", "planned", "bytes", (planned,), at)
        yield Line("memory", "taken by tensors at the most", "bytes", (taken,), at)
    elif _STATM.exists():
        taken, planned = _growth_bytes(setting, asked), _planned_bytes(setting, weights=False)
        yield Line("memory", "planned beside the weights", "bytes", (planned,), at)
        yield Line("memory", "resident memory grew at the most by", "bytes", (taken,), at)
    else:
        setting.say("left out: memory (there is no /proc here to read it from)")
        return
    yield Line("memory", "taken over planned", "times", (taken / planned,), at)


def _planned_bytes(setting: Setting, *, weights: bool) -> int:
    plan = setting.engine.plan()
    return plan.kv_cache_bytes + plan.activation_bytes + (plan.weights_bytes if weights else 0)


def fullest(setting: Setting, index: int) -> Trajectory:
    """A loop of the largest picture that this checkpoint draws."""
    side = setting.description.latent_side * setting.description.latent_stride
    width, height = resize_to((side, side), setting.description.transforms["vae"])
    plain = setting.loop(index, max_rounds=1 if setting.quick else 2)
    return replace(plain, request=replace(plain.request, width=width, height=height))


def _growth_bytes(setting: Setting, asked: list[Trajectory]) -> int:
    runtime = setting.runtime
    config = EngineConfig(runtime.loaded.files.llm_config.parent, max_trajectories=setting.engine.max_trajectories)
    most = before = resident_bytes()
    engine = build(config, runtime.loaded, runtime.description, runtime.attention).engine
    for i, trajectory in enumerate(asked):
        engine.add(str(i), trajectory)
    while engine.has_work:
        engine.step()
        most = max(most, resident_bytes())
    return most - before


def resident_bytes() -> int:
    """What this process holds of the machine's memory now; Linux tells."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
