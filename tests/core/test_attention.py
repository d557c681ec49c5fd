"""Attention against its definition: what each row sees, shared kv heads, what is stored; and how one is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from r3core.errors import DeviceError
from r3core.model.attention import (
    Attention,
    AttentionName,
    Group,
    LayerCache,
    Packing,
    SdpaAttention,
    VarlenAttention,
    _VariableLength,
    choose,
)
from r3core.model.padding import PieceRows

HEAD = 8
ROOM = 16  # cache rows of each context


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, past: int) -> Tensor:
    """The definition, row by row and head by head: q [n, Q, D] over k, v [past + n, K, D]."""
    out = torch.empty_like(q)
    groups = q.shape[1] // k.shape[1]
    for row in range(q.shape[0]):
        seen = past + row + 1 if causal else k.shape[0]
        for head in range(q.shape[1]):
            keys, values = k[:seen, head // groups], v[:seen, head // groups]
            weights = (keys @ q[row, head] / math.sqrt(q.shape[2])).softmax(0)
            out[row, head] = weights @ values
    return out


@dataclass(frozen=True)
class Kind:
    """A piece of a context of its own."""

    past: int
    rows: int
    causal: bool
    stored: bool


kinds = st.lists(
    st.builds(Kind, st.integers(0, 5), st.integers(1, 5), st.booleans(), st.booleans()), min_size=1, max_size=6
)


class ByStarts(_VariableLength):
    """A variable-length kernel's work from its arguments alone, where there is no kernel."""

    name: AttentionName = "varlen"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
        queries, keys = (list(pairwise(starts.tolist())) for starts in (group.query_starts, group.key_starts))
        assert (queries[-1][1], keys[-1][1]) == (q.shape[0], k.shape[0])
        assert [end - first for first, end in queries] == group.queries
        assert [end - first for first, end in keys] == group.keys
        out = torch.empty_like(q)
        for (first, end), (first_key, end_key) in zip(queries, keys, strict=True):
            seen = slice(first_key, end_key)
            past = (end_key - first_key) - (end - first)  # bottom-right
            out[first:end] = softmax_attention(q[first:end], k[seen], v[seen], causal=group.causal, past=past)
        return out


