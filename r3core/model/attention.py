"""Attention over contiguous spans of one K/V cache, behind one interface with three implementations.

A packed forward holds pieces of several sequences. Every piece has queries, sees the `past` rows of its context and its
own rows (all of them, or causally), and either stores its K/V in the cache (contexts) or leaves no trace (noisy
latents). `choose` picks the implementation at start by a real probe call:
    xformers   CUDA, bf16/fp16: variable-length attention, no padding, no mask
    varlen     CUDA, bf16/fp16: torch.nn.attention.varlen, the same
    sdpa       everywhere: torch's scaled_dot_product_attention, one sequence at a time; on CPUs short pieces together
               (`padding`), for there a call costs more than what it computes
The two CUDA implementations were written against their libraries' documentation and have not been run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature
from itertools import accumulate
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from r3core.config import AttentionWanted
from r3core.errors import DeviceError
from r3core.model.padding import MOST_ROWS, PieceRows, Together, attend_short, together
from r3core.model.placing import to_device

_CPU: Final = torch.device("cpu")

AttentionName = Literal["xformers", "varlen", "sdpa"]


@dataclass(frozen=True)
class LayerCache:
    """One layer's K and V, each [cache rows, kv heads, head size]; a context is a contiguous span of rows."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Group:
    """Pieces that have one kind of mask, causal or full, as variable-length kernels want them, of a forward of `total`
    rows. Every layer sees the same group, so what follows from it is computed once and kept here.
    """

    causal: bool
    pieces: tuple[tuple[int, PieceRows], ...]  # (first row in sequence order, piece)
    total: int
    device: torch.device

    @cached_property
    def is_whole(self) -> bool:
        """Whether it holds every row of the forward, and so in sequence order."""
        return sum(self.queries) == self.total

    @cached_property
    def index(self) -> Tensor:
        """Their rows in sequence order, end to end."""
        rows = [np.arange(first, first + piece.rows) for first, piece in self.pieces]
        return to_device(np.concatenate(rows), self.device)

    @cached_property
    def queries(self) -> list[int]:
        """How many rows each piece has."""
        return [piece.rows for _, piece in self.pieces]

    @cached_property
    def keys(self) -> list[int]:
        """How many keys each piece sees."""
        return [piece.past + piece.rows for _, piece in self.pieces]

    @cached_property
    def most(self) -> tuple[int, int]:
        """Of one piece, the most rows and the most keys."""
        return max(self.queries), max(self.keys)

    @cached_property
    def query_starts(self) -> Tensor:
        """Piece i has rows query_starts[i] to query_starts[i + 1] of all of them: int32, [pieces + 1]."""
        return self._starts(self.queries)

    @cached_property
    def key_starts(self) -> Tensor:
        """And sees keys key_starts[i] to key_starts[i + 1] of all that they see."""
        return self._starts(self.keys)

    def _starts(self, lengths: list[int]) -> Tensor:
        return to_device(np.cumsum([0, *lengths], dtype=np.int32), self.device)

    def seen(self, k: Tensor, v: Tensor, cache: LayerCache) -> tuple[Tensor, Tensor]:
        """All that they see, end to end: [keys, K, D] twice. `k` and `v` are the forward's in sequence order. As many
        operations for many pieces as for two: there are as many pieces as texts are written, in each layer of each
        token.
        """
        if len(self.pieces) == 1:
            [(first, piece)] = self.pieces
            own = slice(first, first + piece.rows)
            return keys_and_values(piece, (k[own], v[own]), cache)
        kept, order = self._sources
        return self._gathered(k, cache.keys, kept, order), self._gathered(v, cache.values, kept, order)

    @cached_property
    def bias(self) -> Any:
        """The same in xformers' words."""
        from xformers.ops import fmha

        bias = fmha.attn_bias.BlockDiagonalMask.from_seqlens(self.queries, self.keys, device=self.device)
        return bias.make_causal_from_bottomright() if self.causal else bias

    @staticmethod
    def _gathered(own: Tensor, cached: Tensor, kept: Tensor | None, order: Tensor | None) -> Tensor:
        if kept is not None:
            past = cached.index_select(0, kept)
            if order is None:
                return past
            own = torch.cat((past, own))
        assert order is not None
        return own.index_select(0, order)

    @cached_property
    def _sources(self) -> tuple[Tensor | None, Tensor | None]:
        """The cache's rows that are seen (None: none are), and of those with the forward's own behind them the ones
        that the pieces see (None: it is the former, as they are).
        """
        kept = [np.arange(p.start, p.start + p.past + p.rows * p.stored) for _, p in self.pieces]
        ends = np.cumsum([0, *map(len, kept)])
        order = [
            rows
            for (first, piece), start, end in zip(self.pieces, ends[:-1], ends[1:], strict=True)
            for rows in (np.arange(start, end), ends[-1] + np.arange(first, first + piece.rows * (not piece.stored)))
        ]
        is_kept = all(piece.stored for _, piece in self.pieces)
        return (
            to_device(np.concatenate(kept), self.device) if ends[-1] else None,
            None if is_kept else to_device(np.concatenate(order), self.device),
        )


