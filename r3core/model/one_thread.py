"""What is computed by one thread, so that their number shows in no result.

torch shares a tensor out over its threads and computes the last elements of each share, those that fill no vector, by
another formula than the rest; with an exponential in it the two differ in their last digits. It adds up a group of
channels that lie last in as many parts as it has threads. Attention of few rows differs where MKL's products of few
rows do, as on an AMD EPYC of 2024. Sums and products of elements, attention of more rows, and oneDNN's products and
convolutions in float32 came out the same with up to four threads, of the shapes of checkpoints/small.
Others need not: convolutions of 96 and 128 channels over 12 x 12 differ by 2e-6 at the most; and with ten threads and
more, oneDNN parts a few long sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

_SHARED_OUT: Final = 32_768  # elements; torch shares out nothing smaller
_FEW: Final = 4  # rows of a head, below which its products differ
_PART: Final = 32  # rows of a head that torch never parts: where nothing else is parted, MKL has the threads


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one; afterwards the calling thread has as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def silu(x: Tensor) -> Tensor:
    """torch's own, of any shape."""
    if x.device.type != "cpu" or x.numel() <= _SHARED_OUT:
        return nn.functional.silu(x)
    with one_thread():
        return nn.functional.silu(x)


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """torch's attention: q [B, H, rows, D], k and v [B, H, keys, D], a mask to be added -> [B, H, rows, D].

    What few rows lose by it on two cores: 32 pieces of three rows over 500 keys took 0.42 ms in place of 0.27.
    """
    pieces, heads, rows, _ = q.shape
    is_one_part = pieces * heads == 1 and rows <= _PART
    if (rows < _FEW or is_one_part) and q.device.type == "cpu" and torch.get_num_threads() > 1:
        with one_thread():
            return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def of_one_thread(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Let the modules of a CPU's model that are of these kinds compute so."""
    for module in model.modules():
        if isinstance(module, kinds):
            module.forward = one_thread()(module.forward)