@pytest.mark.parametrize("attention", [SdpaAttention(), ByStarts()], ids=["sdpa", "variable length"])
@settings(max_examples=50)
@given(kinds, st.sampled_from([(2, 2), (4, 2), (4, 1)]))
def test_every_piece_sees_its_past_and_its_own_rows(
    attention: Attention, kinds: list[Kind], heads: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    total = sum(kind.rows for kind in kinds)
    q, (k, v) = torch.randn(total, heads[0], HEAD), torch.randn(2, total, heads[1], HEAD)
    order = torch.randperm(total)
    keys, values = torch.randn(2, ROOM * len(kinds), heads[1], HEAD)
    pieces = tuple(PieceRows(ROOM * i, x.past, x.rows, x.causal, x.stored) for i, x in enumerate(kinds))
    cache, expected = LayerCache(keys.clone(), values.clone()), torch.empty_like(q)
    first, stored_from, stored_to = 0, [], []
    for piece in pieces:
        packed = order[first : first + piece.rows]  # where the rows of this piece lie
        past = slice(piece.start, piece.start + piece.past)
        seen_k, seen_v = torch.cat((keys[past], k[packed])), torch.cat((values[past], v[packed]))
        expected[packed] = softmax_attention(q[packed], seen_k, seen_v, causal=piece.causal, past=piece.past)
        if piece.stored:
            stored_from.append(packed)
            stored_to.append(torch.arange(past.stop, past.stop + piece.rows))
        first += piece.rows
    stores = (torch.cat(stored_from), torch.cat(stored_to)) if stored_to else (None, None)
    out = attention(q, k, v, cache, Packing(pieces, order, *stores))
    assert torch.allclose(out, expected, atol=1e-5)
    kept = keys.clone(), values.clone()
    if stores[0] is not None and stores[1] is not None:
        kept[0][stores[1]], kept[1][stores[1]] = k[stores[0]], v[stores[0]]
    assert torch.equal(cache.keys, kept[0])
    assert torch.equal(cache.values, kept[1])


def test_pieces_of_one_context_may_share_a_forward() -> None:
    """A picture and the text behind it, in one call or in two: the text sees the picture either way."""
    torch.manual_seed(1)
    q, (k, v) = torch.randn(7, 4, HEAD), torch.randn(2, 7, 2, HEAD)
    picture, text = PieceRows(0, 0, 4, causal=False, stored=True), PieceRows(0, 4, 3, causal=True, stored=True)
    together, apart = (LayerCache(torch.zeros(ROOM, 2, HEAD), torch.zeros(ROOM, 2, HEAD)) for _ in range(2))
    one = SdpaAttention()(q, k, v, together, Packing((picture, text), None, None, torch.arange(7)))
    head = SdpaAttention()(q[:4], k[:4], v[:4], apart, Packing((picture,), None, None, torch.arange(4)))
    tail = SdpaAttention()(q[4:], k[4:], v[4:], apart, Packing((text,), None, None, torch.arange(4, 7)))
    assert torch.allclose(one, torch.cat((head, tail)), atol=1e-6)
    assert torch.equal(together.keys, apart.keys)


def test_what_every_layer_needs_is_counted_once_a_forward() -> None:
    text, picture = PieceRows(0, 4, 3, causal=True, stored=True), PieceRows(7, 0, 2, causal=False, stored=False)
    pieces = (text, picture, PieceRows(9, 5, 1, causal=True, stored=True))
    packing = Packing(pieces, torch.arange(6), torch.arange(4), torch.arange(4))
    full, causal = packing.groups
    assert packing.groups is packing.groups
    assert packing.back is packing.back
    assert (full.causal, full.index.tolist()) == (False, [3, 4, 5])  # a single row is both, and goes with the full ones
    assert (full.query_starts.tolist(), full.key_starts.tolist()) == ([0, 2, 3], [0, 2, 8])
    assert (causal.causal, causal.index.tolist(), causal.key_starts.tolist()) == (True, [0, 1, 2], [0, 7])
    assert {starts.dtype for starts in (full.query_starts, causal.key_starts)} == {torch.int32}


@pytest.mark.parametrize("stored", [True, False], ids=["texts", "pictures"])
def test_a_layer_does_as_much_for_many_pieces_as_for_two(stored: bool) -> None:
    """There are as many as texts are written; in each of 28 layers the host would ask for four tensors of each."""

    class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    class Nothing(_VariableLength):
        name: AttentionName = "varlen"

        def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
            return q

    counts = []
    for number in (2, 16):
        pieces = tuple(PieceRows(ROOM * i, 5, 1, causal=True, stored=stored) for i in range(number))
        q, (k, v) = torch.randn(number, 4, HEAD), torch.randn(2, number, 2, HEAD)
        cache = LayerCache(torch.zeros(ROOM * number, 2, HEAD), torch.zeros(ROOM * number, 2, HEAD))
        packing = Packing(pieces, None, None, torch.arange(5, ROOM * number, ROOM) if stored else None)
        Nothing()(q, k, v, cache, packing)  # what is kept for every layer
        with Counted() as counted:  # type: ignore[no-untyped-call]
            Nothing()(q, k, v, cache, packing)
        counts.append(counted.count)
    assert counts[0] == counts[1] <= 6


def test_what_is_not_stored_leaves_no_trace() -> None:
    cache = LayerCache(torch.ones(ROOM, 2, HEAD), torch.ones(ROOM, 2, HEAD))
    noisy = PieceRows(0, 4, 3, causal=False, stored=False)
    q, (k, v) = torch.randn(3, 4, HEAD), torch.randn(2, 3, 2, HEAD)
    SdpaAttention()(q, k, v, cache, Packing((noisy,), None, None, None))
    assert torch.equal(cache.keys, torch.ones(ROOM, 2, HEAD))
    assert torch.equal(cache.values, torch.ones(ROOM, 2, HEAD))


def test_on_a_cpu_sdpa_is_chosen_and_the_reason_names_the_others() -> None:
    choice = choose(torch.device("cpu"), torch.float32)
    assert choice.attention.name == "sdpa"
    assert "xformers: needs CUDA, this is cpu" in choice.reason
    assert "varlen: needs CUDA, this is cpu" in choice.reason
    assert choose(torch.device("cpu"), torch.float32, "sdpa").reason == "asked for"


@pytest.mark.parametrize(("knows", "told"), [(True, {"enable_gqa": True}), (False, {})])
def test_torch_is_told_of_shared_heads_where_it_has_a_word_for_them(
    knows: bool, told: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 2.12 it has none, and what it does not know would have every text fall back to `sdpa`."""
    heard: list[dict[str, Any]] = []

    def older(*tensors: Tensor, window_size: tuple[int, int]) -> Tensor:
        heard.append({})
        return tensors[0]

    def newer(*tensors: Tensor, window_size: tuple[int, int], enable_gqa: bool = False) -> Tensor:
        heard.append({"enable_gqa": enable_gqa})
        return tensors[0]

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", newer if knows else older)
    q, (k, v) = torch.randn(3, 4, HEAD), torch.randn(2, 3, 2, HEAD)
    cache = LayerCache(torch.zeros(8, 2, HEAD), torch.zeros(8, 2, HEAD))
    VarlenAttention()(q, k, v, cache, Packing((PieceRows(0, 0, 3, causal=True, stored=False),), None, None, None))
    assert heard == [told]


@pytest.mark.parametrize("wanted", ["xformers", "varlen"])
def test_an_implementation_that_cannot_work_here_is_refused_with_the_remedy(wanted: AttentionName) -> None:
    with pytest.raises(DeviceError, match=rf"attention '{wanted}' does not work here.*use auto or sdpa"):
        choose(torch.device("cpu"), torch.float32, wanted)
