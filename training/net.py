"""The model as training runs it: r3core's own modules over a padded batch, with one mask for everything.

A sample is a list of segments in the order of its context: texts (causal), pictures as patches or as latents, and at
most one block of noisy latents, which nothing else sees. Rows of the understanding expert lie in one tensor, those of
the drawing expert in another, as in a packed forward; order lives in the mask and in the rope positions alone, so no
row is ever moved. tests/training holds this forward against the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from r3core.model.bagel import Bagel
from r3core.model.layers import Expert, rotate

NO_SEGMENT: Final = -1  # padding


@dataclass(frozen=True)
class Layout:
    """Where B samples' rows stand, each [B, U + G]: the understanding expert's U rows first, then the drawing
    expert's G.

    `segment` is the place of a row's segment in its context (NO_SEGMENT for padding), `index` its place in the segment,
    `causal` whether the segment is a text, `noise` whether it is the noisy block, `unseen` whether the noisy block must
    not see the row (guidance without text), `position` its rope position.
    """

    segment: Tensor
    index: Tensor
    causal: Tensor
    noise: Tensor
    unseen: Tensor
    position: Tensor

    def to(self, device: torch.device) -> Layout:
        """The same on `device`."""
        return Layout(*(getattr(self, column.name).to(device) for column in fields(self)))

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[B, 1, L, L] to add to attention's logits: 0 where row i sees row j, very low elsewhere."""
        seg_i, seg_j = self.segment[:, :, None], self.segment[:, None, :]
        own = (seg_i == seg_j) & (~self.causal[:, :, None] | (self.index[:, None, :] <= self.index[:, :, None]))
        sees = ((seg_j < seg_i) & ~self.noise[:, None, :]) | own
        sees &= ~(self.noise[:, :, None] & self.unseen[:, None, :])
        sees &= (seg_j != NO_SEGMENT) | (seg_i == NO_SEGMENT)
        return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -3e4)[:, None]


def forward(bagel: Bagel, und: Tensor, gen: Tensor | None, layout: Layout) -> tuple[Tensor, Tensor | None]:
    """Rows und [B, U, H] and gen [B, G, H] or None through all layers, before the final norms."""
    cos, sin = (table[layout.position][:, :, None, :] for table in bagel.rope)
    mask = layout.mask(und.dtype)
    for experts in bagel.experts:
        und, gen = _layer(experts, und, gen, (cos, sin), mask, bagel.config.decoder.kv_heads)
    return und, gen


def _layer(
    experts: tuple[Expert, Expert],
    und: Tensor,
    gen: Tensor | None,
    rope: tuple[Tensor, Tensor],
    mask: Tensor,
    kv_heads: int,
) -> tuple[Tensor, Tensor | None]:
    parts = [_project(experts[0], und)] + ([] if gen is None else [_project(experts[1], gen)])
    q, k, v = (torch.cat([p[i] for p in parts], dim=1) for i in range(3))
    mixed = _attend(rotate_rows(q, rope), rotate_rows(k, rope), v, mask, kv_heads)
    split = und.shape[1]
    und = _finish(experts[0], und, mixed[:, :split])
    return und, None if gen is None else _finish(experts[1], gen, mixed[:, split:])


def rotate_rows(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rope on [B, L, heads, D]."""
    return rotate(x, *rope)


def _project(expert: Expert, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    normed = expert.input_norm(x)
    weight = expert.q_norm.weight
    assert isinstance(weight, Tensor)
    shape = (*x.shape[:2], -1, weight.shape[0])
    return (
        expert.q_norm(expert.q(normed).view(shape)),
        expert.k_norm(expert.k(normed).view(shape)),
        expert.v(normed).view(shape),
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, kv_heads: int) -> Tensor:
    """Plain attention in the model's dtype: on CPUs several times faster in bf16 than torch's kernel with a mask.

    q [B, L, Q, D], k and v [B, L, K, D] -> [B, L, Q * D].
    """
    batch, rows, heads, size = q.shape
    group = heads // kv_heads
    qs = q.view(batch, rows, kv_heads, group, size).permute(0, 2, 3, 1, 4).reshape(batch * kv_heads, group * rows, size)
    ks, vs = (t.transpose(1, 2).reshape(batch * kv_heads, rows, size) for t in (k, v))
    scores = torch.bmm(qs, ks.transpose(1, 2)).view(batch, heads, rows, rows) * size**-0.5 + mask
    shares = scores.softmax(-1).view(batch * kv_heads, group * rows, rows)
    mixed = torch.bmm(shares, vs).view(batch, kv_heads, group, rows, size)
    return mixed.permute(0, 3, 1, 2, 4).reshape(batch, rows, heads * size)


def _finish(expert: Expert, x: Tensor, mixed: Tensor) -> Tensor:
    x = x + expert.o(mixed)
    out: Tensor = x + expert.mlp(expert.post_norm(x))
    return out
