"""Rows times a weight matrix, the quickest way that this machine has.

A CPU's matrix products come from two libraries. torch's default one (MKL) leaves the widest instructions of processors
that are not its maker's unused; oneDNN uses them, and takes its weights laid out ahead of time. Both compute in the
weights' dtype. torch reaches oneDNN's product through an operator that its own compiler calls, so a probe says whether
it is there and agrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

MOST_BYTES: Final = 2**30  # weights beyond that are not held twice
_ROWS: Final = 32  # what the layout is made for; other numbers of rows take it too, but for those made for one


@dataclass(frozen=True)
class Product:
    """x -> (x * scale) W^T + b, where `scale` [in] are the weights of the norm before it, None for no norm.

    `laid_out` is W as oneDNN wants it, None where torch's own product reads W itself. In float32 it holds the scale
    too; a lower precision would round once more.
    """

    weight: Tensor  # [out, in]
    bias: Tensor | None
    scale: Tensor | None
    laid_out: Tensor | None

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor | None = None, *, scale: Tensor | None = None, lay_out: bool = False
    ) -> Product:
        """The product with a weight, laid out where that is asked for."""
        if not lay_out:
            return cls(weight, bias, scale, None)
        if scale is not None and weight.dtype == torch.float32:
            return cls(weight, bias, None, _laid_out(weight * scale))
        return cls(weight, bias, scale, _laid_out(weight))

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, in] -> [N, out]."""
        if self.scale is not None:
            x = x * self.scale
        if self.laid_out is None:
            return torch.nn.functional.linear(x, self.weight, self.bias)
        return _one_dnn(x, self.laid_out, self.bias)


@cache
def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """None where weights should be laid out for oneDNN, else the reason in a few words."""
    if device.type != "cpu":
        return f"is for CPUs, this is {device.type}"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch was built without oneDNN"
    x, weight, bias = (torch.linspace(-1, 1, size).view(shape).to(dtype) for size, shape in _PROBE)
    try:
        error = float((_one_dnn(x, _laid_out(weight), bias) - torch.nn.functional.linear(x, weight, bias)).abs().max())
    except (AttributeError, RuntimeError, NotImplementedError, TypeError) as fault:
        return f"{type(fault).__name__}: {str(fault).splitlines()[0][:120] if str(fault) else 'no message'}"
    return None if error < _TOLERANCE[dtype] else f"its probe is off by {error:.3g}"


_PROBE: Final = ((3 * 16, (3, 16)), (8 * 16, (8, 16)), (8, (8,)))
_TOLERANCE: Final = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}


def _laid_out(weight: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)  # noqa: SLF001 - the only door
    return out


def _one_dnn(x: Tensor, laid_out: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, laid_out, bias, "none", [], "")  # noqa: SLF001 - as above
    return out
