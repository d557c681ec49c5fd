"""From logits to the next tokens, and every random draw of a trajectory (r3-model: section 7; api.md, Seeds).

A draw comes from a key: SHA-256 of "seed|round|stage|try" seeds a Philox generator on the CPU, so nothing depends on
who shares the batch. Of several pictures of one step the first has that key, and each other its number after it.

Tokens are chosen where the logits are, for all rows of a forward at once: what leaves the device is an id a row.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import torch
from torch import Tensor

from r3core.model.placing import to_device
from r3core.types import TextSampling

_MAX_CANDIDATES: Final = 1000
_FEW: Final = 32  # of them, which mostly hold all that top_p leaves
_AT_ONCE: Final = 2**22  # logits that are weighed at once, each of which takes so many
_BYTES: Final = 96  # where all of them are sorted on a device
NOT_A_NUMBER: Final = -1  # instead of an id, where the best of a row's logits is none that can be reckoned with


def generator(seed: int, round_: int, stage: str, attempt: int = 0, candidate: int = 0) -> np.random.Generator:
    """The generator of one stage's draws."""
    key = f"{seed}|{round_}|{stage}|{attempt}" + (f"|{candidate}" if candidate else "")
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def noise(source: np.random.Generator, tokens: int, channels: int) -> Tensor:
    """Initial noise [tokens, channels] in token order, float32 values rounded to bf16 as the reference's are."""
    values = torch.from_numpy(source.standard_normal((tokens, channels), dtype=np.float32))
    return values.to(torch.bfloat16).float()


class Uniforms:
    """A generator's numbers in [0, 1), in their order, which may be looked at before they are taken."""

    def __init__(self, source: np.random.Generator) -> None:
        self._source = source
        self._ahead: deque[float] = deque()

    def next(self, count: int) -> list[float]:
        """The next so many; they stay the next ones."""
        while len(self._ahead) < count:
            self._ahead.append(float(self._source.random()))
        return list(islice(self._ahead, count))

    def take(self) -> None:
        """The next one is used."""
        self.next(1)
        self._ahead.popleft()


@dataclass(frozen=True)
class Choice:
    """How an id is chosen by a row of logits: at `uniform` in [0, 1) of the cumulative distribution, best first.

    Temperature 0 is the largest logit, and of equal ones the lowest id.
    """

    sampling: TextSampling
    uniform: float = 0.0


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    """The id chosen by each row of float32 logits [n, V], or NOT_A_NUMBER; one copy to the host, which waits for it."""
    assert len(choices) == logits.shape[0], f"{len(choices)} choices by {logits.shape[0]} rows"
    rows = _rows_at_once(logits.shape[-1])
    chosen = [_ids(part, choices[i * rows : (i + 1) * rows]) for i, part in enumerate(torch.split(logits, rows))]
    ids: list[int] = torch.cat(chosen).tolist()
    return ids


def choosing_bytes(vocabulary: int, rows: int) -> int:
    """The most that choosing ids by so many rows of logits holds beside them."""
    return min(rows, _rows_at_once(vocabulary)) * vocabulary * _BYTES


def candidates(logits: Tensor, sampling: Sequence[TextSampling]) -> tuple[Tensor, Tensor]:
    """(ids [n, k], their probabilities [n, k] in float64), best first, for float32 logits [n, V] and temperatures
    above 0 that weigh equally many.

    top_p < 1 takes precedence and ignores top_k: of the best 1000 ids, measured on the FULL vocabulary, every one stays
    whose predecessors' mass has not passed top_p, and the others have 0. Else top_k, else all.
    """
    (way,) = {_way(own, logits.shape[-1]) for own in sampling}
    ids, mass = _weighed(logits, sampling, *way)
    return ids, mass / mass.sum(-1, keepdim=True)


