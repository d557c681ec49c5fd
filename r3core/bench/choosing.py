"""What choosing tokens by their logits takes: of this model's vocabulary and of R3's, all rows at once as the engine
does and one row after another. A model is sure of most of its tokens, and here of three in four.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Final

import torch
from torch import Tensor

from r3core.bench.line import Line
from r3core.bench.random_weights import TRUE_SIZE
from r3core.bench.setting import Setting
from r3core.model.sampling import Choice, choose
from r3core.types import TextSampling

ROWS: Final = (1, 8, 32)
_TIMES: Final = 5  # in a run
_SURE: Final = 60.0


def measure_choosing(setting: Setting) -> Iterator[Line]:
    """Milliseconds for so many rows with the default sampling, the ids on the host at the end."""
    bagel = setting.runtime.loaded.model.bagel
    for vocabulary, rows in product(dict.fromkeys((bagel.config.decoder.vocab, TRUE_SIZE.decoder.vocab)), ROWS):
        logits = _logits(rows, vocabulary).to(bagel.device)
        choices = [Choice(TextSampling(), (row + 0.5) / rows) for row in range(rows)]
        ways: dict[str, Callable[[], object]] = {"at once": lambda: choose(logits, choices)}  # noqa: B023 - called here
        if rows > 1:
            ways["one after another"] = lambda: [choose(logits[i : i + 1], [c]) for i, c in enumerate(choices)]  # noqa: B023
        took: dict[str, list[float]] = {name: [] for name in ways}
        for run in range(setting.runs + 1):
            for name, way in ways.items():
                began_s = time.perf_counter()
                with torch.inference_mode():
                    for _ in range(_TIMES):
                        way()
                if run:
                    took[name].append(1000 * (time.perf_counter() - began_s) / _TIMES)
        for name, own in took.items():
            yield Line("choosing", f"tokens, {name}", "ms", tuple(own), {"rows": rows, "vocabulary": vocabulary})


def _logits(rows: int, vocabulary: int) -> Tensor:
    """The same every time."""
    logits = 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))
    for row in range(rows):
        if row % 4 < 3:
            logits[row, row % vocabulary] = _SURE
    return logits
