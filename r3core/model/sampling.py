"""From logits to the next token, and every random draw of a trajectory (r3-model: section 7; api.md, Seeds).

A draw comes from a key: SHA-256 of "seed|round|stage|try" seeds a Philox generator on the CPU, so nothing depends on
who shares the batch. Of several pictures of one step the first has that key, and each other its number after it.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import torch
from torch import Tensor

from r3core.types import TextSampling

_MAX_CANDIDATES: Final = 1000


def generator(seed: int, round_: int, stage: str, attempt: int = 0, candidate: int = 0) -> np.random.Generator:
    """The generator of one stage's draws."""
    key = f"{seed}|{round_}|{stage}|{attempt}" + (f"|{candidate}" if candidate else "")
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def noise(source: np.random.Generator, tokens: int, channels: int) -> Tensor:
    """Initial noise [tokens, channels] in token order, float32 values rounded to bf16 as the reference's are."""
    values = torch.from_numpy(source.standard_normal((tokens, channels), dtype=np.float32))
    return values.to(torch.bfloat16).float()


def probabilities(logits: Tensor, sampling: TextSampling) -> tuple[Tensor, Tensor]:
    """(candidate ids, their probabilities), best first, for logits [V] and a temperature above 0.

    top_p < 1 takes precedence and ignores top_k: of the best 1000 ids, measured on the FULL vocabulary, every one stays
    whose predecessors' mass has not passed top_p. Else top_k, else all.
    """
    scaled = logits.double() / sampling.temperature
    if sampling.top_p < 1:
        best, ids = scaled.topk(min(_MAX_CANDIDATES, scaled.shape[0]))
        mass = (best - torch.logsumexp(scaled, dim=0)).exp()
        keep = (mass.cumsum(0) - mass) <= sampling.top_p
        keep[0] = True
        best, ids = best[keep], ids[keep]
    else:
        count = min(sampling.top_k, scaled.shape[0]) if sampling.top_k > 0 else scaled.shape[0]
        best, ids = scaled.topk(count)
    return ids, best.softmax(0)


def sample(logits: Tensor, sampling: TextSampling, uniform: float) -> int:
    """The id of logits [V] at `uniform` in [0, 1) of the cumulative distribution, best first; temperature 0 is
    argmax.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    ids, mass = probabilities(logits.float(), sampling)
    index = int(torch.searchsorted(mass.cumsum(0), uniform, right=True))
    return int(ids[min(index, ids.shape[0] - 1)])