def _rows_at_once(vocabulary: int) -> int:
    return max(1, _AT_ONCE // vocabulary)


def _ids(logits: Tensor, choices: Sequence[Choice]) -> Tensor:
    """The ids [n] that rows of logits [n, V] choose."""
    best = logits.max(-1)
    ids = best.indices
    ways: dict[tuple[int, bool], list[int]] = {}
    for row in _open(logits, choices, best.values):
        ways.setdefault(_way(choices[row].sampling, logits.shape[-1]), []).append(row)
    for way, rows in ways.items():
        at = to_device(np.array(rows), logits.device)
        ids[at] = _drawn(logits[at], [choices[row] for row in rows], *way)
    return torch.where(best.values.isfinite(), ids, NOT_A_NUMBER)


def _way(sampling: TextSampling, vocabulary: int) -> tuple[int, bool]:
    """How many ids are weighed, and whether top_p leaves some of them out."""
    if sampling.top_p < 1:
        return min(_MAX_CANDIDATES, vocabulary), True
    return (min(sampling.top_k, vocabulary) if sampling.top_k > 0 else vocabulary), False


def _open(logits: Tensor, choices: Sequence[Choice], best: Tensor) -> list[int]:
    """The rows that may come to another id than the best. Where the host need not wait for the answer, those whose best
    id passes top_p by itself are not among them, and they are most.
    """
    rows = [row for row, choice in enumerate(choices) if choice.sampling.temperature]
    with_top_p = [row for row in rows if choices[row].sampling.top_p < 1]
    if not with_top_p or _waits(logits.device):
        return rows
    if len(with_top_p) < len(choices):
        logits, best = logits[with_top_p], best[with_top_p]
    passes = _most(logits, [choices[row].sampling for row in with_top_p], best[:, None])[:, 0] < 1
    sure = {row for row, is_sure in zip(with_top_p, passes.tolist(), strict=True) if is_sure}
    return [row for row in rows if row not in sure]


def _waits(device: torch.device) -> bool:
    """Whether to ask the device for what it computed is to wait for it."""
    return device.type != "cpu"


def _drawn(logits: Tensor, choices: Sequence[Choice], count: int, has_top_p: bool) -> Tensor:
    """The ids [n] of rows where as many are weighed."""
    ids, mass = _weighed(logits, [choice.sampling for choice in choices], count, has_top_p)
    until = mass.cumsum(-1)
    uniforms = _column([choice.uniform for choice in choices], logits.device)
    index = torch.searchsorted(until, uniforms * until[:, -1:], right=True)
    # Rounding may carry a draw past the last that has any mass.
    last = (mass > 0).sum(-1, keepdim=True) - 1
    return ids.gather(-1, torch.minimum(index, last).clamp_(min=0))[:, 0]


def _weighed(
    logits: Tensor,
    sampling: Sequence[TextSampling],
    count: int,
    has_top_p: bool,
) -> tuple[Tensor, Tensor]:
    """The best ids [n, k] and what each weighs beside the best, float64, 0 where it is left out; k is `count`, or less
    where no more have any.
    """
    temperatures = _column([own.temperature for own in sampling], logits.device)
    most = _most(logits, sampling, logits.amax(-1, keepdim=True)) if has_top_p else None
    few = _FEW if has_top_p and count > _FEW and not _waits(logits.device) else count
    while True:
        ids = _best(logits, few)
        values = logits.gather(-1, ids).double()
        mass = ((values - values[:, :1]) / temperatures).exp_()
        if most is None:
            return ids, mass
        until = mass.cumsum(-1)
        if few == count or bool((until[:, -1:] > most).all()):
            return ids, mass.masked_fill_((until - mass) > most, 0)
        few = count


def _most(logits: Tensor, sampling: Sequence[TextSampling], best: Tensor) -> Tensor:
    """What may come before an id [n, 1], where the best [n, 1] weighs 1: top_p of the whole vocabulary.

    In float64, so that the order of a sum, which the number of rows may change, decides nothing.
    """
    temperatures = _column([own.temperature for own in sampling], logits.device)
    whole = logits.double().sub_(best).div_(temperatures).exp_().sum(-1, keepdim=True)
    return whole.mul_(_column([own.top_p for own in sampling], logits.device))


def _best(logits: Tensor, count: int) -> Tensor:
    """The ids [n, count] of the largest logits, best first, and of equal ones the lowest first.

    Half of a 16-bit model's best ids are equal to another, and in which order topk gives them nobody says. So it is
    asked for the largest of numbers that are all different: the bits of the logit, as far as they order it, and below
    them the id.
    """
    bits = (logits + 0.0).view(torch.int32)  # -0.0 is 0.0 now
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = bits.long().bitwise_left_shift_(32).sub_(torch.arange(logits.shape[-1], device=logits.device))
    return keys.topk(count).values.neg_().bitwise_and_(0xFFFFFFFF)


def _column(numbers: Sequence[float], device: torch.device) -> Tensor:
    """[n, 1], float64."""
    return to_device(np.array(numbers, dtype=np.float64)[:, None], device)
