"""Muon for the matrices of layers, Adam for the rest; float32 masters of bf16 weights, and a moving average of them.

Muon (Jordan 2024) takes a step along the nearest orthogonal matrix to the momentum, by five Newton-Schulz iterations;
matrices of one shape go through them together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearly orthogonal factors of [n, rows, columns], in bf16."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(iterations):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = a * x + torch.bmm(b * gram + c * torch.bmm(gram, gram), x)
    out: Tensor = (x.transpose(1, 2) if tall else x).float()
    return out


class Optimiser:
    """Steps float32 masters and writes them back to the model's parameters."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], lr: float, average: float = 0.998) -> None:
        self.lr, self._average, self._steps = lr, average, 0
        self._parameters = [(n, p) for n, p in named if p.requires_grad]
        self._masters = {n: p.detach().float().clone() for n, p in self._parameters}
        self.averaged = {n: m.clone() for n, m in self._masters.items()}
        self._first = {n: torch.zeros_like(m) for n, m in self._masters.items()}
        self._is_muon = {n: _is_matrix(n, p) for n, p in self._parameters}
        self._second = {n: torch.zeros_like(m) for n, m in self._masters.items() if not self._is_muon[n]}
        self._groups: dict[torch.Size, list[str]] = defaultdict(list)
        for n, p in self._parameters:
            if self._is_muon[n]:
                self._groups[p.shape].append(n)

    def gradients(self) -> Tensor:
        """All gradients end to end in float32, for one all-reduce; a parameter without one counts as zero."""
        return torch.cat(
            [
                torch.zeros(p.numel(), device=p.device) if p.grad is None else p.grad.float().flatten()
                for _, p in self._parameters
            ]
        )

    def step(self, gradients: Tensor, scale: float) -> None:
        """One step along `gradients` (as `gradients()` gives them) at `scale` times the learning rate."""
        self._steps += 1
        norm = float(gradients.norm())
        gradients = gradients * min(1.0, 1.0 / (norm + 1e-6))
        parts = dict(
            zip(
                self._masters,
                (
                    g.view(m.shape)
                    for g, m in zip(torch.split(gradients, self._sizes()), self._masters.values(), strict=True)
                ),
                strict=True,
            )
        )
        lr = self.lr * scale
        for names in self._groups.values():
            self._muon(names, parts, lr)
        for name, is_muon in self._is_muon.items():
            if not is_muon:
                self._adam(name, parts[name], 0.5 * lr)
        decay = min(self._average, 1 - 1 / (self._steps + 1))
        with torch.no_grad():
            for name, parameter in self._parameters:
                parameter.copy_(self._masters[name])
                parameter.grad = None
                self.averaged[name].lerp_(self._masters[name], 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "steps": self._steps,
            "masters": self._masters,
            "averaged": self.averaged,
            "first": self._first,
            "second": self._second,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a stored state."""
        self._steps = state["steps"]
        for mine, stored in (
            (self._masters, state["masters"]),
            (self.averaged, state["averaged"]),
            (self._first, state["first"]),
            (self._second, state["second"]),
        ):
            for name, value in mine.items():
                value.copy_(stored[name])
        with torch.no_grad():
            for name, parameter in self._parameters:
                parameter.copy_(self._masters[name])

    def _sizes(self) -> list[int]:
        return [m.numel() for m in self._masters.values()]

    def _muon(self, names: list[str], parts: dict[str, Tensor], lr: float) -> None:
        for name in names:
            self._first[name].mul_(0.95).add_(parts[name])
        nesterov = torch.stack([parts[n] + 0.95 * self._first[n] for n in names])
        steps = orthogonalised(nesterov)
        size = 0.2 * max(steps.shape[1:]) ** 0.5
        for name, step in zip(names, steps, strict=True):
            self._masters[name].mul_(1 - 0.01 * lr).add_(step, alpha=-lr * size)

    def _adam(self, name: str, gradient: Tensor, lr: float) -> None:
        first, second = self._first[name], self._second[name]
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.02)
        corrected = first / (1 - 0.9**self._steps)
        length = (second / (1 - 0.98**self._steps)).sqrt_().add_(1e-8)
        self._masters[name].addcdiv_(corrected, length, value=-lr)


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Matrices inside layers; embeddings, heads and tables are Adam's."""
    return parameter.ndim == 2 and ".layers." in name
