"""What the tests of the measures share: an engine of random weights, which is quick, and the small model's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from r3core.bench.random_weights import SMALL, random_runtime, random_weights
from r3core.config import EngineConfig
from r3core.runtime import Runtime, load_engine

PROJECT = Path(__file__).resolve().parents[3]
SMALL_CHECKPOINT = PROJECT / "checkpoints" / "small"


@contextmanager
def one_thread() -> Iterator[None]:
    """Tests run beside each other, and two threads that wait for each other take five times as long then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The straightforward ways compute with as many threads as torch has."""
    with one_thread():
        yield


@pytest.fixture(scope="session")
def random_engine(checkpoint: Path) -> Runtime:
    """Random weights and pictures of 64 pixels; texts go on to their limit."""
    with one_thread():
        return random_runtime(random_weights(SMALL, checkpoint, torch.device("cpu"), torch.float32), 64, 8)


@pytest.fixture(scope="session")
def small_engine() -> Runtime:
    """The trained model of coloured shapes."""
    with one_thread():
        return load_engine(EngineConfig(SMALL_CHECKPOINT, torch_threads=1))
