"""What the tests of the measures share: an engine of random weights, which is quick, and the small model's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from r3core.bench.random_weights import SMALL, random_runtime, random_weights
from r3core.config import EngineConfig
from r3core.runtime import Runtime, load_engine

PROJECT = Path(__file__).resolve().parents[3]
SMALL_CHECKPOINT = PROJECT / "checkpoints" / "small"


@pytest.fixture(scope="session")
def random_engine(checkpoint: Path) -> Runtime:
    """Random weights and pictures of 64 pixels; texts go on to their limit."""
    return random_runtime(random_weights(SMALL, checkpoint, torch.device("cpu"), torch.float32), 64, 8)


@pytest.fixture(scope="session")
def small_engine() -> Runtime:
    """The trained model of coloured shapes."""
    if not (SMALL_CHECKPOINT / "ema.safetensors").is_file():
        pytest.skip("checkpoints/small is not trained yet: make train-small")
    return load_engine(EngineConfig(SMALL_CHECKPOINT))
