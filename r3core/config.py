"""How the engine is set up: one frozen object, decided before the first request. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

AttentionWanted = Literal["auto", "xformers", "varlen", "sdpa"]


@dataclass(frozen=True)
class EngineConfig:
    """Where the weights are and what they may take.

    `device` is "cuda", "cuda:1", "cpu" or None (CUDA where there is one); `dtype` None is bf16 on CUDA and fp32 on a
    CPU. `kv_cache_bytes` None plans the cache from `max_trajectories`. `max_batch_rows` bounds the tokens of one packed
    forward and so its activations, and less does where memory is short; a single trajectory may exceed it alone.
    `torch_threads` None is what OMP_NUM_THREADS says, or one for each usable core; on a CPU forwards take fewer where
    they are small or the cores wanted (r3core.engine.threads), and one more thread decodes pictures beside them where
    there are two cores. `similarity_models` are (name, folder) of models that compare pictures after a round trip
    (r3core.similarity).
    """

    checkpoint: Path
    base_checkpoint: Path | None = None
    device: str | None = None
    dtype: Literal["bf16", "fp32"] | None = None
    attention: AttentionWanted = "auto"
    allow_unexpected: bool = False
    max_trajectories: int = 8
    kv_cache_bytes: int | None = None
    max_batch_rows: int = 32768
    torch_threads: int | None = None
    similarity_models: tuple[tuple[str, Path], ...] = ()
