"""What the core tests share: the golden checkpoint, loaded once, and the reference's recorded numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from r3core.checkpoint import Description, describe
from r3core.config import EngineConfig
from r3core.model.attention import choose
from r3core.model.tokenizer import Tokenizer
from r3core.model.weights import Loaded, load
from r3core.runtime import Runtime, build, set_up_torch

PROJECT = Path(__file__).resolve().parents[2]
MakeRuntime = Callable[..., Runtime]


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The small checkpoint that comes with the source tree."""
    return PROJECT / "tests" / "golden" / "checkpoint"


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """What the reference recorded: settings, texts and decisions."""
    recorded: dict[str, Any] = json.loads((PROJECT / "tests" / "golden" / "golden.json").read_text(encoding="utf-8"))
    return recorded


@pytest.fixture(scope="session")
def golden_tensors() -> dict[str, Tensor]:
    """What the reference recorded: numbers."""
    return load_file(PROJECT / "tests" / "golden" / "golden.safetensors")


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer(checkpoint / "tokenizer.json")


@pytest.fixture(scope="session")
def description(checkpoint: Path) -> Description:
    return describe(checkpoint)


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> Loaded:
    set_up_torch(EngineConfig(checkpoint))
    return load(checkpoint, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def make_runtime(checkpoint: Path, loaded: Loaded, description: Description) -> MakeRuntime:
    """A new engine around the loaded weights; keywords are fields of EngineConfig."""
    attention = choose(torch.device("cpu"), torch.float32)

    def make(**config: Any) -> Runtime:
        return build(EngineConfig(checkpoint, **config), loaded, description, attention)

    return make