@dataclass(frozen=True)
class Packing:
    """The pieces of a packed forward, and where their rows are.

    `order` maps sequence order to packed order (None where they are the same). `stored_from` are the packed rows whose
    K/V are kept and `stored_to` the cache rows they go to (None where nothing is kept). Every layer sees the same
    packing, so what follows from it is computed once and kept here.
    """

    pieces: tuple[PieceRows, ...]
    order: Tensor | None
    stored_from: Tensor | None
    stored_to: Tensor | None
    device: torch.device = _CPU

    @cached_property
    def back(self) -> Tensor | None:
        """Packed order from sequence order."""
        return None if self.order is None else torch.argsort(self.order)

    @cached_property
    def padded(self) -> tuple[tuple[Together, ...], tuple[tuple[int, PieceRows], ...]]:
        """Pieces that are attended together, and (first row in sequence order, piece) of those that are not."""
        if self.device.type != "cpu":
            return (), self._by_first
        order = None if self.order is None else self.order.numpy()
        return together(self._by_first, order)

    @property
    def _by_first(self) -> tuple[tuple[int, PieceRows], ...]:
        firsts = accumulate((piece.rows for piece in self.pieces), initial=0)
        return tuple(zip(firsts, self.pieces, strict=False))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """A kernel call has one kind of mask, so full and causal pieces go in two calls (a single row is both)."""
        kinds: dict[bool, list[tuple[int, PieceRows]]] = {False: [], True: []}
        for first, piece in self._by_first:
            kinds[piece.causal and piece.rows > 1].append((first, piece))
        total = sum(piece.rows for piece in self.pieces)
        return tuple(Group(causal, tuple(own), total, self.device) for causal, own in kinds.items() if own)


class Attention(Protocol):
    """q [N, Q, D], k and v [N, K, D] in packed order -> [N, Q, D] in packed order; query head h reads kv head h //
    (Q/K).
    """

    name: AttentionName

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, packing: Packing) -> Tensor:
        """One layer's attention over a packed forward."""
        ...


def store(k: Tensor, v: Tensor, cache: LayerCache, packing: Packing) -> None:
    """Keep the K/V of stored pieces, all before any attention of this layer: pieces of one context may share a
    forward.
    """
    if packing.stored_to is None:
        return
    if packing.stored_from is not None:
        k, v = k[packing.stored_from], v[packing.stored_from]
    cache.keys.index_copy_(0, packing.stored_to, k)
    cache.values.index_copy_(0, packing.stored_to, v)


def keys_and_values(piece: PieceRows, own: tuple[Tensor, Tensor], cache: LayerCache) -> tuple[Tensor, Tensor]:
    """Everything a piece sees, [past + rows, K, D] twice: a view of the cache where its own rows are stored there."""
    end = piece.start + piece.past
    if piece.stored:
        span = slice(piece.start, end + piece.rows)
        return cache.keys[span], cache.values[span]
    if piece.past == 0:
        return own
    span = slice(piece.start, end)
    return torch.cat((cache.keys[span], own[0])), torch.cat((cache.values[span], own[1]))


class SdpaAttention:
    """scaled_dot_product_attention: exact in float32, and the way of CPUs."""

    name: AttentionName = "sdpa"

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, packing: Packing) -> Tensor:
        """One layer's attention over a packed forward."""
        store(k, v, cache, packing)
        shared, alone = packing.padded
        if len(shared) == 1 and not alone and shared[0].is_whole:
            return shared[0].attend(q, k, v, cache.keys, cache.values)
        if len(alone) == 1 and not shared and packing.order is None:
            return self._attend(q, *keys_and_values(alone[0][1], (k, v), cache), alone[0][1])
        out = torch.empty_like(q)
        for group in shared:
            out.index_copy_(0, group.rows, group.attend(q, k, v, cache.keys, cache.values))
        for first, piece in alone:
            own: Tensor | slice = slice(first, first + piece.rows)
            if packing.order is not None:
                own = packing.order[own]
            out[own] = self._attend(q[own], *keys_and_values(piece, (k[own], v[own]), cache), piece)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, piece: PieceRows) -> Tensor:
        if q.device == _CPU and piece.rows <= MOST_ROWS:
            return attend_short(q, k, v, causal=piece.causal)
        mask = None
        if piece.causal and piece.rows > 1 and piece.past:
            # Bottom-right: query i sees the past and its own rows 0 to i.
            mask = torch.ones(piece.rows, k.shape[0], dtype=torch.bool, device=q.device).tril(piece.past)
        out = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=piece.causal and piece.rows > 1 and not piece.past,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return out[0].transpose(0, 1)


