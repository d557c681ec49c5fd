"""What is decided before the first request: threads, and what memory may be taken."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r3core import cores as cores_
from r3core.checkpoint import DEFAULT_TRANSFORMS, Description, Transform
from r3core.config import EngineConfig
from r3core.cores import usable_cores
from r3core.engine.batch import MemoryPlan
from r3core.engine.drafting import MOST_ROWS
from r3core.model.weights import Loaded
from r3core.runtime import plan_memory

FLUX = (128, 256, 512, 512)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is no affinity to ask for")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, 6), ("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 6), ("?", 6)],
)
def test_cores_are_those_that_the_process_may_use(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores_, "_CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores() == cores


def planned(
    loaded: Loaded, description: Description, transform: Transform = DEFAULT_TRANSFORMS["vae"], places: int = 8
) -> MemoryPlan:
    """The plan of the small checkpoint with the VAE that BAGEL has."""
    model = replace(loaded.model.config, vae=replace(loaded.model.config.vae, channels=FLUX))
    described = replace(description, transforms={**description.transforms, "vae": transform})
    return plan_memory(
        EngineConfig(Path("here"), max_trajectories=places), model, described, "cpu", torch.float32, weights_bytes=0
    )


def test_the_plan_counts_the_decoding_of_the_largest_picture(loaded: Loaded, description: Description) -> None:
    large = planned(loaded, description, (512, 256, 16)).activation_bytes
    small = planned(loaded, description, (256, 256, 16)).activation_bytes
    widest = 256 * 512 * 512 * 4  # channels at full resolution, before the last block halves them
    assert large - small == 4 * (widest - widest // 4)


def test_the_plan_counts_the_logits_of_every_text_that_is_written(loaded: Loaded, description: Description) -> None:
    row = loaded.model.config.decoder.vocab * 8
    more = planned(loaded, description, places=MOST_ROWS + 100).activation_bytes
    assert more - planned(loaded, description, places=MOST_ROWS).activation_bytes == 100 * row
    # Few texts have drafts, whose logits are as many as those of many texts.
    assert planned(loaded, description).activation_bytes == planned(loaded, description, places=1).activation_bytes


def test_the_small_checkpoints_plan_stays_small(loaded: Loaded, description: Description) -> None:
    plan = plan_memory(EngineConfig(Path("here")), loaded.model.config, description, "cpu", torch.float32, 0)
    assert plan.activation_bytes < 2**28