class _VariableLength:
    """What both CUDA implementations share: pieces packed end to end, a kernel call for each kind of mask."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, packing: Packing) -> Tensor:
        """One layer's attention over a packed forward."""
        store(k, v, cache, packing)
        if packing.order is not None:
            q, k, v = (x.index_select(0, packing.order) for x in (q, k, v))
        out = None
        for group in packing.groups:
            seen = group.seen(k, v, cache)
            if group.is_whole:
                out = self._attend(q, *seen, group)
                break
            out = torch.empty_like(q) if out is None else out
            out.index_copy_(0, group.index, self._attend(q.index_select(0, group.index), *seen, group))
        assert out is not None
        return out if packing.back is None else out.index_select(0, packing.back)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
        raise NotImplementedError


class VarlenAttention(_VariableLength):
    """torch.nn.attention.varlen: flash attention over cumulative lengths; causal is aligned bottom-right."""

    name: AttentionName = "varlen"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        shared: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]} if _knows_shared_heads(varlen_attn) else {}
        out = varlen_attn(
            q,
            k,
            v,
            group.query_starts,
            group.key_starts,
            *group.most,
            window_size=(-1, 0) if group.causal else (-1, -1),
            **shared,
        )
        assert isinstance(out, Tensor)
        return out


@cache
def _knows_shared_heads(kernel: Callable[..., Any]) -> bool:
    """Whether torch has a word for query heads that share a kv head: before 2.12 it has none, and asks none."""
    return "enable_gqa" in signature(kernel).parameters


class XformersAttention(_VariableLength):
    """xformers' memory-efficient attention with block-diagonal biases; heads in groups for shared kv heads."""

    name: AttentionName = "xformers"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
        from xformers.ops import fmha

        groups = k.shape[1]
        shape = (1, q.shape[0], groups, q.shape[1] // groups, q.shape[2])
        spread = (1, k.shape[0], groups, q.shape[1] // groups, k.shape[2])
        out: Tensor = fmha.memory_efficient_attention_forward(
            q.reshape(shape),
            k[None, :, :, None].expand(spread),
            v[None, :, :, None].expand(spread),
            attn_bias=group.bias,
        )
        return out.reshape(q.shape)


@dataclass(frozen=True)
class Choice:
    """The implementation that was chosen, and why, for the log and for `r3 doctor`."""

    attention: Attention
    reason: str


def choose(
    device: torch.device, dtype: torch.dtype, wanted: AttentionWanted = "auto", heads: tuple[int, int, int] = (4, 2, 64)
) -> Choice:
    """The best implementation that passes a probe on this device; a wanted one that fails is a DeviceError.

    `heads` are the model's: query heads, kv heads and the size of each. A kernel may have some and not others.
    """
    if wanted == "sdpa":
        return Choice(SdpaAttention(), "asked for")
    candidates: tuple[Attention, ...] = (XformersAttention(), VarlenAttention())
    notes: list[str] = []
    for candidate in (c for c in candidates if wanted in ("auto", c.name)):
        fault = _probe(candidate, device, dtype, heads)
        if fault is None:
            return Choice(candidate, "; ".join([*notes, f"{candidate.name} passed its probe"]))
        notes.append(f"{candidate.name}: {fault}")
    if wanted != "auto":
        raise DeviceError(f"attention {wanted!r} does not work here ({'; '.join(notes)}); use auto or sdpa")
    return Choice(SdpaAttention(), "; ".join(notes))


# The stored pieces first. A text and a picture; and two texts that write a token each, for kernels have code of its own
# for single rows.
_PROBED: Final = (
    (PieceRows(0, 3, 4, causal=True, stored=True), PieceRows(7, 2, 5, causal=False, stored=False)),
    (PieceRows(0, 5, 1, causal=True, stored=True), PieceRows(8, 3, 1, causal=True, stored=True)),
)


def _probe(candidate: Attention, device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> str | None:
    """None where small calls agree with `sdpa`, else what went wrong in a few words."""
    if device.type != "cuda":
        return f"needs CUDA, this is {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"needs bf16 or fp16, this is {dtype}"
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    query, shared, size = heads
    rows = torch.randn((9, query + 2 * shared, size), dtype=dtype).to(device)
    q, k, v = rows.split_with_sizes((query, shared, shared), 1)  # views with gaps, as the model's are
    ck, cv = (torch.randn((16, shared, size), dtype=dtype).to(device) for _ in range(2))
    torch.random.set_rng_state(torch_state)
    error = 0.0
    try:
        for pieces in _PROBED:
            own = slice(0, sum(piece.rows for piece in pieces))
            to = [np.arange(p.start + p.past, p.start + p.past + p.rows) for p in pieces if p.stored]
            stored = np.concatenate(to)
            packing = Packing(pieces, None, torch.arange(len(stored), device=device), to_device(stored, device), device)
            asked = q[own], k[own], v[own]
            got = candidate(*asked, LayerCache(ck.clone(), cv.clone()), packing)
            expected = SdpaAttention()(*asked, LayerCache(ck.clone(), cv.clone()), packing)
            error = max(error, float((got - expected).abs().max()))
    except (ImportError, RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError) as fault:
        return f"{type(fault).__name__}: {str(fault).splitlines()[0][:120] if str(fault) else 'no message'}"
    return None if error < 0.05 else f"its probe differs from sdpa by {error:.3g}"
